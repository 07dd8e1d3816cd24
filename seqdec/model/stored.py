"""Stored tensors, and the weights that they stand for: what a checkpoint holds is looked at, not believed.

    q_proj.weight (float8), q_proj.weight_scale_inv  ->  q_proj.weight (float32), or a refusal

A model that was loaded forgets how it was stored: it is saved as the float32 weights that it has.
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from seqdec import storage
from seqdec.errors import DataError, UsageError, in_words
from seqdec.model.composite import Loader

READABLE = ("fp8", "mxfp8", "mxfp4")  # which transformers turns into plain weights, with nothing else installed
PLAIN = ("F64", "F32", "F16", "BF16")
INDEX = "model.safetensors.index.json"
# masks and frequencies that were stored beside the weights of GPT-2, GPT-J, GPT-Neo, CodeGen and others long ago
_NO_WEIGHT = re.compile(r"(attn|attention)\.(masked_)?bias$|causal_mask$|inv_freq$")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "encoder_layers", "decoder_layers")
_MOST_TIMES = 4  # weights that are used twice are stored once
_FREE_ENTRIES = 2**23
_FREE_BUFFERS = 2**27  # bytes: masks and tables of positions are worked out, not stored
_BASE_MODEL = re.compile(r"^base_model:\s*(?:-\s*)?(\S+)", re.MULTILINE)  # in a model card


@dataclass(frozen=True)
class Stored:
    """How many tensors a checkpoint holds, and the most numbers that they can be."""

    num_tensors: int
    num_entries: int


def check_stored(folder: Path, config: PretrainedConfig, name: str) -> Stored:
    """Refuse tensors that cannot be turned into weights, and ask for plain weights where they can.

    Raises:
        DataError: there are no safetensors, they are damaged, or weights of few bits lack their scale.
        UsageError: they are quantized in a way that is not read.
    """
    if (folder / storage.MANIFEST).exists():
        storage.verify(folder)
    quantization = config.to_dict().get("quantization_config") or {}
    method = str(quantization.get("quant_method")).rpartition(".")[2].lower()
    if quantization and method not in READABLE:
        raise UsageError(
            f"{name!r} is quantized ({storage.plain_text(method)}), and quantized weights are not trained: use the "
            f"plain model that it was made from{_plain_model(folder)}"
        )
    tensors = list(_tensors(folder, name))
    leaves, dtypes = defaultdict[str, list[str]](list), {key: dtype for key, dtype, _ in tensors}
    for key in dtypes:
        module, _, leaf = key.rpartition(".")
        leaves[module].append(leaf)
    for key, dtype in dtypes.items():
        module, _, leaf = key.rpartition(".")
        is_weight = leaf == "weight" or dtype[:2] in ("F8", "F4")
        if dtype in PLAIN or not is_weight or "scale" in leaf:
            continue
        if not quantization or not any(_is_scale_of(leaf, other) for other in leaves[module]):
            kind = {"F8": "float8", "F4": "float4"}.get(dtype[:2], "whole-number")
            raise DataError(
                f"{name!r} has {kind} weights without their scale, the first is {storage.plain_text(key)!r}: what they "
                "stood for is lost; use the plain model"
            )
    if quantization:
        config.quantization_config = {**quantization, "quant_method": method, "dequantize": True}
    # whole numbers can be two of four bits each
    num_entries = sum(math.prod(shape) * (1 if dtype in PLAIN else 2) for _, dtype, shape in tensors)
    return Stored(len(tensors), num_entries)


def check_declared(config: PretrainedConfig, stored: Stored, loader: Loader, name: str) -> None:
    """Refuse an architecture that is far larger than what is stored of it, before it takes memory.

    Raises:
        DataError: it has more layers than there are tensors, or more numbers than what is stored can be.
    """
    for key, value in _numbers_of(config.to_dict()):
        if key in _LAYERS and value > stored.num_tensors:
            raise DataError(f"{name!r} declares {key} {value}, {stored.num_tensors} tensors are stored: it is not read")
    with torch.device("meta"), no_init_weights():
        model = loader.from_config(config)
    num_entries = sum(tensor.numel() for tensor in model.parameters())
    num_bytes = sum(tensor.nbytes for tensor in model.buffers())
    most = _MOST_TIMES * stored.num_entries
    if num_entries > most + _FREE_ENTRIES or num_bytes > most + _FREE_BUFFERS:
        raise DataError(
            f"{name!r} declares {num_entries} numbers and {num_bytes} bytes of tables, {stored.num_entries} numbers "
            "are stored: it is not read"
        )


def check_loaded(model: PreTrainedModel, info: Mapping[str, Collection[object]], name: str) -> None:
    """Refuse a model whose weights are not those of its checkpoint, all of them.

    Args:
        model: as it was loaded.
        info: what transformers says of the loading.
        name: what the user calls it.

    Raises:
        DataError: tensors are missing, are not known to the architecture, or are not finite.
    """
    missing = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
    if missing:
        raise DataError(
            f"{name!r} lacks {len(missing)} tensors of its architecture, the first is {missing[0]!r}: "
            "they would have been random"
        )
    modules = dict(model.named_modules())
    unknown = sorted(str(key) for key in info["unexpected_keys"] if _is_inside(str(key), model, modules))
    if unknown:
        raise DataError(
            f"{name!r} holds {len(unknown)} tensors that its architecture does not know, the first is "
            f"{storage.plain_text(unknown[0])!r}: without them it would be another model"
        )
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError(f"tensor {key!r} of {name!r} is not finite")


def forget_storage(model: PreTrainedModel) -> None:
    """Let a model be saved as the weights that it has, however they were stored."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            for attribute in ("_weight_conversions", "hf_quantizer", "quantization_method", "is_quantized"):
                vars(module).pop(attribute, None)
            vars(module.config).pop("quantization_config", None)


def _numbers_of(written: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    """Return the whole numbers of a configuration, and of those in it."""
    for key, value in written.items():
        if isinstance(value, int):
            yield key, value
        elif isinstance(value, dict):
            yield from _numbers_of(value)


def _tensors(folder: Path, name: str) -> Iterator[tuple[str, str, list[int]]]:
    """Return name, type and shape of every tensor that a folder holds."""
    files = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).exists():
        weight_map = storage.read_json(folder / INDEX).get("weight_map", {})
        files = [folder / str(file) for file in sorted({*weight_map.values()})]
    elif (folder / "model.safetensors").exists():
        files = [folder / "model.safetensors"]
    if not files:
        raise DataError(f"no .safetensors weights in {folder}: other formats are not read, they can run code")
    for file in files:
        if file.parent != folder:
            raise DataError(f"{folder} refers to {storage.plain_text(str(file))!r}, which is not a file in it")
        try:
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118
                    part = tensors.get_slice(key)
                    yield key, part.get_dtype(), part.get_shape()
        except (OSError, SafetensorError) as error:
            raise DataError(f"cannot load the weights of {name!r}: {in_words(error)}{storage.advice(file)}") from error


def _is_scale_of(leaf: str, other: str) -> bool:
    is_scale = "scale" in other and not other.startswith(("input", "activation"))
    return is_scale and (leaf == "weight" or other.startswith(leaf))


def _is_inside(key: str, model: PreTrainedModel, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether a tensor belongs to a module that the model has: no head, and no further layer."""
    if _NO_WEIGHT.search(key):
        return False
    if key.partition(".")[0] not in modules:  # stored with a head, loaded without
        key = key.removeprefix(f"{model.base_model_prefix}.")
    path = key.rpartition(".")[0]
    while path not in modules:
        path = path.rpartition(".")[0]
    return not isinstance(modules[path], (PreTrainedModel, nn.ModuleList))


def _plain_model(folder: Path) -> str:
    """Return the name of the model that a quantized one was made from, where its card says so."""
    card = folder / "README.md"
    line = _BASE_MODEL.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    return f", {storage.plain_text(line[1])!r}" if line else ""

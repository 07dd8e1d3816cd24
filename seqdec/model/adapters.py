"""LoRA: small trainable matrices beside every linear layer (Hu et al. 2021), saved without the weights under them."""

import copy
import hashlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from seqdec import storage
from seqdec.errors import UsageError
from seqdec.hub import quietly

if TYPE_CHECKING:
    from peft import PeftModel


def _import_peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise UsageError('LoRA needs peft: pip install "seqdec[lora]"') from error
    return peft


def add_adapters(model: PreTrainedModel, rank: int) -> "PeftModel":
    """Return a model with new adapters, which alone are trained."""
    peft = _import_peft()
    with quietly():
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    # peft would write this machine's folder into the adapter; source.json says how to make the base
    adapted.peft_config["default"].base_model_name_or_path = None
    return adapted


def read_adapters(folder: Path, base: PreTrainedModel, *, merge: bool) -> "PreTrainedModel | PeftModel":
    """Return the base with a folder's adapters, as they are or added to its weights.

    Raises:
        DataError: the adapters are damaged or not finite.
    """
    peft = _import_peft()
    storage.read_tensors(folder / "adapter_model.safetensors")
    with quietly():
        model = peft.PeftModel.from_pretrained(base, folder, is_trainable=not merge)
    return model.merge_and_unload() if merge else model


def merged(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """Return a model whose adapters are added to its weights: a copy, unless it has none."""
    return model if isinstance(model, PreTrainedModel) else copy.deepcopy(model).merge_and_unload()


def base_fingerprint(model: nn.Module) -> str:
    """Return a hash of the weights below adapters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "lora_" not in name:
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

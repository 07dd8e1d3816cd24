"""Gradient checkpointing: what happens inside a layer is not kept for the backward pass, but computed again (Chen et
al. 2016, "Training Deep Nets with Sublinear Memory Cost").

Losses and gradients are the same bits. A layer then keeps what it was given and nothing else. The last layer keeps all,
because it is computed only where its states are read (`shortcuts`); so does the one above frozen layers, which is given
what was kept of them (`lower`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from seqdec.errors import UsageError
from seqdec.model.backbone import Backbone
from seqdec.model.probes import layers_of


@contextmanager
def recomputing(backbone: Backbone) -> Iterator[None]:
    """Let a backbone compute its layers again for a while instead of keeping their states, as far as it is training.

    Raises:
        UsageError: its layers are of a kind that transformers does not compute again.
    """
    layers = _inner_layers(backbone)
    for layer in layers:
        if not isinstance(layer, GradientCheckpointingLayer):
            raise UsageError(
                f"the layers of {backbone.source.name!r} cannot be computed again: leave gradient_checkpointing out",
                option="gradient_checkpointing",
            )
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # pyright: ignore
        layer.gradient_checkpointing = True  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = False  # pyright: ignore[reportArgumentType]


def _inner_layers(backbone: Backbone) -> list[nn.Module]:
    """Return the layers in which something learns, but for the ends."""
    layers = layers_of(backbone.decoder, backbone.decoder.config.num_hidden_layers) or nn.ModuleList()
    learning = [layer for layer in layers if any(parameter.requires_grad for parameter in layer.parameters())]
    return learning[1 if backbone.lower is not None else 0 : -1]

"""The states that a model reads in windows, as training does."""

from collections.abc import Mapping

import torch
from torch import Tensor

from seqdec.model.packed import pack_window
from seqdec.model.sequence_model import SequenceModel


def states_before(model: SequenceModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state just before each slot of every predicted variable, [B, K, D], by name."""
    layout, num_timesteps = model.layout, batch["mask"].shape[1]
    positions = {name: layout.positions(name)[:num_timesteps] for name in layout.predicted}
    with torch.no_grad():
        if not layout.has_words:
            states = model.backbone_source.read(model.embed_window(batch))
            return {name: states[:, own - 1] for name, own in positions.items()}
        window = pack_window(model, batch)
        states = model.backbone_source.read(window.tokens)
        rows = torch.arange(len(states))[:, None]
        return {name: states[rows, window.slots.begins[:, own] - 1] for name, own in positions.items()}

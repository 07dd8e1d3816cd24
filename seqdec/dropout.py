"""Dropout whose masks are cut from raw random bits: the same function as `torch.nn.Dropout`, cheaper on a CPU.

There torch draws a random number for each entry; a mask needs 16 bits of one. Elsewhere torch's own kernel is used.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 1 << 16  # the probability is rounded to one of so many; scaling makes up for it exactly


class BitDropout(nn.Dropout):
    """Zeroes entries at random while training and scales the others, so that the mean stays.

    Example:
        >>> BitDropout(0.1).eval()(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the entries [...] that are kept, scaled."""
        dropped = round(self.p * LEVELS)
        if not self.training or dropped == 0:
            return input
        if input.device.type != "cpu" or dropped == LEVELS:
            return F.dropout(input, self.p)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)
        kept = (bits >= dropped - LEVELS // 2).to(input.dtype)
        return input * kept.mul_(LEVELS / (LEVELS - dropped))


def use_bits(model: nn.Module) -> None:
    """Replace a model's dropout modules in place."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, BitDropout(child.p).train(child.training))

"""A function of tensors, recorded once and replayed without its Python.

Acting is many short passes: there Python costs more than the arithmetic. `torch.jit.trace` notes which operations a
function of a module calls, and replays them for any number of sequences and tokens. What was recorded is tried out on
examples of several shapes; where it does not give the same, or could not, the function itself is called.
"""

import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seqdec.hub import quietly

logger = logging.getLogger(__name__)
Function = Callable[..., Tensor]


class _Call(nn.Module):
    """A module whose forward is a function of another module, so that its parameters stay its own."""

    def __init__(self, module: nn.Module, function: Function):
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


def record(module: nn.Module, function: Function, examples: Sequence[tuple[Tensor, ...]]) -> Function:
    """Return a quicker function that does the same, or the function itself.

    Args:
        module: whose parameters it uses; in evaluation mode.
        function: of tensors, [B, ...] each; what it writes into them in place is recorded too.
        examples: arguments of several shapes; the first is recorded, all are compared.

    Example:
        >>> embed = record(codec, codec.embed, [(values[:1],), (values,)])
    """
    if any(tensor.device.type != "cpu" for tensor in examples[0]):
        return function  # elsewhere a call does not wait for the one before
    try:
        with quietly(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            replay = torch.jit.trace(_Call(module, function), _copied(examples[0]), check_trace=False)
        assert isinstance(replay, nn.Module)
        # the second time it is optimized, the third time that is used
        agrees = all(_agree(function, replay, example) for _ in range(3) for example in examples)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        logger.debug("%s is called as it is: %s", function, error)
        return function
    # Questions about shapes are fine: they were tried out. Loops over values, such as the experts chosen, are not.
    doubts = [str(found.message) for found in caught if found.category.__name__ == "TracerWarning"]
    is_fixed = any(not doubt.startswith("Converting a tensor to a Python boolean") for doubt in doubts)
    return replay if agrees and not is_fixed else function


def _copied(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.clone() for tensor in tensors)


def _agree(function: Function, replay: Function, example: tuple[Tensor, ...]) -> bool:
    mine, other = _copied(example), _copied(example)
    pairs = [(function(*mine), replay(*other)), *zip(mine, other, strict=True)]
    return all(torch.allclose(one, another, atol=1e-4, rtol=1e-3, equal_nan=True) for one, another in pairs)

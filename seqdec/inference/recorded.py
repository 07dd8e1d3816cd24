"""A function of tensors, recorded once and replayed without its Python.

Acting is many short passes, in which Python costs more than the arithmetic. `record` runs a function, notes each call
of torch that it makes, and replays the calls as straight lines. Lengths that vary are arguments of the function:
wherever a call has a recorded length among its numbers, the replay has the new one, so the recorded lengths must be
numbers that nothing else equals.

    states.view(11, 13, -1, 64)    recorded with lengths 11 and 13    ->    states.view(num_rows, num_new, -1, 64)

Every example is compared with the function itself; where the replay differs, or cannot be made, the function is called.
"""

import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

logger = logging.getLogger(__name__)
Function = Callable[..., Tensor]
Arguments = Sequence[Tensor | int]
LARGEST_MULTIPLE = 8  # a number is taken for a multiple of a length up to here: each token has so many experts
# The result of these calls depends on values: nobody knows what Python does with another one.
READS = {
    "__bool__",
    "__contains__",
    "__float__",
    "__index__",
    "__int__",
    "item",
    "numpy",
    "tolist",
    "nonzero",
    "unique",
}


def record(function: Function, examples: Sequence[Arguments]) -> Function:
    """Return a quicker function that does the same, or the function itself.

    Args:
        function: of tensors and lengths, for inference; it may write into the tensors.
        examples: arguments; the first is recorded, all are compared.

    Example:
        >>> embed = record(lambda values, size: codec.embed(values), [(torch.ones(11, 3), 11), (torch.ones(2, 3), 2)])
    """
    try:
        replay = _replay_of(function, _copies(examples[0]))
        agrees = all(_agree(function, replay, example) for example in examples)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NameError) as error:
        logger.debug("%s is called as it is: %s", function, error)
        return function
    return replay if agrees else function


def _replay_of(function: Function, example: Arguments) -> Function:
    tape = _Tape(example)
    with tape:
        result = function(*example)
    tape.graph.output(tape.node(result))
    run, held = fx.GraphModule(nn.Module(), tape.graph).forward, tuple(tape.held)
    return lambda *arguments: run(*held, *arguments)


class _Tape(TorchFunctionMode):
    """The calls of torch as a graph; `held` are the tensors that the function has of itself, such as weights."""

    def __init__(self, example: Arguments):
        super().__init__()
        self.graph, self.held = fx.Graph(), list[Tensor]()
        self._inputs = [self.graph.placeholder(f"argument_{index}") for index in range(len(example))]
        pairs = list(zip(example, self._inputs, strict=True))
        self._lengths = [(value, node) for value, node in pairs if isinstance(value, int)]
        # by the id of a tensor: its node, or the node of the call that it is a part of, and which one
        self._nodes: dict[int, fx.Node | tuple[fx.Node, int]] = {
            id(value): node for value, node in pairs if isinstance(value, Tensor)
        }
        self._alive: list[object] = [example]  # so that no id is used twice

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name, options = getattr(func, "__name__", ""), kwargs or {}
        if name in READS:
            raise ValueError(f"{name} asks for values")
        result = func(*args, **options)
        parts = result if isinstance(result, tuple | list) else [result]
        writes = name == "__setitem__" or name.endswith("_") and not name.endswith("__")
        is_new = any(isinstance(part, Tensor) for part in parts) and not any(result is value for value in args)
        is_held = isinstance(result, Tensor) and isinstance(result._base, nn.Parameter)  # a view of a weight
        if is_new and not is_held or writes:  # not so a shape, a dtype, or `contiguous` that had nothing to do
            arguments = cast(tuple, self.argument(args)), cast(dict, self.argument(options))
            node = self.graph.call_function(_shortcut(func, args), *arguments)
            self._alive.append(result)
            places = {id(part): (node, index) for index, part in enumerate(parts) if isinstance(part, Tensor)}
            self._nodes |= {id(result): node} if isinstance(result, Tensor) else places
        return result

    def argument(self, value: object) -> object:
        """Return a value as the graph has it: tensors and lengths as nodes."""
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, list):
            return [self.argument(part) for part in value]
        if isinstance(value, tuple):
            return tuple(self.argument(part) for part in value)
        if isinstance(value, Mapping):
            return {name: self.argument(part) for name, part in value.items()}
        if isinstance(value, slice):
            return slice(*(self.argument(part) for part in (value.start, value.stop, value.step)))
        return self._length(value) if type(value) is int else value

    def node(self, value: Tensor) -> fx.Node:
        node = self._nodes.get(id(value))
        if node is None:
            with self.graph.inserting_before(self._inputs[0]):
                node = self.graph.placeholder(f"held_{len(self.held)}")
            self.held.append(value)
        elif isinstance(node, tuple):
            node = self.graph.call_function(operator.getitem, node)
        self._nodes[id(value)] = node
        return node

    def _length(self, value: int) -> fx.Node | int:
        for length, node in self._lengths:
            times, rest = divmod(value, length)
            if rest == 0 and 0 < abs(times) <= LARGEST_MULTIPLE:
                return node if times == 1 else self.graph.call_function(operator.mul, (node, times))
        return value


def _shortcut(func: Callable[..., object], args: tuple[object, ...]) -> Callable[..., object]:
    """Return the same function without Python around it, which costs as much as the call."""
    if func is Tensor.split:
        return torch.unsafe_split if isinstance(args[1], int) else torch.unsafe_split_with_sizes
    return torch.layer_norm if func is F.layer_norm else func


def _copies(arguments: Arguments) -> Arguments:
    return [value.clone() if isinstance(value, Tensor) else value for value in arguments]


def _agree(function: Function, replay: Function, example: Arguments) -> bool:
    """Return whether both give the same, and write the same into their arguments."""
    mine, other = _copies(example), _copies(example)
    results = [(function(*mine), replay(*other)), *zip(mine, other, strict=True)]
    pairs = [(one, another) for one, another in results if isinstance(one, Tensor) and isinstance(another, Tensor)]
    return all(torch.allclose(*pair, atol=1e-4, rtol=1e-3, equal_nan=True) for pair in pairs)

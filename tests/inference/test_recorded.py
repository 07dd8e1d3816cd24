"""What is recorded does the same, or is not used."""

import ast
from pathlib import Path

import torch
from torch import Tensor, nn

import seqdec
from seqdec.inference.recorded import record


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, values: Tensor, num_rows: int) -> Tensor:
        return values.view(num_rows, 2) * self.weight

    def by_value(self, values: Tensor) -> Tensor:
        return values * self.weight if bool(values.sum() > 0) else values

    def each(self, values: Tensor) -> Tensor:
        return torch.stack([value * self.weight for value in values]).sum(0)

    def chosen(self, values: Tensor) -> Tensor:
        for row in values[:, 0].nonzero():
            values = values + values[row] * self.weight
        return values

    def by_shape(self, values: Tensor) -> Tensor:
        return values.view(len(values), 2) * self.weight

    def write(self, values: Tensor, memory: Tensor, num_new: int) -> Tensor:
        memory[:, -values.shape[1] :] = values
        memory.mul_(2)
        first, rest = memory.split([1, memory.shape[1] - 1], 1)
        return first.sum(1) + rest.contiguous().sum(1)


def test_a_recorded_function_holds_for_other_lengths_and_later_weights():
    module = Scale().eval()
    forward = module.forward
    with torch.inference_mode():
        replay = record(forward, [(torch.ones(11, 2), 11), (torch.ones(3, 2), 3)])
        assert replay is not forward
    with torch.no_grad():
        module.weight.mul_(10)
        assert torch.equal(replay(torch.ones(5, 2), 5), torch.tensor([[20.0, 30.0]]).expand(5, 2))


def test_writes_into_arguments_are_recorded():
    module = Scale().eval()
    write = module.write
    with torch.inference_mode():
        replay = record(write, [(torch.ones(1, 11), torch.ones(1, 14), 11), (torch.ones(2, 1), torch.ones(2, 4), 1)])
        assert replay is write, "the length of the memory varies too, and was not named"
        replay = record(write, [(torch.ones(1, 11), torch.ones(1, 14), 11), (torch.ones(2, 5), torch.ones(2, 14), 5)])
        memory = torch.ones(2, 14)
        assert replay is not write and replay(torch.zeros(2, 12), memory, 12).tolist() == [4.0, 4.0]
    assert memory.tolist() == [[2.0, 2.0, *[0.0] * 12]] * 2


def test_a_length_that_was_not_named_is_found_out():
    by_shape = Scale().eval().by_shape
    with torch.inference_mode():
        assert record(by_shape, [(torch.ones(11, 2),), (torch.ones(3, 2),)]) is by_shape


def test_a_function_that_asks_for_values_is_not_recorded():
    by_value = Scale().eval().by_value
    with torch.inference_mode():
        assert record(by_value, [(torch.ones(1, 2),), (-torch.ones(1, 2),)]) is by_value


def test_a_loop_over_rows_or_values_is_not_recorded():
    each = Scale().eval().each
    with torch.inference_mode():
        assert record(each, [(torch.ones(2, 2),), (torch.ones(3, 2),)]) is each
        chosen = Scale().eval().chosen
        assert record(chosen, [(torch.ones(2, 2),)]) is chosen


def test_nothing_of_torch_jit_is_named():
    """It is deprecated in torch 2.13 and not supported in Python 3.14."""
    root = Path(seqdec.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.attr] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [part for alias in node.names for part in alias.name.split(".")]
                names += (getattr(node, "module", None) or "").split(".")
            assert "jit" not in names, f"{path}:{node.lineno}"

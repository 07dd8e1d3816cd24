"""What is recorded does the same, or is not used."""

import torch
from torch import Tensor, nn

from seqdec.inference.recorded import record


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.weight

    def by_value(self, values: Tensor) -> Tensor:
        return values * self.weight if bool(values.sum() > 0) else values

    def each(self, values: Tensor) -> Tensor:
        return torch.stack([value * self.weight for value in values]).sum(0)

    def write(self, values: Tensor, memory: Tensor) -> Tensor:
        memory[:, -values.shape[1] :] = values
        return memory.sum(1)


def test_a_recorded_function_holds_for_other_shapes_and_later_weights():
    module = Scale().eval()
    replay = record(module, module.forward, [(torch.ones(1, 2),), (torch.ones(3, 2),)])
    assert replay is not module.forward and isinstance(replay, nn.Module)
    with torch.no_grad():
        module.weight.mul_(10)
    assert torch.equal(replay(torch.ones(5, 2)), torch.tensor([[20.0, 30.0]]).expand(5, 2))


def test_writes_into_what_was_given_are_recorded():
    module = Scale().eval()
    replay = record(
        module, module.write, [(torch.ones(1, 2), torch.zeros(1, 4)), (torch.ones(2, 1), torch.zeros(2, 3))]
    )
    memory = torch.zeros(2, 5)
    assert replay(torch.ones(2, 3), memory).tolist() == [3.0, 3.0] and isinstance(replay, nn.Module)
    assert memory.tolist() == [[0.0, 0.0, 1.0, 1.0, 1.0]] * 2


def test_a_function_that_asks_for_values_is_not_recorded():
    module = Scale().eval()
    by_value = module.by_value
    assert record(module, by_value, [(torch.ones(1, 2),), (-torch.ones(1, 2),)]) is by_value


def test_a_loop_over_values_is_not_recorded():
    module = Scale().eval()
    each = module.each
    assert record(module, each, [(torch.ones(2, 2),), (torch.zeros(2, 2),)]) is each

"""What gradient checkpointing saves and costs: python benchmarks/recompute.py [--rounds 4]

A batch of 16 windows of 20 timesteps (60 tokens) of vectors, forward and backward, in float32 on two threads. Kept is
what autograd saves beside the weights. Both ways are timed in turns, and their gradients must be the same bits.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from seqdec.data import Episode, from_episodes
from seqdec.model.backbone import load_backbone
from seqdec.model.recompute import recomputing
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.sequence import Windows, layout_from_spaces
from seqdec.spaces.spec import EnvironmentSpec

BACKBONES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("small", {"num_layers": 3}),
    ("smollm2", {"num_layers": 30, "finetune": "lora"}),
    ("smollm2", {"num_layers": 30}),
)


def windows() -> Windows:
    random, spec = np.random.default_rng(0), EnvironmentSpec(Box(-9, 9, (3,)), Box(-1, 1, (2,)))
    episodes = []
    for _ in range(16):
        seen, done = random.normal(size=(41, 3)), random.uniform(-1, 1, (40, 2))
        steps = {"observation": seen[:-1], "action": done, "reward": random.normal(size=40)}
        episodes.append(Episode(steps, final=seen[-1], terminated=True, truncated=False))
    layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space, context_length=20)
    return Windows(from_episodes(episodes, spec), layout)


def gradients(model: SequenceModel, batch: dict[str, torch.Tensor]) -> tuple[list[torch.Tensor], int, float]:
    """Return gradients, how many bytes were kept for them, and seconds."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    torch.manual_seed(0)
    began = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = torch.stack([*model(batch).values()]).sum()
    found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
    seconds = time.perf_counter() - began
    return [*found], sum(size for place, size in kept.items() if place not in weights), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="after one that is not timed")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(2)
    data = windows()
    batch = data.gather(np.arange(16) * 40 + 20)
    print(
        "| backbone | kept, MB | with it | share | s a batch | with it | times |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    for name, options in BACKBONES:
        model = build_model(data, load_backbone(name, dropout=0.1, **options)).train()
        plain, again = [], []
        for _ in range(rounds + 1):
            plain.append(gradients(model, batch))
            with recomputing(model.backbone_source):
                again.append(gradients(model, batch))
            assert all(torch.equal(one, other) for one, other in zip(plain[-1][0], again[-1][0], strict=True))
        few, many = (runs[-1][1] / 1e6 for runs in (again, plain))
        slow, fast = (min(seconds for *_, seconds in runs[1:]) for runs in (again, plain))
        title = " ".join([name, *(str(value) for value in options.values())])
        print(
            f"| {title} | {many:,.0f} | {few:,.0f} | {few / many:.2f} | {fast:.2f} | {slow:.2f} | {slow / fast:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Train tiny models into FOLDER/NAME, FOLDER/NAME-words, FOLDER/NAME-spoilt, FOLDER/NAME-stopped and so on.

Run plainly or under torchrun by `test_two_processes_follow_one`; what goes wrong goes wrong on the last process alone.
"""

import atexit
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from conftest import box_episodes, box_spec, make_windows
from seqdec.data.source import Source
from seqdec.errors import DataError, StorageError
from seqdec.model.backbone import load_backbone
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.sequence.draw import Draw
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.stream import StreamWindows
from seqdec.sequence.windows import Windows
from seqdec.training.loop import train
from word_episodes import language

RANK, NUM_PROCESSES = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
IS_LAST = RANK == NUM_PROCESSES - 1


def fresh() -> tuple[SequenceModel, Windows]:
    windows, spec = make_windows(context_length=12)
    return build_model(windows, load_backbone("small", num_layers=2, dropout=0.0)), windows


def at_step(model: SequenceModel, step: int, action) -> None:
    """Let something happen to the losses of one step of the last process."""
    calls = {"number": -1}

    def hook(module, inputs, losses):
        calls["number"] += 1
        return action(losses) if calls["number"] == step and IS_LAST else losses

    model.register_forward_hook(hook)


def stop(losses):
    os.kill(os.getpid(), signal.SIGTERM)
    return losses


def fail() -> dict[str, float]:
    raise RuntimeError("the environment broke")


def lengthened(values: torch.Tensor, length: int) -> torch.Tensor:
    """Pad windows [B, K, ...] with zeros to a length."""
    return torch.cat([values, values.new_zeros(len(values), length - values.shape[1], *values.shape[2:])], 1)


@dataclass
class DrawOfBoth:
    """What two processes draw from their parts of a stream, for one process to compute.

    `indices` are those of the first part, and -1 - those of the second.
    """

    draws: list[Draw]
    indices: np.ndarray
    task: str = ""

    @property
    def windows(self) -> Windows:
        return self.draws[0].windows

    def part(self, places: np.ndarray | slice) -> "DrawOfBoth":
        return replace(self, indices=self.indices[places])

    def by_part(self) -> list[Draw]:
        first, second = self.indices[self.indices >= 0], -1 - self.indices[self.indices < 0]
        return [replace(draw, indices=own) for draw, own in zip(self.draws, (first, second), strict=True)]

    @property
    def work(self) -> np.ndarray:
        return self.sizes

    @property
    def sizes(self) -> np.ndarray:
        sizes = np.zeros(len(self.indices), np.int64)
        first, second = self.by_part()
        sizes[self.indices >= 0], sizes[self.indices < 0] = first.sizes, second.sizes
        return sizes

    @property
    def num_valid(self) -> int:
        return sum(draw.num_valid for draw in self.by_part())

    def num_known(self) -> dict[str, int]:
        first, second = (draw.num_known() for draw in self.by_part())
        return {name: count + second[name] for name, count in first.items()}

    def gather(self) -> dict[str, torch.Tensor]:
        first, second = (draw.gather() for draw in self.by_part())
        length = max(len(first["mask"].T), len(second["mask"].T))
        return {name: torch.cat([lengthened(first[name], length), lengthened(second[name], length)]) for name in first}


class BothParts:
    """Both parts of a stream on one process."""

    def __init__(self, parts: list[StreamWindows]):
        self.parts = parts

    def draw(self, step: int, seed: int, batch_size: int) -> DrawOfBoth:
        draws = [part.draw(step, seed, batch_size) for part in self.parts]
        share = batch_size // 2
        indices = np.concatenate([draws[0].indices[:share], -1 - draws[1].indices[share:]])
        return DrawOfBoth(draws, indices)


def fresh_on_a_stream(spoilt: int | None = None) -> tuple[SequenceModel, StreamWindows | BothParts, StreamWindows]:
    """A model and its windows, the latter whole or this process's part, and one part of them.

    The `spoilt` episode holds an observation that is no number.
    """
    spec = box_spec()
    rows = [dict(episode.to_row()) for episode in box_episodes(15)]
    if spoilt is not None:
        rows[spoilt]["observation"] = np.where(np.arange(3) == 1, np.nan, rows[spoilt]["observation"])
    source = Source(spec, read=lambda: iter(rows), identity={})
    layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space, context_length=12)
    parts = [
        StreamWindows(source, layout, buffer=2, num_heldout=3, process_index=index, num_processes=2)
        for index in range(2)
    ]
    model = build_model(parts[RANK], load_backbone("small", num_layers=2, dropout=0.0))
    return model, parts[RANK] if NUM_PROCESSES == 2 else BothParts(parts), parts[RANK]


def write_threads_of_gloo(path: Path) -> None:
    names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
    path.write_text(" ".join(name for name in names if "gloo" in name))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    atexit.register(write_threads_of_gloo, folder / f"{sys.argv[2]}-threads-{RANK}")  # the last that is done
    model, windows = fresh()
    train(
        model, windows, out=folder / sys.argv[2], steps=12, batch_size=12, log_every=4, heldout=windows,
        eval_every=6, checkpoint_every=6, evaluate=fail,
    )  # fmt: skip
    backbone = load_backbone("small", num_layers=2, dropout=0.0, predicts_words=True, freeze_layers=1)
    model, windows = language(backbone, max_tokens=120, prompt_dropout=0.3, prompt=["target_return"])
    train(model, windows, out=folder / f"{sys.argv[2]}-words", steps=6, batch_size=12, log_every=1, heldout=windows)
    model, windows = fresh()
    at_step(model, 3, lambda losses: {name: value * float("nan") for name, value in losses.items()})
    train(model, windows, out=folder / f"{sys.argv[2]}-spoilt", steps=6, batch_size=12, log_every=6)
    model, windows = fresh()
    at_step(model, 4, stop)
    outcome = train(model, windows, out=folder / f"{sys.argv[2]}-stopped", steps=50, batch_size=12)
    assert (outcome.step, outcome.stopped_by) == (5, "SIGTERM"), outcome
    model, windows = fresh()
    checkpoints = folder / f"{sys.argv[2]}-blocked" / "checkpoints"
    if RANK == 0:
        checkpoints.mkdir(parents=True)
        (checkpoints / "step-000003").write_text("in the way")
    try:
        train(model, windows, out=checkpoints.parent, steps=6, batch_size=12, checkpoint_every=3)
    except StorageError as error:
        (folder / f"{sys.argv[2]}-blocked-{RANK}").write_text(str(error))
    model, windows, part = fresh_on_a_stream()
    settings = {"batch_size": 12, "log_every": 1}
    train(model, windows, out=folder / f"{sys.argv[2]}-stream", steps=12, heldout=part.heldout, **settings)
    assert part._first_block is not None and part._first_block > 6, "the parts have 6 episodes each: they went round"
    model, windows, _ = fresh_on_a_stream(spoilt=12)  # the third but last of the second part
    try:
        train(model, windows, out=folder / f"{sys.argv[2]}-bad", steps=12, **settings)
    except DataError as error:
        (folder / f"{sys.argv[2]}-bad-{RANK}").write_text(str(error))

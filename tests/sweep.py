"""What each family of decoders can do here: loaded, trained for two steps, saved, loaded again and acted with.

python tests/sweep.py      writes the table in docs/backbones.md
"""

import re
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from conftest import make_windows
from families import COMPOSITES, SWEEP, tiny_config
from seqdec.errors import DataError, UsageError
from seqdec.inference.caches import continues
from seqdec.inference.context import Context
from seqdec.inference.passes import pass_of
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.training.loop import train

PAGE = Path(__file__).parent.parent / "docs" / "backbones.md"
BEGIN, END = "<!-- the table that tests/sweep.py writes -->\n", "<!-- end of the table -->\n"
RECORDED, OWN_CACHE = "works, by a recorded pass", "works, by the cache of transformers"
REREAD = "works; acting reads everything again for each token"
STEPS = 7  # more than the context of 4 has


def save_tiny(family: str, folder: Path) -> None:
    """Write a tiny random checkpoint, with its head, as people publish theirs."""
    torch.manual_seed(0)
    kind = AutoModelForImageTextToText if family in COMPOSITES else AutoModelForCausalLM
    kind.from_config(tiny_config(family)).save_pretrained(folder)


def outcome(family: str, root: Path) -> str:
    """Return what became of a family: that it works, or the sentence that refuses it."""
    save_tiny(family, root / "base")
    try:
        backbone = load_backbone(str(root / "base"), num_tokens=13)
    except (UsageError, DataError) as error:
        return in_short(str(error))
    model = build_model(_windows(), backbone)
    train(model, _windows(), out=root / "run", steps=2, batch_size=4)
    again = load_policy(root / "run" / "policy")
    saved, loaded = model.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, loaded[name]), name
    for one, other in zip(act(again), act(model.eval(), use_cache=False), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    if pass_of(again.backbone_source) is not None:
        return RECORDED
    return OWN_CACHE if continues(again.backbone_source) else REREAD


def act(model: SequenceModel, *, use_cache: bool = True) -> list[torch.Tensor]:
    """Return the state before each action of three episodes, of which one ends early and all others are forked."""
    random = np.random.default_rng(0)
    observations, actions = random.normal(size=(3, STEPS, 3)), random.uniform(-1, 1, (3, STEPS, 2))
    context, rows, states = Context(model, 3, use_cache=use_cache), np.arange(3), []
    for timestep in range(STEPS):
        if timestep == 2:
            context.keep(torch.tensor([2, 0]))
            rows = rows[[2, 0]]
        if timestep == 5:
            context.fork(2)
            rows = rows.repeat(2)
        context.write(observation=observations[rows, timestep], return_to_go=np.full(len(rows), 5.0))
        states.append(context._state_before("action"))
        context.write(action=actions[rows, timestep])
    return states


def in_short(sentence: str) -> str:
    """Return what a refusal says, without the name and without the words of transformers."""
    short = re.sub(r"^(backbone )?'[^']*' ", "", sentence).split(": ")[0]
    return re.sub(r"\d+ tensors", "tensors", short)


@cache
def _windows():
    return make_windows("multi_game", context_length=4)[0]


def table(outcomes: dict[str, str]) -> str:
    """Return the table of the documentation: outcomes, and the families that have each."""
    rows = sorted({*outcomes.values()}, key=lambda text: (not text.startswith("works"), text))
    lines = [f"| {row} | {', '.join(sorted(name for name in outcomes if outcomes[name] == row))} |" for row in rows]
    return "\n".join(["| what came of it | families |", "|---|---|", *lines]) + "\n"


def told(page: str) -> dict[str, str]:
    """Return the outcome of each family that the table has."""
    lines = page.split(BEGIN)[1].split(END)[0].splitlines()[3:]
    rows = [line.strip("| ").split(" | ") for line in lines if line]
    return {name: row for row, names in rows for name in names.split(", ")}


def main() -> None:
    """Try every family and write the table."""
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    torch.set_num_threads(1)
    outcomes = {}
    for family in sys.argv[1:] or SWEEP:
        with tempfile.TemporaryDirectory() as folder:
            outcomes[family] = outcome(family, Path(folder))
        print(family, outcomes[family], flush=True)
    if not sys.argv[1:]:
        page = PAGE.read_text()
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{table(outcomes)}\n{END}{after}")


if __name__ == "__main__":
    main()

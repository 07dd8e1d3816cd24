"""Random programs of writing, sampling, forking and keeping, on rows of unequal length: with a cache as without."""

import numpy as np
import pytest
import torch

from byte_models import load_with_bytes
from conftest import FAMILIES
from seqdec import Context, load_backbone
from seqdec.model.sequence_model import SequenceModel
from word_episodes import language

STEPS = 14
ROOMS = ["a room: lamp, clé", "", "a room", "🙂 mask, lamp, hat"]
ACTIONS = ["take lamp", "take clé", "wait", "take", "take 🙂 mask"]
Pair = tuple[Context, Context]


@pytest.mark.parametrize("numbers", ["embedding", "words"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cached_context_is_as_the_uncached_one_whatever_is_done_to_it(family, numbers, family_folder):
    folder = family_folder(family)
    backbone = load_with_bytes(load_backbone(str(folder)), folder)
    options = {"prompt": ["target_return", "text"], "prompt_dropout": 0.2, "max_tokens": 150, "text_tokens": 64}
    model, _ = language(backbone, numbers=numbers, **options)
    for seed in range(2):
        run_program(model.eval(), np.random.default_rng((seed, len(family), len(numbers))))


def run_program(model: SequenceModel, random: np.random.Generator) -> None:
    pair = Context(model, 2), Context(model, 2, use_cache=False)
    asked = {"target_return": [[1.0], [2.0]], "text": ["tidy up", None]}
    for context in pair:
        context.write(**asked)
    for _ in range(STEPS):
        pair = change(pair, random)
        rows = pair[0].num_sequences
        write(pair, observation=[str(text) for text in random.choice(ROOMS, rows)])
        pair = change(pair, random)
        rows = pair[0].num_sequences
        if random.random() < 0.5:
            sample(pair, "return_to_go")
        else:
            write(pair, return_to_go=np.where(random.random((rows, 1)) < 0.3, np.nan, 1.5))
        pair = change(pair, random)
        rows = pair[0].num_sequences
        states = [context._state_before("action", 64) for context in pair]
        torch.testing.assert_close(*states, atol=2e-5, rtol=1e-4)
        lists = [[str(text) for text in random.choice(ACTIONS, 3)] for _ in range(rows)]
        likely = [context.predict("action", candidates=lists).logits for context in pair]  # pyright: ignore
        torch.testing.assert_close(*likely, atol=1e-4, rtol=1e-4)
        if rows % 2 == 0:  # blocks of two, one of which has more evidence
            how = {"candidates": lists[::2], "guidance": (1.5,), "temperature": 0.0}
            assert pair[0].branch().sample_text("action", **how) == pair[1].branch().sample_text("action", **how)
        kind = random.integers(3)
        if kind == 0:
            write(pair, action=[own[0] for own in lists])
            continue
        own = [None if kind == 2 and row % 2 else names for row, names in enumerate(lists)]
        texts = pair[0].sample_text("action", candidates=own, temperature=0.5)
        write((pair[1],), action=texts)


def write(pair: tuple[Context, ...], **values: object) -> None:
    for context in pair:
        context.write(**values)


def sample(pair: Pair, name: str) -> None:
    """Draw by the cached context, and say the same to the other."""
    write((pair[1],), **{name: pair[0].sample(name)})


def change(pair: Pair, random: np.random.Generator) -> Pair:
    """Fork, keep, branch, or do without a fact; what is left behind goes on to be written over."""
    kind, rows = random.integers(6), pair[0].num_sequences
    if kind == 0 and rows < 6:
        for context in pair:
            context.fork(2)
    elif kind == 1:
        kept = torch.from_numpy(random.integers(0, rows, size=int(random.integers(1, 4))))
        for context in pair:
            context.keep(kept)
    elif kind == 2:
        others = pair[0].branch(), pair[1].branch()
        if "action" in pair[0]._script.steps[-1]:  # a branch reads and writes by itself
            write(pair, observation=["a branch that is given up"] * rows)
            for context in pair:
                context._state_before("return_to_go")
        return others
    elif kind == 3:
        name = str(random.choice(["target_return", "text"]))
        return pair[0].without(name), pair[1].without(name)
    return pair

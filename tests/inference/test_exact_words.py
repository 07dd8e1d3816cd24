"""A language model's answers against exact enumeration of a tiny world of words, whose joint distribution is known.

Two rooms, three sentences, two timesteps: there are few enough histories to count them all. Models are trained on the
draws that `probability` counts, for some seconds.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, Text
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from seqdec import Context, EnvironmentSpec, Episode, Policy, Windows, build_model, layout_from_spaces, load_backbone
from seqdec.data.dataset import from_episodes
from seqdec.inference.planning import Planning, plan
from seqdec.inference.questions import explain, inverse, predict
from seqdec.inference.returns import returns
from seqdec.model.sequence_model import SequenceModel
from seqdec.training.loop import train
from small_tokenizers import TOKENIZERS

ROOMS = ["a lamp", "a hat, dirty"]
SAYINGS = ["take lamp", "take hat", "wait"]
STEPS = 2
History = tuple[tuple[int, int, int], ...]  # of every timestep room, saying, reward
CLOSE = 0.08  # what training for seconds leaves, in total variation


def saying_shares(room: int, skill: float) -> list[float]:
    """How a player chooses: the room's own thing by skill, and waits twice as often as he takes the other one."""
    rest = 1 - skill
    return [skill, rest / 3, 2 * rest / 3] if room == 0 else [rest / 3, skill, 2 * rest / 3]


def pay_shares(room: int, saying: int) -> list[float]:
    return [0.2, 0.8] if saying == room else [0.9, 0.1]


def next_shares(room: int, saying: int) -> list[float]:
    """Waiting changes nothing; taking leads on."""
    stay = 0.9 if saying == 2 else 0.25
    return [stay, 1 - stay] if room == 0 else [1 - stay, stay]


SKILLS = (0.8, 0.2)


def world() -> dict[History, float]:
    """The probability of every history."""
    shares = dict[History, float]()
    for skill, rooms, said, paid in product(
        SKILLS, product(range(2), repeat=STEPS), product(range(3), repeat=STEPS), product(range(2), repeat=STEPS)
    ):
        share = 0.25  # of the player and the first room
        for step in range(STEPS):
            share *= saying_shares(rooms[step], skill)[said[step]] * pay_shares(rooms[step], said[step])[paid[step]]
            if step + 1 < STEPS:
                share *= next_shares(rooms[step], said[step])[rooms[step + 1]]
        history = tuple(zip(rooms, said, paid, strict=True))
        shares[history] = shares.get(history, 0.0) + share
    return shares


def drawn_histories() -> list[History]:
    random, histories = np.random.default_rng(0), world()
    return [
        list(histories)[index] for index in random.choice(len(histories), 4000, p=np.array(list(histories.values())))
    ]


DRAWN = drawn_histories()
COUNTS = Counter(DRAWN)


def probability(value: Callable, given: Callable, num_values: int) -> np.ndarray:
    """p(value | given), by counting histories."""
    sums = np.zeros(num_values)
    for history, count in COUNTS.items():
        if given(history):
            sums[value(history)] += count
    return sums / sums.sum()


def return_of(history: History, first: int = 0) -> int:
    return sum(paid for _, _, paid in history[first:])


def distance(shares: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(shares - exact).sum() / 2)


def trained(folder: Path, *, says: bool, steps: int) -> SequenceModel:
    """Train on draws of the world, whose actions are sentences or their numbers."""
    spec = EnvironmentSpec(Text(40), Text(40) if says else Discrete(3))
    episodes = []
    for history in DRAWN:
        rooms, said, paid = (np.array(column) for column in zip(*history, strict=True))
        rows = {
            "observation": np.array(ROOMS, object)[rooms],
            "action": np.array(SAYINGS, object)[said] if says else said,
            "reward": paid.astype(np.float32),
        }
        episodes.append(Episode(rows, final=ROOMS[0], terminated=True, truncated=False))
    torch.manual_seed(0)
    tokenizer = TOKENIZERS["byte level"]()
    GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=len(tokenizer), n_positions=128)
    ).save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    layout = layout_from_spaces(
        "multi_game" if says else "trajectory", spec.observation_space, spec.action_space, context_length=STEPS,
        numbers="words" if says else "embedding", text_tokens=20, prompt_dropout=0.25,
    )  # fmt: skip
    variables = tuple(replace(variable, loss_weight=float(variable.loss_weight > 0)) for variable in layout.variables)
    windows = Windows(from_episodes(episodes, spec), replace(layout, variables=variables))
    backbone = load_backbone(str(folder / "lm"), init="random", predicts_words=True, dropout=0.0)
    model = build_model(windows, backbone)
    train(
        model, windows, out=folder / "run", steps=steps, batch_size=64, learning_rate=4e-3, schedule="cosine",
        clip_norm=5.0,
    )  # fmt: skip
    return model.eval()


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> SequenceModel:
    """It has actions in words, and nothing but words."""
    return trained(tmp_path_factory.mktemp("speaker"), says=True, steps=500)


@pytest.fixture(scope="module")
def doer(tmp_path_factory: pytest.TempPathFactory) -> SequenceModel:
    """It predicts everything, of actions that are numbers."""
    return trained(tmp_path_factory.mktemp("doer"), says=False, steps=500)


def asked(model: SequenceModel, room: int, target: float | None) -> Context:
    context = Context(model, 1)
    context.write(observation=[ROOMS[room]], return_to_go=None if target is None else [[target]])
    return context


def sayings(context: Context) -> np.ndarray:
    return context.predict("action", candidates=[SAYINGS]).logits[0].softmax(-1).numpy()  # pyright: ignore


@pytest.mark.parametrize("room", range(2))
def test_the_policy_for_a_return_is_the_worlds(room: int, speaker: SequenceModel):
    distances = []
    for target in (0, 1, 2, None):
        exact = probability(
            lambda h: h[0][1],
            lambda h, target=target: h[0][0] == room and (target is None or return_of(h) == target),
            3,
        )
        distances.append(distance(sayings(asked(speaker, room, target)), exact))
    assert np.mean(distances) < 0.06 and max(distances) < 0.12  # one that did not listen: 0.2 on average


def test_the_policy_hears_what_was_said_before(speaker: SequenceModel):
    """The second saying, given the first timestep: who played well is likelier to play well again."""
    distances = []
    for first, said, room in product(range(2), range(3), range(2)):

        def is_meant(history: History, seen=(first, said, 0, room)) -> bool:  # unpaid, and one is to come
            return (*history[0], history[1][0]) == seen and return_of(history, 1) == 1

        if sum(count for history, count in COUNTS.items() if is_meant(history)) < 50:
            continue
        context = asked(speaker, first, 1.0)
        context.write(action=[SAYINGS[said]])
        context.write(observation=[ROOMS[room]], return_to_go=[[1.0]])
        distances.append(distance(sayings(context), probability(lambda h: h[1][1], is_meant, 3)))
    assert len(distances) > 4 and np.mean(distances) < CLOSE and max(distances) < 0.2


def test_possible_returns_are_those_of_the_world(speaker: SequenceModel):
    for room in range(2):
        context = Context(speaker, 1)
        context.write(observation=[ROOMS[room]])
        shares = np.bincount(returns(context, 4000).reshape(-1).numpy().astype(int), minlength=3) / 4000
        assert distance(shares, probability(return_of, lambda h, at=room: h[0][0] == at, 3)) < CLOSE


def test_the_posterior_over_candidates_is_the_language_models_own_by_enumeration(speaker: SequenceModel):
    """Each candidate's tokens behind the text, scored by transformers alone."""
    plain, vocabulary = speaker.backbone, speaker.vocabulary
    assert isinstance(plain, PreTrainedModel) and vocabulary is not None
    lists = [SAYINGS, ["take lamp", "take", "", "take lamp and the hat"], ["wait"]]
    context = Context(speaker, 3)
    context.write(observation=ROOMS + [""], return_to_go=[[2.0], [0.0], [1.0]])
    together = context.predict("action", candidates=lists).logits.softmax(-1)  # pyright: ignore
    for row, (room, number, texts) in enumerate(zip([*ROOMS, ""], (2, 0, 1), lists, strict=True)):
        scores = []
        for text in texts:
            said = [f"{room}\n", f"{number}", " >", f" {text}", "\n"]
            pieces = [vocabulary.tokenize(piece) if piece else [] for piece in said]
            ids = [vocabulary.first, *(token for piece in pieces for token in piece)]
            with torch.no_grad():
                logits = plain(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            own = len(pieces[-1]) + len(pieces[-2])
            scores.append(sum(float(logits[place - 1, ids[place]]) for place in range(len(ids) - own, len(ids))))
        expected = torch.tensor(scores).softmax(0)
        torch.testing.assert_close(together[row, : len(texts)], expected, atol=1e-4, rtol=1e-4)


def test_free_sayings_are_those_of_the_world(speaker: SequenceModel):
    texts = asked(speaker, 0, 2.0).branch(1500).sample_text("action")
    shares = np.array([texts.count(text) / len(texts) for text in SAYINGS])
    exact = probability(lambda h: h[0][1], lambda h: h[0][0] == 0 and return_of(h) == 2, 3)
    assert shares.sum() > 0.97 and distance(shares / shares.sum(), exact) < CLOSE


def test_guidance_is_its_formula(speaker: SequenceModel):
    full, less = (np.log(sayings(asked(speaker, 0, target))) for target in (1.0, None))
    expected = np.exp(full + 1.5 * (full - less))
    policy = Policy(speaker, 1.0, guidance=1.5)
    policy.reset(2000)
    said = list(policy.act(np.array([ROOMS[0]] * 2000, object), None, {"valid_actions": [SAYINGS] * 2000}))
    shares = np.array([said.count(text) / len(said) for text in SAYINGS])
    assert distance(shares, expected / expected.sum()) < 0.04


def test_an_explanation_is_how_far_the_policies_above_lie_apart(speaker: SequenceModel):
    context = asked(speaker, 1, 2.0)
    told, less = sayings(context.branch()), sayings(asked(speaker, 1, None))
    shift = float(explain(context, num_samples=1500).shifts["return_to_go"])
    assert abs(shift - float((told * np.log(told / less)).sum())) < 0.08


@pytest.mark.parametrize(("room", "action"), product(range(2), range(3)))
def test_predictions_in_words_are_the_worlds(room: int, action: int, doer: SequenceModel):
    context = Context(doer, 1)
    context.write(observation=[ROOMS[room]])
    future = predict(context, torch.tensor([[action]]), num_samples=1500)
    seen, paid = list(np.asarray(future["observation"])[0, :, 0]), torch.as_tensor(future["reward"])[0, :, 0, 0]
    shares = np.array([seen.count(text) / len(seen) for text in ROOMS])
    first = (room, action)
    assert distance(shares, probability(lambda h: h[1][0], lambda h: h[0][:2] == first, 2)) < 0.12
    assert abs(float(paid.mean()) - probability(lambda h: h[0][2], lambda h: h[0][:2] == first, 2)[1]) < 0.12


@pytest.mark.parametrize("room", range(2))
def test_a_plan_that_sees_words_takes_the_better_action(room: int, doer: SequenceModel):
    context = Context(doer, 1)
    context.write(observation=[ROOMS[room]])
    best = plan(context, Planning(horizon=2, num_candidates=6, keep=3, num_outcomes=48))
    assert int(best.actions["action"][0, 0]) == room


@pytest.mark.parametrize(("room", "following"), product(range(2), range(2)))
def test_inverse_dynamics_between_words_are_the_worlds(room: int, following: int, doer: SequenceModel):
    actions = inverse(doer, [ROOMS[room]], [ROOMS[following]], num_samples=2000)
    shares = np.bincount(actions[0].numpy(), minlength=3) / 2000
    exact = probability(lambda h: h[0][1], lambda h: (h[0][0], h[1][0]) == (room, following), 3)
    assert distance(shares, exact) < 0.12

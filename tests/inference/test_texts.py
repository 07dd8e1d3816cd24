"""Texts are predicted like any other variable: word by word, among candidates or freely, exactly."""

from itertools import product

import numpy as np
import pytest
import torch
from gymnasium.spaces import Text

from byte_models import load_with_bytes
from conftest import FAMILIES
from seqdec import Context, EnvironmentSpec, Episode, Policy, Windows, build_model, layout_from_spaces, load_backbone
from seqdec.data.dataset import from_episodes
from seqdec.errors import UsageError
from seqdec.inference.questions import explain, predict
from seqdec.model.backbone import Backbone
from seqdec.model.sequence_model import SequenceModel

SPEC = EnvironmentSpec(Text(200), Text(200))
ROOMS = ["a room: lamp, clé", "", "a room", "🙂 mask, lamp, hat"]
ACTIONS = ["take lamp", "take clé", "wait", "take", "take 🙂 mask"]
LISTS = [["take lamp", "take", "wait"], ["wait"], ["take clé", "take clé", "take lamp", "open the door"], ["", "take"]]


def episodes(num: int = 6, seed: int = 0) -> list[Episode]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(num):
        length = int(random.integers(1, 5))
        steps = {
            "observation": np.array(random.choice(ROOMS, length), object),
            "action": np.array(random.choice(ACTIONS, length), object),
            "reward": random.integers(0, 2, length).astype(np.float32),
        }
        made.append(Episode(steps, final="the end", terminated=True, truncated=False))
    return made


def text_model(backbone: Backbone, preset: str = "multi_game", **options) -> tuple[SequenceModel, Windows]:
    layout = layout_from_spaces(
        preset, SPEC.observation_space, SPEC.action_space, context_length=4, text_tokens=64, **options
    )
    windows = Windows(from_episodes(episodes(), SPEC), layout)
    return build_model(windows, backbone).eval(), windows


@pytest.fixture(scope="module")
def small() -> Backbone:
    return load_backbone("small", num_layers=2, predicts_words=True)


def begun(model: SequenceModel, rows: list[str], *, use_cache: bool = True) -> Context:
    """A context in its second timestep, up to the action."""
    context = Context(model, len(rows), use_cache=use_cache)
    returns = np.arange(len(rows), dtype=np.float32)[:, None]
    context.write(observation=rows[::-1], return_to_go=returns)
    context.write(action=["wait", *ACTIONS[: len(rows) - 1]])
    context.write(observation=rows, return_to_go=returns)
    return context


@pytest.mark.parametrize("numbers", ["embedding", "words"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_of_candidates_scores_each_as_it_scores_alone_in_every_family(family, numbers, family_folder):
    folder = family_folder(family)
    backbone = load_with_bytes(load_backbone(str(folder)), folder)
    model, _ = text_model(backbone, numbers=numbers)
    together = begun(model, ROOMS).predict("action", candidates=LISTS).logits  # pyright: ignore
    plain = begun(model, ROOMS, use_cache=False)
    for row, texts in enumerate(LISTS):
        for place, text in enumerate(texts):
            if text in texts[:place]:
                assert together[row, place] == -torch.inf  # named twice, it counts once
                continue
            every = [text if other == row else "wait" for other in range(len(LISTS))]
            torch.testing.assert_close(together[row, place], plain.log_prob("action", every)[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "bloom"])  # by trees, and by rows
def test_hundreds_of_candidates_of_one_sequence_are_scored_as_a_few_are(family, family_folder):
    folder = family_folder(family)
    model, _ = text_model(load_with_bytes(load_backbone(str(folder)), folder))
    lists = [["wait"], [f"take {number}" for number in range(150)], ["take", "wait"]]
    context = begun(model, ROOMS[:3])
    together = context.predict("action", candidates=lists).logits  # pyright: ignore
    assert together.shape == (3, 150) and together.isfinite().sum(1).tolist() == [1, 150, 2]
    for place in (0, 63, 64, 149):
        few = [[row[min(place, len(row) - 1)]] for row in lists]
        own = context.predict("action", candidates=few).logits[:, 0]  # pyright: ignore
        torch.testing.assert_close(together[1, place], own[1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together[2, min(place, 1)], own[2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_sequence_writes_the_same_alone_and_beside_others_cached_or_not(small, temperature):
    model, _ = text_model(small)
    keys = [context._draws.keys for context in [begun(model, ROOMS)]][0]
    candidates = [LISTS[0], None, LISTS[2], None]
    texts = begun(model, ROOMS).sample_text("action", candidates=candidates, temperature=temperature)
    assert texts[0] in LISTS[0] and texts[2] in LISTS[2]
    again = begun(model, ROOMS, use_cache=False).sample_text("action", candidates=candidates, temperature=temperature)
    assert again == texts
    for row in range(4):
        alone = begun(model, ROOMS)
        alone.keep(torch.tensor([row]))
        assert alone._draws.keys.tolist() == keys[row : row + 1].tolist()
        assert alone.sample_text("action", candidates=[candidates[row]], temperature=temperature) == [texts[row]]


def test_mixed_precision_scores_candidates_as_a_tree_too():
    backbone = load_backbone("small", num_layers=2, dropout=0.0, predicts_words=True)  # not tried out before
    model, _ = text_model(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = begun(model, ROOMS)
        scores = mixed.predict("action", candidates=[ACTIONS] * 4).logits
    assert mixed._memory.has_trees
    exact = begun(model, ROOMS).predict("action", candidates=[ACTIONS] * 4).logits
    torch.testing.assert_close(scores, exact, atol=0.2, rtol=0.05)


def test_the_temperature_comes_before_the_nucleus(small):
    model, _ = text_model(small)
    context = begun(model, ROOMS[:1])
    likely = context.predict("action", candidates=[ACTIONS]).tempered(30.0)
    chances = likely.logits.softmax(-1)[0].tolist()
    order = sorted(range(len(ACTIONS)), key=lambda place: -chances[place])
    count = 1 + next(n for n in range(len(order)) if sum(chances[place] for place in order[: n + 1]) >= 0.9)
    drawn = context.branch(400).sample_text("action", candidates=[ACTIONS] * 400, temperature=30.0, top_p=0.9)
    assert 1 < count < len(ACTIONS) and set(drawn) == {ACTIONS[place] for place in order[:count]}


def test_what_was_sampled_is_read_on_as_if_somebody_had_written_it(small):
    model, _ = text_model(small)
    sampling, writing = begun(model, ROOMS), begun(model, ROOMS)
    texts = sampling.sample_text("action", candidates=[*LISTS[:3], None])
    writing.write(action=texts)
    for context in (sampling, writing):
        context.write(observation=ROOMS)
    torch.testing.assert_close(sampling._state_before("return_to_go"), writing._state_before("return_to_go"))


def test_free_texts_come_as_often_as_the_model_finds_them_likely(small):
    model, _ = text_model(small, "behaviour_cloning")
    output, tokenize = model.backbone.get_output_embeddings(), small.vocabulary().tokenize  # pyright: ignore
    bias = torch.full((output.weight.shape[0],), -40.0)  # four letters only
    for letter, own in zip("ab \n", (0.0, 0.3, 0.2, 0.8), strict=True):
        bias[tokenize(letter)[0]] = own
    hook = output.register_forward_hook(lambda _, __, logits: logits + bias)
    try:
        context = Context(model, 1)
        context.write(observation=["x"])
        texts = context.branch(3000).sample_text("action")
        # a text may be begun without its space as well, which is then put before it
        ids = {text: tokenize(f" {text}\n") for text in ("", "a", "b", "ab", "ba")}
        for text, tokens in ids.items():
            expected = context.log_prob("action", [text]).exp().item()
            assert len(tokens) == len(text) + 2
            share = np.mean([drawn == text for drawn in texts])
            other = np.mean([drawn == text and not text for drawn in texts])  # "\n" at once is empty, too
            assert expected - 0.03 < share < expected + 0.03 + other + _begun_without_space(context, text)
    finally:
        hook.remove()


def _begun_without_space(context: Context, text: str) -> float:
    """How probable it is that a text is written without the space before it."""
    from seqdec.inference.candidates import log_probs

    words, hidden = context.model.words("action"), context._state_before("action")
    assert words is not None
    piece = words.vocabulary.tokenize(text) + words.end
    with torch.inference_mode():
        return log_probs(context._memory, words, hidden, [[piece]]).exp().item()


def test_guidance_sharpens_the_posterior_over_candidates(small):
    model, _ = text_model(small, prompt=["target_return"], numbers="words")
    contexts = {}
    for value in (None, 3.0):
        context = Context(model, 1)
        context.write(target_return=None if value is None else [[value]])
        context.write(observation=["a room"], return_to_go=[[1.0]])
        contexts[value] = context.predict("action", candidates=[ACTIONS]).logits[0]  # pyright: ignore
    full, less = contexts[3.0], contexts[None]
    expected = (full + 2.0 * (full - less)).softmax(-1)
    block = Context(model, 2)
    block.write(**{"target_return": [[3.0], [3.0]], "missing.target_return": [False, True]})
    block.write(observation=["a room"] * 2, return_to_go=[[1.0]] * 2)
    drawn = block.branch(1)
    texts = [
        branch.sample_text("action", candidates=[ACTIONS], guidance=(2.0,))[0]
        for branch in (_with_seed(drawn, seed) for seed in range(400))
    ]
    shares = torch.tensor([texts.count(text) / len(texts) for text in ACTIONS])
    assert (shares - expected).abs().max() < 0.08


def _with_seed(context: Context, seed: int) -> Context:
    from seqdec.sequence import noise

    other = context.branch()
    other._draws = noise.Draws(noise.keys(seed, 0, 1).repeat(context.num_sequences), context.model.device)
    return other


def test_a_number_in_digits_is_a_distribution_over_the_datas_own_values(small):
    from seqdec.questions import expert_return, returns

    model, windows = text_model(small, numbers="words")
    context = Context(model, 2)
    context.write(observation=["a room", "a room: lamp, clé"])
    values = np.unique(windows.statistics()["return_to_go"])
    every = np.unique(returns(context).numpy())
    assert set(every) <= set(values.tolist())
    total = sum(context.log_prob("return_to_go", np.full((2, 1), value)).exp() for value in values)
    torch.testing.assert_close(total, torch.ones(2), atol=1e-4, rtol=1e-4)
    assert set(expert_return(context).flatten().tolist()) <= set(values.tolist())
    assert set(context.sample("return_to_go").flatten().tolist()) <= set(values.tolist())


def test_a_policy_chooses_among_what_its_environment_names_and_is_played_alike_in_any_batch(small):
    from seqdec.play import random_policy, record, rollout
    from seqdec.play.guarded import Guarded
    from seqdec.play.make import batch_of
    from text_room import Room

    dataset = record(Room, random_policy(Room.action_space), num_episodes=20, seed=0, max_steps=6)
    layout = layout_from_spaces(
        "multi_game", Room.observation_space, Room.action_space, context_length=3, numbers="words"
    )
    model = build_model(Windows(dataset, layout), small).eval()
    played = []
    for num_envs in (1, 5):
        envs = batch_of([lambda: Guarded(Room(), 6)] * num_envs)
        played.append(rollout(Policy(model, 3.0), envs, num_episodes=5, seed=0))
    said = [[list(episode.steps["action"]) for episode in own] for own in played]
    assert said[0] == said[1]
    assert {text.split()[0] for own in said[0] for text in own} <= {"take", "wait"}


def test_texts_are_predicted_explained_and_refused_by_name(small):
    model, _ = text_model(small, "trajectory")
    context = Context(model, 2)
    context.write(observation=["a room", "a room: lamp, clé"])
    with pytest.raises(UsageError, match="action is a text: give candidates"):
        context.predict("action")
    with pytest.raises(UsageError, match="reward is no text"):
        context.sample_text("reward")
    with pytest.raises(UsageError, match="'fly' is none of the candidates"):
        context.predict("action", candidates=[["wait"]] * 2).log_prob(["fly", "wait"])  # pyright: ignore
    futures = predict(context, np.array([["wait", "take"], ["take lamp", "wait"]], object), num_samples=3)
    assert futures["observation"].shape == (2, 3, 2) and futures["reward"].shape == (2, 3, 2, 1)
    assert all(isinstance(text, str) for text in np.asarray(futures["observation"]).flat)
    model, _ = text_model(small, prompt=["target_return"], prompt_dropout=0.2)
    context = Context(model, 2)
    context.write(target_return=[[1.0], [2.0]])
    context.write(observation=["a room", ""], return_to_go=[[1.0], [2.0]])
    assert set(explain(context, num_samples=4).shifts) == {"target_return", "return_to_go"}


def test_a_long_episode_keeps_its_prompt_and_its_newest_timesteps(small):
    model, _ = text_model(small, max_tokens=90, prompt=["target_return"])
    cached, plain = (Context(model, 2, use_cache=use_cache) for use_cache in (True, False))
    lengths = []
    for context in (cached, plain):
        context.write(target_return=[[1.0], [2.0]])
        for timestep in range(8):
            context.write(observation=["a room: lamp" + " hat" * timestep, "x"], return_to_go=[[1.0], [0.0]])
            context.sample_text("action", candidates=[ACTIONS[:2], ACTIONS[2:]])
            lengths.append(context._memory.num_read)
    torch.testing.assert_close(cached._hidden, plain._hidden, atol=1e-4, rtol=1e-4)
    assert max(lengths) <= 90 and len(cached._script.steps) < 8


@pytest.mark.parametrize(("before", "after"), product(["", "a room"], repeat=2))
def test_an_unknown_text_is_not_an_empty_one(small, before, after):
    model, _ = text_model(small)
    states = []
    for text in (before, after, None):
        context = Context(model, 1)
        context.write(observation=[text], return_to_go=[[1.0]])
        states.append(context._state_before("action"))
    assert torch.equal(states[0], states[1]) == (before == after)
    assert not torch.allclose(states[0], states[2])

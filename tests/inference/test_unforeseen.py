"""What environments and users give that no training has foreseen: it ends in a sentence, or it is played on."""

import logging

import numpy as np
import pytest
import torch
from gymnasium.spaces import Text
from transformers import GPT2Config, GPT2LMHeadModel

from seqdec import Context, EnvironmentSpec, Episode, Policy, Windows, build_model, layout_from_spaces, load_backbone
from seqdec.data.dataset import from_episodes
from seqdec.errors import UsageError
from seqdec.inference.likelihood import log_prob
from seqdec.model.backbone import Backbone
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence.presets import Numbers
from small_tokenizers import TOKENIZERS

SPEC = EnvironmentSpec(Text(200), Text(200))
LONG = "a lamp, 🙂 " * 12_000  # more than 10^5 characters


@pytest.fixture(scope="module")
def small() -> Backbone:
    return load_backbone("small", num_layers=2, predicts_words=True)


def text_model(backbone: Backbone, numbers: Numbers = "words", **options) -> SequenceModel:
    steps = {
        "observation": np.array(["a room", "a hat"], object),
        "action": np.array(["take", "wait"], object),
        "reward": np.array([0.0, 1.0], np.float32),
    }
    episodes = [Episode(steps, final="", terminated=True, truncated=False, text="tidy up")] * 2
    layout = layout_from_spaces(
        "multi_game", SPEC.observation_space, SPEC.action_space, context_length=4, numbers=numbers, **options
    )
    return build_model(Windows(from_episodes(episodes, SPEC), layout), backbone).eval()


def test_a_text_longer_than_its_room_is_read_from_its_beginning_with_a_warning(small, caplog):
    model = text_model(small, text_tokens=24, prompt=["text"])
    policy = Policy(model, 1.0, temperature=0)
    with caplog.at_level(logging.WARNING):
        actions = []
        for text in (LONG, LONG[:18], LONG + "x"):
            policy.reset(2)
            info = {"valid_actions": [["take", LONG], None]}
            actions.append(list(policy.act(np.array([text, ""], object), None, info)))
            policy.act(np.array([text, text], object), np.zeros(2), info)
    assert actions[0][0] == actions[1][0] and len(actions[0][1].encode()) <= 24
    said = [record.message for record in caplog.records]
    (observation,) = [message for message in said if message.startswith("observation")]
    assert "there is room for 24: of such texts the beginning is read (text_tokens)" in observation
    assert len(said) <= 2  # of the action, too
    words = model.words("observation")
    assert words is not None and words.within_room(LONG) == LONG[:18]  # of the emoji there is no room for a part


def test_candidates_that_are_none_are_refused_in_one_sentence(small):
    context = Context(text_model(small), 2)
    context.write(observation=["", ""], return_to_go=[[1.0], [1.0]])
    for rows, words in (
        (["take", "wait"], "one is 'take'"),
        ("take", "one is 'take'"),
        ([["take"], []], r"one is \[\]"),
        ([["take"]], "there are 1"),
        ([["take"]] * 3, "there are 3"),
    ):
        for ask in (context.predict, context.sample_text):
            with pytest.raises(UsageError, match=f"candidates of action are lists of texts.* 2 sequences: {words}"):
                ask("action", candidates=rows)
    with pytest.raises(UsageError, match="one is None"):
        context.predict("action", candidates=[["take"], None])  # pyright: ignore
    for ask in (context.predict, context.sample_text, context.sample):
        with pytest.raises(UsageError, match="does not predict 'acton': it predicts"):
            ask("acton")
    with pytest.raises(UsageError, match="does not predict 'acton'"):
        context.log_prob("acton", ["take"] * 2)


def test_an_environment_that_names_no_candidate_is_answered_freely(small):
    policy = Policy(text_model(small), 1.0)
    policy.reset()
    assert isinstance(policy.act("a room", None, {"valid_actions": []}), str)
    policy.reset(2)
    texts = policy.act(np.array(["a room"] * 2, object), None, {"admissible_commands": [[], np.array(["take"])]})
    assert texts[1] == "take"


@pytest.mark.parametrize("candidates", [None, ["take lamp", "put the lamp on the table"]])
def test_a_context_that_is_full_has_room_for_what_is_written_next(tmp_path, candidates):
    """GPT-2 has a table of positions: beyond it there are none."""
    tokenizer = TOKENIZERS["byte level"]()
    config = GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=len(tokenizer), n_positions=90)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), predicts_words=True, num_tokens=90)
    model = text_model(backbone, max_tokens=90, text_tokens=30, prompt=["text"])
    policy, info = Policy(model, 1.0), {"valid_actions": [candidates, candidates]}
    policy.reset(2)
    for step in range(8):
        seen = np.array(["a lamp" * (step % 3), "a hat"], object)
        policy.act(seen, np.ones(2) if step else None, info)
        assert policy._context is not None and policy._context._memory.num_read <= 90


@pytest.mark.parametrize(("odd", "plain"), [("ta\0ke", "take"), ("half \ud83d", "half ?")])
def test_a_text_with_zero_bytes_or_half_a_character_is_scored_as_it_is_written(small, odd, plain):
    context = Context(text_model(small), 1)
    context.write(observation=[odd], return_to_go=[[1.0]])
    logits = context.predict("action", candidates=[[odd, plain]]).logits  # pyright: ignore
    torch.testing.assert_close(logits[0, 0], logits[0, 1])
    torch.testing.assert_close(logits[0], context.log_prob("action", [plain]).expand(2))


def test_a_long_episode_in_words_is_scored_as_a_context_would_read_it(small):
    """Within the positions that a backbone has, whose windows of all timesteps would be longer."""
    random = np.random.default_rng(0)
    steps = {
        "observation": np.array(["a lamp" * size for size in random.integers(0, 9, 60)], object),
        "action": np.array([f"take {number}" for number in random.integers(0, 99, 60)], object),
        "reward": np.zeros(60, np.float32),
    }
    episode = Episode(steps, final="", terminated=True, truncated=False)
    layout = layout_from_spaces(
        "multi_game", SPEC.observation_space, SPEC.action_space, context_length=60, numbers="words", max_tokens=200
    )
    model = build_model(Windows(from_episodes([episode], SPEC), layout), small).eval()
    (scored,) = log_prob(model, [episode])
    assert scored.steps["action"].shape == (60,) and (scored.steps["action"] < 0).all()
    context = Context(model, 1)
    for step in range(4):  # until it is full
        context.write(observation=[str(steps["observation"][step])], return_to_go=[[0.0]])
        own = context.log_prob("action", [str(steps["action"][step])])
        torch.testing.assert_close(
            own.double(), torch.tensor(scored.steps["action"][step : step + 1]), atol=1e-3, rtol=1e-4
        )
        context.write(action=[str(steps["action"][step])])

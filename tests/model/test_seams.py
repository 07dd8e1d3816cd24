"""A piece's tokens are the same in training, scoring and acting, whatever the tokenizer makes of spaces and marks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Text
from transformers import GPT2Config, GPT2LMHeadModel

from seqdec import Context, EnvironmentSpec, Episode, Windows, build_model, layout_from_spaces, load_backbone
from seqdec.data.dataset import from_episodes
from seqdec.errors import DataError, UsageError
from seqdec.model.backbone import Backbone
from seqdec.model.packed import pack_window
from seqdec.model.sequence_model import SequenceModel
from seqdec.sequence.variable import Variable
from small_tokenizers import LOSSY, TOKENIZERS

SPEC = EnvironmentSpec(Text(300), Text(300))
STRANGE = [
    "take lamp", "take", "", " ", "  take  lamp ", "go\nnorth", "\n", "a\\nb", "a\\\nb\\\\n", "🙂 mask",
    "\U0001f469\u200d\U0001f467", "שלום עולם", "a\u200bb\u200d", "\x07\t\x1b[31m", "a\r\nb", "<|im_end|>",
    "take <|endoftext|> now", "</s>", "<unk><pad>", "e\u0301", "\ufffd", "100 >", "?",
]  # fmt: skip


def episode_of(observations: list[str], actions: list[str]) -> Episode:
    steps = {"observation": np.array([*observations, None], object)[:-1]}
    steps["action"] = np.array([*actions, None], object)[:-1]
    steps["reward"] = np.arange(len(actions), dtype=np.float32)
    return Episode(steps, final="", terminated=True, truncated=False)


def backbone_of(tokenizer, folder: Path) -> Backbone:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_embd=32, n_head=2, vocab_size=len(tokenizer), n_positions=2048,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_backbone(str(folder), predicts_words=True)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: backbone_of(make(), root / name) for name, make in {**TOKENIZERS, **LOSSY}.items()}


def model_of(backbone: Backbone, texts: list[str], preset: str = "trajectory", **options) -> SequenceModel:
    windows = windows_of(texts, preset, **options)
    return build_model(windows, backbone).eval()


def windows_of(texts: list[str], preset: str = "trajectory", **options) -> Windows:
    options = {"context_length": 4, "numbers": "words", "text_tokens": 100, **options}
    layout = layout_from_spaces(preset, SPEC.observation_space, SPEC.action_space, **options)
    return Windows(from_episodes([episode_of(texts[::-1], texts)], SPEC), layout)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_pieces_tokens_are_the_same_in_training_scoring_and_acting(name, backbones):
    model = model_of(backbones[name], STRANGE)
    windows = windows_of(STRANGE)
    for index, text in enumerate(STRANGE):
        # as it was trained
        batch = windows.gather(np.array([index]))
        window, (start,) = pack_window(model, batch), batch["timestep"][0, :1]
        rows, steps, _, ids = window.words_of("action", windows.layout.positions("action")[:4])
        trained = ids[(rows == 0) & (steps == index - int(start))].tolist()
        words = model.words("action")
        assert words is not None
        # as it is scored: alone, and as a candidate
        (scored,) = words.pieces_of([text])
        assert scored == trained, text
        # as it is acted: what was written is what is read on
        context = Context(model, 1)
        context.write(observation=[text])
        context.write(action=[text])
        written = context._script.steps[-1]["action"]
        assert torch.equal(written.tokens[0], words.embed_tokens(torch.tensor(trained)))
        # it ends at its end, and no sooner
        first = next(place for place in range(len(scored)) if scored[place : place + len(words.end)] == words.end)
        assert first == len(scored) - len(words.end)
        # no mark stands in it
        assert not set(scored) & set(words.vocabulary.marks.values())


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("variable", ["action", "observation"])
def test_a_text_comes_back_from_its_tokens(name, variable, backbones):
    words = model_of(backbones[name], STRANGE).words(variable)
    assert words is not None
    for text in STRANGE:
        (piece,) = words.pieces_of([text])
        if name in ("byte level", "bytes") or not text.startswith(" "):  # others swallow a space in front
            assert words.text_of(piece) == text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_written_freely_is_read_on_as_training_would_have_written_it(name, backbones):
    model = model_of(backbones[name], STRANGE)
    context = Context(model, 8)
    context.write(observation=["a room"] * 8)
    texts = context.sample_text("action")
    other = Context(model, 8)
    other.write(observation=["a room"] * 8)
    other.write(action=texts)
    for each in (context, other):
        each.write(reward=[[1.0]] * 8)
    torch.testing.assert_close(context._state_before("return_to_go"), other._state_before("return_to_go"))


@pytest.mark.parametrize("name", LOSSY)
def test_a_tokenizer_that_cannot_write_an_end_is_refused_in_one_sentence(name, backbones):
    with pytest.raises(UsageError, match=r"tokenizer writes the end of observation, '\\n', as ''.*no text would end"):
        model_of(backbones[name], ["take lamp"])


def test_a_text_that_its_tokens_do_not_give_back_is_told_once(backbones, caplog):
    backbone, layout = backbones["word piece"], windows_of([""]).layout
    variable = Variable("action", "text", 100, 1.0, before=" ", end="<|im_end|>")
    from seqdec.model.words import Words

    assert layout.is_language
    words = Words(variable, 32, 1.0, backbone.vocabulary(), is_language=True)
    words.fit(np.array(["take lamp", "Take Lamp", "TAKE"], object))
    assert [record.message for record in caplog.records] == [
        "action has the text 'Take Lamp', which the backbone's tokenizer gives back as 'take lamp': "
        "free texts will look so"
    ]


def test_a_text_in_which_its_own_end_stands_is_refused(backbones):
    from seqdec.model.words import Words

    variable = Variable("action", "text", 100, 1.0, end=";")
    words = Words(variable, 32, 1.0, backbones["byte level"].vocabulary(), is_language=True)
    words.fit(np.array(["a\nb"], object))
    with pytest.raises(DataError, match="the text 'a;b', in which its end ';' stands: it would end there"):
        words.fit(np.array(["a\nb", "a;b"], object))


def test_numbers_in_digits_have_room_whatever_stands_around_them(backbones):
    texts = ["a", "b", "c"]
    layout = windows_of(texts).layout
    rewards = np.array([-0.00012345, 1.5e15, -123456.0], np.float32)
    steps = {**episode_of(texts, texts).steps, "reward": rewards}
    windows = Windows(from_episodes([Episode(steps, final="", terminated=True, truncated=False)], SPEC), layout)
    model = build_model(windows, backbones["bytes"])
    assert all(loss.isfinite() for loss in model(windows.gather(np.array([0]))).values())

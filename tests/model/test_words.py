"""Words: in training as in the backbone itself, packed without gaps, and in a folder that others can read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from byte_models import load_with_bytes
from seqdec import Layout, Variable, Windows, build_model, load_backbone, load_policy
from seqdec.data.dataset import from_episodes
from seqdec.errors import DataError, UsageError
from seqdec.model.backbone import Backbone
from seqdec.model.folder import save_policy
from seqdec.model.packed import pack, pack_window
from seqdec.model.words import in_digits
from seqdec.sequence.draw import Draw
from word_episodes import SPEC, episodes, language


@pytest.fixture(scope="module")
def small() -> Backbone:
    return load_backbone("small", num_layers=2, dropout=0.0, predicts_words=True)


def test_a_model_of_words_is_its_backbone_and_its_loss_is_the_backbones_own(small):
    model, windows = language(small)
    batch = windows.gather(np.arange(0, len(windows), 5))
    window = pack_window(model, batch)
    ids = torch.from_numpy(window.ids)
    assert not any(parameter.shape for name, parameter in model.named_parameters() if not name.startswith("backbone."))
    with torch.no_grad():
        plain = model.backbone(input_ids=ids.clamp(min=0), output_hidden_states=True)
        torch.testing.assert_close(small.read(window.tokens), plain.hidden_states[-1])
        losses = model(batch)
    # by hand: transformers' own logits at the tokens of what is predicted
    for name, loss in losses.items():
        rows, _, places, tokens = window.words_of(name, windows.layout.positions(name)[: batch["mask"].shape[1]])
        expected = F.cross_entropy(plain.logits[rows, places - 1], torch.from_numpy(tokens), reduction="sum")
        torch.testing.assert_close(loss, expected)


def test_a_window_is_written_as_its_words_one_after_the_other(small):
    model, windows = language(small)
    (row,) = np.flatnonzero(windows.lengths == 2)[:1]
    index = windows.lengths[:row].sum()
    window = pack_window(model, windows.gather(np.array([index])))
    episode = episodes()[row]
    togo = np.cumsum(np.asarray(episode.steps["reward"])[::-1])[::-1]
    seen, done = episode.steps["observation"], episode.steps["action"]
    text = f"{episode.text}\n" + "".join(f"{seen[t]}\n{in_digits(togo[t])} > {done[t]}\n" for t in range(2))
    assert small.vocabulary().decode(window.ids[0, 1:].tolist()) == text


def test_rows_have_no_gaps_and_no_more_padding_than_the_longest_needs(small):
    model, windows = language(small, numbers="embedding")
    draw = Draw(windows, np.arange(len(windows)))
    window = pack_window(model, draw.gather())
    assert (window.slots.lengths - draw.work == window.slots.lengths[0] - draw.work[0]).all()  # start and prompt
    assert window.tokens.shape[1] == window.slots.lengths.max()
    for row, length in enumerate(window.slots.lengths):
        assert (window.ids[row, length:] == -2).all()


def test_no_timestep_is_lost_where_windows_have_room_for_some_tokens_only(small):
    model, windows = language(small, max_tokens=80, context_length=20)
    draw = Draw(windows, np.arange(len(windows)))
    assert pack_window(model, draw.gather()).slots.lengths.max() <= 80
    timesteps, episode_of = draw.gather()["timestep"].numpy(), np.repeat(np.arange(8), windows.lengths)
    for index in range(len(windows)):
        middle = index - windows.lengths[: episode_of[index]].sum()
        assert middle in timesteps[index], "the timestep that a window is of stands in it"
    assert (draw.sizes < np.minimum(windows.lengths[episode_of], 20)).any()
    with pytest.raises(DataError, match="exceed the context of 20 tokens"):
        language(small, max_tokens=20)


def test_a_held_out_text_that_is_too_long_is_refused_before_training(small):
    model, windows = language(small)
    held = replace(episodes()[3], text="a task of many words " * 9)
    dataset = from_episodes([*episodes()[:3], held], SPEC)
    layout = replace(windows.layout, variables=tuple(_with_room(own, 60) for own in windows.layout.variables))
    with pytest.raises(DataError, match="text has a text of 190 tokens, there is room for 60"):
        build_model(Windows(dataset, layout, episodes=[0, 1, 2]), small)


def _with_room(variable: Variable, num_tokens: int) -> Variable:
    return replace(variable, size=num_tokens) if variable.kind == "text" else variable


def test_pack_moves_tokens_to_the_left_and_keeps_their_order():
    parts = [
        (torch.tensor([[[1.0], [2.0]], [[3.0], [9.0]]]), torch.tensor([2, 1])),
        (torch.tensor([[[4.0]], [[5.0]]]), None),
    ]
    tokens, counts = pack(parts)
    assert counts.tolist() == [3, 2] and tokens[0, :, 0].tolist() == [1, 2, 4] and tokens[1, :2, 0].tolist() == [3, 5]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gpt_neox", "phi"])
def test_lower_layers_that_are_kept_give_the_same_losses_and_gradients(family, family_folder):
    folder = family_folder(family)
    load_with_bytes(load_backbone(str(folder)), folder)
    name = str(folder.parent / f"{folder.name}-bytes")
    values = []
    for is_kept in (False, True):
        backbone = load_backbone(name, predicts_words=True, freeze_layers=1, dropout=0.0)
        model, windows = language(backbone, text_tokens=200)
        assert backbone.lower is not None and model.train().training
        if not is_kept:
            object.__setattr__(backbone, "lower", None)
        batch = windows.gather(np.array([0, 9, 9, 20]))
        for _ in range(2):  # computed, and then as they were kept
            model.zero_grad()
            loss = sum(model(batch).values())
            loss.backward()
        assert all(module.training for module in model.modules()), "dropout goes on"
        gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        assert not any(".0." in key for key in gradients), "the lowest layer learns nothing"
        values.append((loss, gradients))
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-3)


def test_the_folder_of_a_language_policy_is_a_language_model_to_transformers(small, tmp_path: Path):
    model, windows = language(small)
    save_policy(model, tmp_path / "policy")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy" / "backbone").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy" / "backbone")
    first = tokenizer.convert_ids_to_tokens(small.vocabulary().first)
    batch = windows.gather(np.array([0]))
    with torch.no_grad():
        ours = model.eval().log_probs(batch)
        again = load_policy(tmp_path / "policy").log_probs(batch)
    assert torch.equal(ours["action"], again["action"])
    card = (tmp_path / "policy" / "README.md").read_text()
    assert f"{first}{{text}}\n{{observation}}\n{{return_to_go}} > {{action}}\n" in card
    assert_plain_says_the_same(model, plain, tokenizer)


def assert_plain_says_the_same(model, plain, tokenizer) -> None:
    from seqdec import Context

    context = Context(model.eval(), 1)
    context.write(text=["task 0"])
    context.write(observation=["lamp hat"], return_to_go=[[12.5]])
    first = tokenizer.convert_ids_to_tokens(model.vocabulary.first)
    text = f"{first}task 0\nlamp hat\n12.5 > take lamp\n"
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        theirs = plain(input_ids=ids).logits.log_softmax(-1)
    num_action = len(tokenizer(" take lamp\n", add_special_tokens=False)["input_ids"])
    taken = theirs[0, -num_action - 1 : -1].gather(1, ids[0, -num_action:, None]).sum()
    torch.testing.assert_close(context.log_prob("action", ["take lamp"])[0], taken, atol=1e-4, rtol=1e-4)


def test_the_adapters_of_a_language_policy_merged_by_peft_are_one(family_folder, tmp_path: Path):
    PeftModel = pytest.importorskip("peft").PeftModel

    folder = family_folder("llama")
    load_with_bytes(load_backbone(str(folder)), folder)
    base = str(folder.parent / f"{folder.name}-bytes")
    backbone = load_backbone(base, finetune="lora", predicts_words=True)
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model, _ = language(backbone, text_tokens=200)
    save_policy(model, tmp_path / "policy")
    assert f"holds PEFT adapters of {base}" in (tmp_path / "policy" / "README.md").read_text()
    saved = tmp_path / "policy" / "backbone"
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), saved).merge_and_unload().eval()
    assert_plain_says_the_same(model, plain, AutoTokenizer.from_pretrained(saved))


def test_a_number_is_written_with_the_digits_that_count():
    written = {0.0: "0", 12.3456: "12.35", 100.0: "100", 1234.5: "1234", -3.5: "-3.5", 0.00012345: "0.0001234"}
    assert {value: in_digits(value) for value in written} == written and in_digits(-0.0) == "0"
    assert in_digits(123456.0) == "123500"


def test_words_that_cannot_be_are_refused_in_one_sentence():
    with pytest.raises(UsageError, match="action is predicted word by word: give it an end"):
        Variable("action", "text", 9, 1.0)
    with pytest.raises(UsageError, match="only a single number is written in digits"):
        Variable("reward", "number", 2)
    text, action = Variable("observation", "text", 9), Variable("action", "discrete", 2, 1.0)
    with pytest.raises(UsageError, match="'observation' is written in words: it needs a slot of its own"):
        Layout((text, action), (("observation", "action"),))
    with pytest.raises(UsageError, match="freeze_layers cannot be 2"):
        load_backbone("small", num_layers=2, predicts_words=True, freeze_layers=2)


def test_a_hidden_return_is_not_predicted_word_by_word_and_not_counted(small):
    model, windows = language(small, prompt=["text", "target_return"], prompt_dropout=0.5)
    draw = windows.draw(0, 0, 16)
    batch, known = draw.gather(), draw.num_known()
    hidden = batch["hidden.return_to_go"] & batch["mask"]
    assert hidden.any() and known["return_to_go"] == int((batch["mask"] & ~hidden).sum())
    poisoned = {**batch, "return_to_go": torch.where(hidden[..., None], 7.0, batch["return_to_go"])}
    for name, loss in model(batch).items():
        torch.testing.assert_close(loss, model(poisoned)[name])

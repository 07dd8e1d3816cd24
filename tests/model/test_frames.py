"""A policy reads of a conversation what a chat server would send."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Text
from transformers import AutoModelForCausalLM

from chat_backbone import ASK, BODY, CHATML, make_backbone, make_tokenizer
from seqdec.data.schema import environment_of
from seqdec.finetune import make_layout
from seqdec.formats.load import load_dataset
from seqdec.inference.context import Context
from seqdec.model.backbone import load_backbone
from seqdec.model.frames import Frames, framed, frames_of, read_frames
from seqdec.model.packed import pack_window
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.model.smollm2 import smollm2_folder
from seqdec.sequence.presets import PRESETS, layout_from_spaces
from seqdec.sequence.windows import Windows

TURNS = [
    ("system", "Answer in one word."), ("user", "Is it warm in Rome?\n\nAnd in Oslo?"),
    ("assistant", '{"name": "look"}'), ("user", "31 degrees, é 🙂"), ("assistant", ""), ("user", ""),
    ("assistant", "Yes, it is."),
]  # fmt: skip
HAS_SMOLLM2 = smollm2_folder() is not None
needs_smollm2 = pytest.mark.skipif(not HAS_SMOLLM2, reason="the packaged SmolLM2 is not installed")
OLD = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"


def log_of(folder: Path, *conversations, **more) -> str:
    lines = [{"messages": [{"role": role, "content": text} for role, text in turns], **more} for turns in conversations]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"chat:{folder / 'log.jsonl'}"


def windows_of(folder: Path, backbone: str, layout: str = "behaviour_cloning", **options) -> Windows:
    dataset = load_dataset(log_of(folder, TURNS, success=True))
    order = make_layout(layout, environment_of(dataset), dataset, backbone=backbone, prompt_dropout=0.0, **options)
    return Windows(dataset, order)


def read_by(model: SequenceModel, windows: Windows) -> list[int]:
    """The tokens that a model reads of the whole conversation."""
    batch = windows.gather(np.arange(len(windows)))
    whole = int(batch["mask"].sum(1).argmax())
    window = pack_window(model, {name: values[whole : whole + 1] for name, values in batch.items()})
    return window.ids[0].tolist()


def sent_by_a_server(tokenizer, turns, *, asks: bool = False) -> list[int]:
    messages = [{"role": role, "content": text} for role, text in turns]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=asks, return_dict=False)


@pytest.mark.parametrize("template", [CHATML, "{{ bos_token }}" + CHATML], ids=["plain", "with the first token"])
def test_a_model_reads_what_a_chat_server_sends(tmp_path, template):
    name = make_backbone(tmp_path / "backbone", template)
    windows = windows_of(tmp_path, name)
    loaded = load_backbone(name, predicts_words=True)
    model = build_model(windows, loaded)
    sent = sent_by_a_server(loaded.tokenizer, TURNS)
    assert read_by(model, windows) == (sent if "bos" in template else [0, *sent])


@needs_smollm2
def test_smollm2_reads_what_a_chat_server_sends(tmp_path):
    """Its template begins with the token that all its sequences begin with."""
    windows = windows_of(tmp_path, "smollm2")
    loaded = load_backbone("smollm2", num_layers=1, predicts_words=True)
    model = build_model(windows, loaded)
    assert read_by(model, windows) == sent_by_a_server(loaded.tokenizer, TURNS)
    frames = read_frames(loaded.tokenizer)
    assert frames == Frames(
        ("system\n", "<|im_end|>\n"), ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"), "<|im_end|>\n"
    )


@pytest.mark.parametrize("preset", ["decision_transformer", "multi_game"])
def test_a_return_in_words_is_a_part_of_the_users_message(tmp_path, preset):
    name = make_backbone(tmp_path / "backbone")
    windows = windows_of(tmp_path, name, preset, prompt=["target_return", "text"])
    loaded = load_backbone(name, predicts_words=True)
    model = build_model(windows, loaded)
    told = [("1\n", "\n1 >")] * 3 if preset == "multi_game" else [("1 >\n", "")] * 3
    said = [("system", f"1\n{TURNS[0][1]}")]
    for (role, text), (before, after) in zip(TURNS[1:], [pair for pair in told for _ in range(2)], strict=True):
        text = text if role == "assistant" else text + after if preset == "multi_game" else before + text
        said.append((role, text))
    assert windows.layout.is_language
    assert read_by(model, windows) == [0, *sent_by_a_server(loaded.tokenizer, said)]


def test_an_acting_policy_scores_answers_as_plain_transformers_does_after_what_a_server_sends(tmp_path):
    name = make_backbone(tmp_path / "backbone")
    windows = windows_of(tmp_path, name)
    model = build_model(windows, load_backbone(name, predicts_words=True)).eval()
    plain = AutoModelForCausalLM.from_pretrained(name)
    tokenizer = make_tokenizer()
    context = Context(model, 1)
    context.write(text=[TURNS[0][1]])
    for index in (1, 3, 5):
        context.write(observation=[TURNS[index][1]])
        sent = [0, *sent_by_a_server(tokenizer, TURNS[: index + 1], asks=True)]
        for answer in (TURNS[index + 1][1], "Something else."):
            own = tokenizer(answer + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                scores = plain(torch.tensor([sent + own])).logits[0].log_softmax(-1)
            expected = sum(scores[len(sent) - 1 + place, token] for place, token in enumerate(own))
            assert context.log_prob("action", [answer]).item() == pytest.approx(expected.item(), abs=1e-3)
        context.write(action=[TURNS[index + 1][1]])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, None),
        (BODY.replace("m['content']", "m['content'] | trim") + ASK, "otherwise than each of its turns"),
        (OLD + CHATML, "no system"),
        ("{{ strftime_now('%Y') }}" + CHATML, "it tells the date"),
        (BODY + ASK.replace("assistant\n", "assistant\n<think>"), "asks for an answer"),
        (BODY.replace("m['content']", "m['content'] + m['content']") + ASK, "every text once"),
        (BODY.replace("m['content']", "''") + ASK, "every text once"),
        ("{% for m in messages %}{{ '\n' + m['role'] + ': ' + m['content'] }}{% endfor %}", "end the assistant's turn"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages.nothing.at.all }}", "Undefined"),
        ("{% for", "TemplateSyntaxError"),
        ("{% if loop %}{% endif %}" + BODY.replace("m['role']", "('u' if loop.last else m['role'])"), "otherwise"),
    ],
)  # fmt: skip
def test_a_template_that_does_more_than_to_frame_is_not_used_and_it_is_told(template, reason, caplog):
    assert read_frames(make_tokenizer(template)) is None
    told = [record.getMessage() for record in caplog.records]
    if reason is None:
        assert not told
        return
    assert len(told) == 1 and "\n" not in told[0] and reason in told[0], told
    assert told[0].startswith("the backbone's chat template is not used, conversations are read as plain lines: ")


FRAMES = Frames(("S<", ">"), ("U<", ">A<"), ">")


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("fused",)])
def test_frames_go_around_messages_or_the_layout_stays_as_it_is(preset):
    space = Text(9)
    plain = layout_from_spaces(preset, space, space, numbers="words", prompt=["text"])
    layout = framed(plain, FRAMES)
    if preset == "trajectory":  # an action is followed by what it earned
        assert layout == plain
        return
    around = {variable.name: (variable.before, variable.end) for variable in layout.variables}
    assert (around["text"], around["action"]) == (("S<", ">"), ("", ">"))
    assert around["observation"] == {
        "decision_transformer": ("", ">A<"), "paired": ("", ">A<"), "multi_game": ("U<", "\n"),
        "behaviour_cloning": ("U<", ">A<"),
    }[preset]  # fmt: skip


def test_backbones_without_a_template_read_plain_lines(tmp_path):
    assert frames_of("small") is None
    windows = windows_of(tmp_path, "small")
    assert {variable.name: (variable.before, variable.end) for variable in windows.layout.variables} == {
        "text": ("", "\n"), "observation": ("", "\n"), "action": (" ", "\n")
    }  # fmt: skip


def test_what_is_observed_stays_in_its_timestep_even_where_it_never_changes(tmp_path):
    """A conversation of one turn has one observation: it is no fact of the episode."""
    dataset = load_dataset(log_of(tmp_path, TURNS[1:3]))
    layout = make_layout("multi_game", environment_of(dataset), dataset)
    assert layout.prompt == (("text",),) and layout.step == (("observation",), ("return_to_go",), ("action",))

"""From a log of good and bad answers to an agent that is asked for either."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from chat_backbone import CHATML, make_backbone
from seqdec import Policy, finetune, load_policy
from seqdec.cli.main import main
from seqdec.inference.prompt import Prompt

ANSWERS = {"Is it warm?": ("warm", "cold"), "Is it late?": ("late", "early")}  # right, wrong
TASK = "Answer."


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """Questions with right and wrong answers, of which the right ones pay 1."""
    random, lines = np.random.default_rng(0), []
    for index in range(80):
        question = list(ANSWERS)[index % 2]
        answer = ANSWERS[question][random.integers(2)]
        turns = {"system": TASK, "user": question, "assistant": answer}
        messages = [{"role": role, "content": text} for role, text in turns.items()]
        lines.append(json.dumps({"messages": messages, "success": answer == ANSWERS[question][0]}))
    path = tmp_path_factory.mktemp("chat") / "log.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    return make_backbone(tmp_path_factory.mktemp("backbone"), "{{ bos_token }}" + CHATML)


def test_an_agent_answers_as_well_as_it_is_asked_to_also_by_plain_transformers(log, backbone, tmp_path):
    policy = finetune(
        f"chat:{log}", backbone, init="random", context_length=2, steps=300, batch_size=16, learning_rate=3e-3,
        eval_every=0,
    )  # fmt: skip
    assert policy.model.layout.is_language
    for question, answers in ANSWERS.items():
        for asked, expected in zip((1, 0), answers, strict=True):
            agent = Policy(policy.model, prompt=Prompt(target_return=asked, text=TASK), temperature=0)
            agent.reset()
            assert agent.act(question, info={"valid_actions": [*answers]}) == expected
            agent.reset()
            assert agent.act(question) == expected  # written freely, letter by letter
    # what a chat server does with the folder
    policy.save_pretrained(tmp_path / "policy")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy" / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy" / "backbone")
    for question, answers in ANSWERS.items():
        for asked, expected in zip((1, 0), answers, strict=True):
            messages = [{"role": "system", "content": TASK}, {"role": "user", "content": f"{question}\n{asked} >"}]
            sent = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
            written = model.generate(**sent, do_sample=False, max_new_tokens=20)[0, sent["input_ids"].shape[1] :]
            assert tokenizer.decode(written) == f"{expected}<|im_end|>"


def test_the_verb_trains_on_a_log_with_the_backbones_own_frames(log, backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--steps 2 --batch-size 4 --eval-every 0 --checkpoint-every 0 --text-tokens 64"
    assert main(f"train --data chat:{log} --backbone {backbone} {options}".split()) == 0
    told = capsys.readouterr().err
    assert "training without evaluations: the data set names env 'chat'" in told
    layout = load_policy(tmp_path / "runs" / "log" / "policy").layout
    around = {variable.name: (variable.before, variable.end) for variable in layout.variables}
    assert around == {
        "text": ("<|im_start|>system\n", "<|im_end|>\n"),
        "observation": ("<|im_start|>user\n", "\n"),
        "return_to_go": ("", " ><|im_end|>\n<|im_start|>assistant\n"),
        "action": ("", "<|im_end|>\n"),
    }
    streamed = f"--streaming --buffer 16 --output runs/streamed {options}"
    assert main(f"train --data chat:{log} --backbone {backbone} {streamed}".split()) == 0
    assert load_policy(tmp_path / "runs" / "streamed" / "policy").layout == layout

"""Training in words: packed as alone, in parts as at once, resumed as unbroken, streamed as kept, loaded as it was."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from byte_models import load_with_bytes
from conftest import make_windows
from seqdec import finetune
from seqdec.cli.main import main
from seqdec.data.dataset import save
from seqdec.data.source import Source
from seqdec.model.backbone import Backbone, load_backbone
from seqdec.model.folder import load_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.sequence.stream import StreamWindows
from seqdec.sequence.windows import Windows
from seqdec.training.loop import train
from small_runs import SETTINGS, assert_same_weights, os_signal_at
from text_room import Room
from word_episodes import SPEC, episodes, language

Finetune = Literal["full", "lora", "frozen"]
NO_PEFT = pytest.mark.skipif(find_spec("peft") is None, reason='pip install "seqdec[lora]"')
LORA = pytest.param("lora", marks=NO_PEFT)


@pytest.fixture(scope="module")
def small() -> Backbone:
    return load_backbone("small", num_layers=2, dropout=0.0, predicts_words=True)


@pytest.fixture
def pretrained(family_folder) -> str:
    """Folder of a tiny llama with a token for each byte."""
    folder = family_folder("llama")
    load_with_bytes(load_backbone(str(folder)), folder)
    return str(folder.parent / f"{folder.name}-bytes")


@pytest.mark.parametrize("numbers", ["words", "embedding"])
@pytest.mark.parametrize("preset", ["multi_game", "trajectory"])
def test_windows_that_are_packed_together_lose_and_score_as_each_alone(preset, numbers):
    options = {"prompt": ["text", "target_return"], "prompt_dropout": 0.3, "max_tokens": 200, "text_tokens": 100}
    backbone = load_backbone("small", num_layers=2, predicts_words=True)
    model, windows = language(backbone, preset=preset, numbers=numbers, **options)
    indices = np.arange(0, 3 * len(windows), 5)
    batch = windows.gather(indices)
    model.eval().requires_grad_(False)
    together, scores = model(batch), model.log_probs(batch)
    sums = dict.fromkeys(together, 0.0)
    for row, index in enumerate(indices):
        alone = windows.gather(np.array([index]))
        for name, loss in model(alone).items():
            sums[name] += float(loss)
        for name, own in model.log_probs(alone).items():
            torch.testing.assert_close(scores[name][row, : own.shape[1]], own[0], atol=1e-4, rtol=1e-4)
            assert not scores[name][row, own.shape[1] :].any()
    for name, loss in together.items():
        assert float(loss) == pytest.approx(sums[name], rel=1e-4), name


def test_parts_of_a_batch_in_words_are_one_batch(tmp_path: Path):
    models = []
    for accumulate in (1, 4):
        model, windows = language(load_backbone("small", num_layers=2, dropout=0.0, predicts_words=True))
        train(model, windows, out=tmp_path / str(accumulate), steps=4, batch_size=16, accumulate=accumulate)
        models.append(model)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=3e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("finetuned", ["full", LORA, "frozen"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_with_kept_states_is_resumed_bit_for_bit_and_loads_as_it_was(
    pretrained, precision, finetuned: Finetune, tmp_path: Path
):
    def fresh() -> tuple[SequenceModel, Windows]:
        parts = {"freeze_layers": 1, "finetune": finetuned, "dropout": 0.3}
        return language(load_backbone(pretrained, predicts_words=True, **parts))  # pyright: ignore[reportArgumentType]

    settings = {**SETTINGS, "precision": precision, "heldout": fresh()[1], "eval_every": 4}
    scored = fresh()[1].gather(np.arange(4))

    def run(name: str, *, is_resumed: bool = False, stop: int = 0) -> SequenceModel:
        model, windows = fresh()
        assert model.backbone_source.lower is not None
        if stop:
            os_signal_at(model, stop)

        def evaluate() -> dict[str, float]:  # in full precision, of windows that training draws as well
            return {"score": float(model.eval().log_probs(scored)["action"].sum())}

        train(
            model, windows, out=tmp_path / name, steps=9, resume=is_resumed, evaluate=evaluate,
            **settings,  # pyright: ignore
        )  # fmt: skip
        return model

    unbroken = run("a")
    run("b", stop=6)
    resumed = run("b", is_resumed=True)
    assert_same_weights(unbroken, resumed)
    again = load_policy(tmp_path / "b" / "policy")
    torch.testing.assert_close(again.log_probs(scored)["action"], resumed.eval().log_probs(scored)["action"])


def test_a_stream_in_words_gives_the_windows_of_its_data_set(small):
    options = {"max_tokens": 80, "context_length": 20}
    _, whole = language(small, **options)
    rows = [dict(episode.to_row()) for episode in episodes()]
    stream = StreamWindows(Source(SPEC, read=lambda: iter(rows), identity={}), whole.layout, buffer=16)
    build_model(stream, small)
    for step in range(4):
        one, other = whole.draw(step, 0, 16), stream.draw(step, 0, 16)
        assert one.work.tolist() == other.work.tolist()
        batches = one.gather(), other.gather()
        assert all(torch.equal(value, batches[1][name]) for name, value in batches[0].items())


def test_a_task_in_words_and_one_in_numbers_share_a_backbone(tmp_path: Path):
    backbone = load_backbone("small", num_layers=2, dropout=0.0, predicts_words=True, freeze_layers=1)
    spoken, sentences = language(backbone)
    windows, _ = make_windows(context_length=4)
    models = {"spoken": spoken, "numbers": build_model(windows, backbone)}
    train(models, {"spoken": sentences, "numbers": windows}, out=tmp_path / "run", steps=8, batch_size=8)
    for task, own in (("spoken", sentences), ("numbers", windows)):
        batch = own.gather(np.arange(5))
        loaded = load_policy(tmp_path / "run" / "policy", task=task)
        for name, value in models[task].eval().log_probs(batch).items():
            torch.testing.assert_close(loaded.log_probs(batch)[name], value)


def test_facts_of_the_future_and_demos_that_would_be_words_are_refused(small):
    from seqdec.errors import UsageError

    for fact in ("goal", "final", "waypoint1"):
        with pytest.raises(UsageError, match=f"{fact} would be read from observation, which is a text: .*prompt="):
            language(small, prompt=[fact])
    with pytest.raises(UsageError, match="a demo shows numbers, and here all is words: leave it out"):
        language(small, prompt=["demo"])


@pytest.mark.parametrize("finetuned", ["full", LORA])
def test_a_policy_in_words_is_finetuned_by_the_door_and_evaluated_from_the_command_line(
    pretrained, finetuned: Finetune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import gymnasium

    from seqdec.play import random_policy, record

    env = f"seqdec-tests/Said{finetuned}-v0"
    gymnasium.register(env, Room, max_episode_steps=5)
    dataset = record(env, random_policy(Room.action_space), num_episodes=12, seed=0)
    save(dataset, tmp_path / "data")
    policy = finetune(
        str(tmp_path / "data"), pretrained, steps=4, batch_size=8, freeze_layers=1, finetune=finetuned,
        output=tmp_path / "run", backbone_learning_rate=1e-3,
    )  # fmt: skip
    policy.reset()
    assert policy.act("A room: lamp", None, {"valid_actions": ["take lamp", "wait"]}) in ("take lamp", "wait")
    words = f"eval {tmp_path}/run --target-return 0 1 --episodes 3 --num-envs 2 --output {tmp_path}/report"
    assert main(words.split()) == 0, capsys.readouterr().err
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {words[0] for words in said if words} >= {"0", "1"}, "a line for each target"

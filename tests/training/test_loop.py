"""The training loop: exact to resume, equal over processes, honest about what goes wrong."""

import itertools
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from conftest import box_episodes, box_spec, make_windows
from seqdec import storage
from seqdec.data.dataset import from_episodes
from seqdec.data.schema import environment_of
from seqdec.errors import DataError, NumericsError, StorageError, UsageError
from seqdec.inference.evaluation import spearman
from seqdec.inference.policy import Policy
from seqdec.model.backbone import load_backbone
from seqdec.model.folder import load_policy
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.play import make_envs, rollout, scripted_cartpole
from seqdec.sequence.draw import Draw
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.training import processes
from seqdec.training import step as steps
from seqdec.training.checkpoints import checkpoints, restore_checkpoint, save_checkpoint
from seqdec.training.loop import train
from seqdec.training.run import heldout_losses
from small_runs import SETTINGS, assert_same_weights, os_signal_at

ROOT = Path(__file__).parents[2]
TWO = [
    "-m",
    "torch.distributed.run",
    "--nproc_per_node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "127.0.0.1:0",
]


def fresh(seed: int = 0, *, dropout: float = 0.1, finetune: str = "full", **options) -> tuple[SequenceModel, Windows]:
    """A 2-layer model with dropout, and its windows."""
    windows, spec = make_windows(**options)
    backbone = load_backbone("small", num_layers=2, dropout=dropout, seed=seed, finetune=finetune)  # pyright: ignore
    return build_model(windows, backbone, seed=seed), windows


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def parameters_of(models: list[SequenceModel]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return each parameter of two models, by name."""
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        yield name, one.detach(), other.detach()


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path):
    unbroken, windows = fresh()
    train(unbroken, windows, out=tmp_path / "a", steps=30, **SETTINGS)
    first, windows = fresh()
    os_signal_at(first, 13)
    outcome = train(first, windows, out=tmp_path / "b", steps=30, **SETTINGS)
    assert outcome.step == 13 and outcome.stopped_by == "SIGTERM"
    second, windows = fresh()
    train(second, windows, out=tmp_path / "b", steps=30, resume=True, **SETTINGS)
    assert_same_weights(unbroken, second)
    checkpoint = "checkpoints/step-000030/train/optimizer.safetensors"
    assert (tmp_path / "a" / checkpoint).read_bytes() == (tmp_path / "b" / checkpoint).read_bytes()


def test_a_checkpoint_keeps_how_gradients_of_fp16_are_scaled(tmp_path: Path):
    model, _ = fresh()
    optimizer, scalers = torch.optim.AdamW(model.parameters()), [torch.amp.GradScaler("cpu") for _ in range(2)]
    scalers[0].scale(model.start.sum() * math.inf).backward()
    scalers[0].step(optimizer)
    scalers[0].update()
    assert scalers[0].get_scale() == scalers[1].get_scale() / 2
    save_checkpoint(tmp_path, {"": model}, optimizer, 1, 1, scalers[0])
    restore_checkpoint(tmp_path, {"": model}, optimizer, scalers[1])
    assert scalers[1].state_dict() == scalers[0].state_dict()


def test_resumed_metrics_have_neither_gaps_nor_repeats(tmp_path: Path):
    model, windows = fresh()
    train(model, windows, out=tmp_path, steps=12, checkpoint_every=5, **SETTINGS)
    model, windows = fresh()
    # a crash after step 12: its checkpoint is lost, the one of step 10 is there
    for folder in checkpoints(tmp_path):
        if folder.name == "step-000012":
            (folder / "manifest.json").unlink()
    train(model, windows, out=tmp_path, steps=20, resume=True, keep_checkpoints=2, **SETTINGS)
    steps = [line["step"] for line in lines(tmp_path) if "train/loss" in line]
    assert steps == sorted(set(steps)) and steps[-1] == 20


def test_accumulating_equals_one_large_batch(tmp_path: Path):
    models = []
    for accumulate in (1, 4):
        model, windows = fresh(dropout=0.0)
        train(model, windows, out=tmp_path / str(accumulate), steps=5, batch_size=16, accumulate=accumulate)
        models.append(model)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4, msg=name)


def test_the_reported_loss_is_the_mean_over_valid_slots(tmp_path: Path):
    model, windows = fresh(dropout=0.0, context_length=24)
    indices = windows.draw(0, 0, 16).indices
    losses = model(windows.gather(indices))
    valid = int(windows.gather(indices)["mask"].sum())
    assert not windows.gather(indices)["mask"].all()
    train(model, windows, out=tmp_path, steps=1, batch_size=16, log_every=1)
    logged = lines(tmp_path)[0]
    action, to_go = losses["action"].item() / valid, losses["return_to_go"].item() / valid
    assert logged["train/loss_action"] == pytest.approx(action, rel=1e-5)
    assert logged["train/loss"] == pytest.approx(action + 0.01 * to_go, rel=1e-5)


def test_evaluating_does_not_touch_training(tmp_path: Path):
    plain, windows = fresh()
    train(plain, windows, out=tmp_path / "plain", steps=20, batch_size=8)
    watched, windows = fresh()

    def evaluate() -> dict[str, float]:
        codec = watched.codec("action")
        return {"eval/action": codec.predict(torch.randn(4, 128)).sample(torch.rand(4, 2)).sum().item()}

    out = tmp_path / "watched"
    train(watched, windows, out=out, steps=20, batch_size=8, heldout=windows, eval_every=7, evaluate=evaluate)
    assert_same_weights(plain, watched)
    assert {"eval/action", "heldout/loss_action"} <= set().union(*lines(tmp_path / "watched"))


def test_an_evaluation_that_fails_costs_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    model, windows = fresh()
    saved = []

    def evaluate() -> dict[str, float]:
        saved.append(checkpoints(tmp_path)[-1].name)
        if len(saved) == 2:
            raise RuntimeError("the environment broke")
        return {"eval/return_9": 1.5}

    with caplog.at_level(logging.WARNING):
        outcome = train(
            model, windows, out=tmp_path, steps=9, batch_size=8, eval_every=3, checkpoint_every=3, evaluate=evaluate
        )
    assert (outcome.step, outcome.stopped_by) == (9, None) and (tmp_path / "policy" / "manifest.json").exists()
    assert saved == ["step-000003", "step-000006", "step-000009"], "a step is saved before it is evaluated"
    measured = [(line["step"], line["eval/return_9"]) for line in lines(tmp_path) if "eval/return_9" in line]
    assert measured == [(3, 1.5), (6, None), (9, 1.5)]
    assert "the evaluation at step 6 failed (RuntimeError: the environment broke)" in caplog.text


def test_a_first_evaluation_that_fails_leaves_null(tmp_path: Path):
    model, windows = fresh()

    def evaluate() -> dict[str, float]:
        raise ValueError

    train(model, windows, out=tmp_path, steps=2, batch_size=8, heldout=windows, evaluate=evaluate)
    (line,) = (line for line in lines(tmp_path) if "eval/return" in line)
    assert line["step"] == 2 and line["eval/return"] is None and line["heldout/loss_action"] > 0


def test_an_interrupt_in_an_evaluation_is_no_failure_of_it(tmp_path: Path):
    model, windows = fresh()

    def evaluate() -> dict[str, float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, windows, out=tmp_path, steps=2, batch_size=8, evaluate=evaluate)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-000002"]


def test_a_resumed_run_makes_up_for_the_evaluation_that_a_signal_cut_off(tmp_path: Path):
    asked: list[int] = []

    def run(steps: int, *, stop_at: int = 0) -> None:
        model, windows = fresh()
        if stop_at:
            os_signal_at(model, stop_at)

        def evaluate() -> dict[str, float]:
            asked.append(steps)
            return {"eval/return": 1.0}

        options = {**SETTINGS, "eval_every": 4, "evaluate": evaluate}
        train(model, windows, out=tmp_path, steps=steps, resume=True, **options)

    run(20, stop_at=8)
    assert [line["step"] for line in lines(tmp_path) if "eval/return" in line] == [4]
    run(20, stop_at=3)  # the third step of this run is step 11
    assert [line["step"] for line in lines(tmp_path) if "eval/return" in line] == [4, 8]
    run(12)
    run(12)  # of a finished run everything is there
    assert [line["step"] for line in lines(tmp_path) if "eval/return" in line] == [4, 8, 12] and len(asked) == 3


def test_mixed_precision_keeps_float32_parameters_and_follows_the_full_one(tmp_path: Path):
    finals = []
    for precision in ("no", "bf16"):  # in one process, which accelerate alone refuses
        model, windows = fresh(dropout=0.0)
        train(model, windows, out=tmp_path / precision, steps=10, batch_size=16, log_every=10, precision=precision)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        finals.append(lines(tmp_path / precision)[-1]["train/loss"])
    assert finals[0] == pytest.approx(finals[1], rel=0.02) and finals[0] != finals[1]


@pytest.mark.parametrize("preset", ["multi_game", "fused"])
def test_computing_windows_of_like_size_together_changes_no_gradient(preset: str, monkeypatch, tmp_path: Path):
    gradients = []
    for worth in (1, 10**9):  # divide wherever a timestep of padding is saved, and never
        monkeypatch.setattr("seqdec.training.step.WORTH_A_PASS", worth)
        windows, spec = make_windows(preset, context_length=28)
        model = build_model(windows, load_backbone("small", num_layers=1, dropout=0.0))
        sizes = windows.draw(0, 0, 24).sizes
        assert (len(steps.parts_of(sizes, 1)) > 1) == (worth == 1)
        train(model, windows, out=tmp_path / f"{worth}", steps=1, batch_size=24, clip_norm=0.0, warmup_steps=0)
        gradients.append(
            {name: p.detach().clone() for name, p in model.named_parameters()} | lines(tmp_path / f"{worth}")[0]
        )
        AcceleratorState._reset_state(reset_partial_state=True)
    for name in ("train/loss", "train/gradient_norm"):
        assert gradients[0][name] == pytest.approx(gradients[1][name], rel=1e-5)
    for name, value in gradients[0].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, gradients[1][name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_little_of_what_is_computed_is_padding(accumulate: int):
    """Most episodes are shorter than the window, as in CartPole's mixed data; at most a tenth is padding."""
    random = np.random.default_rng(0)
    lengths = np.round(10 * 50 ** random.random(250)).astype(np.int64)  # log-uniform from 10 to 500
    length = 300
    valid = computed = 0
    for _ in range(20):
        drawn = random.choice(lengths, size=63, p=lengths / lengths.sum())
        sizes = np.minimum(drawn, length)
        parts = steps.parts_of(sizes, accumulate)
        assert sorted(np.concatenate(parts).tolist()) == list(range(63)) and len(parts) >= accumulate
        assert len(steps.parts_of(sizes, accumulate, divide=False)) == accumulate
        computed += sum(len(part) * int(sizes[part].max()) for part in parts)
        valid += int(sizes.sum())
    assert 1 - valid / computed < 0.1 < 1 - valid / (20 * 63 * length)


def test_held_out_losses_count_every_valid_slot_once():
    model, windows = fresh(dropout=0.0, context_length=12)
    model.eval()
    indices = np.arange(len(windows))
    with torch.no_grad():
        expected = model(windows.gather(indices))["action"].item() / Draw(windows, indices).num_valid
    assert heldout_losses({"": model}, {"": windows}, batch_size=7)["heldout/loss_action"] == pytest.approx(
        expected, rel=1e-4
    )


def test_new_and_pretrained_parameters_have_their_own_rates():
    model, _ = fresh()
    optimizer = steps.make_optimizer({"": model}, 1e-3, 1e-5, 0.1)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert set(rates) == {id(p) for p in trainable}
    assert rates[id(model.backbone.h[0].attn.c_attn.weight)] == (1e-5, 0.1)  # pyright: ignore
    assert rates[id(model.backbone.h[0].ln_1.weight)] == (1e-5, 0.0)  # pyright: ignore
    assert rates[id(model.time_projection.weight)] == (1e-3, 0.1)
    assert rates[id(model.start)] == (1e-3, 0.0)


def test_a_rate_that_would_match_no_parameter_is_an_error():
    model, _ = fresh()
    model.backbone.requires_grad_(False)
    with pytest.raises(UsageError, match="no backbone parameter is trainable"):
        steps.make_optimizer({"": model}, 1e-3, 1e-5, 0.1)


def test_the_rate_rises_and_falls_as_documented():
    rates = [steps.scheduled(step, 110, 10, "cosine") for step in range(110)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert steps.scheduled(10**6, 110, 10, "constant") == 1.0


def poison(model: SequenceModel, steps: set[int]) -> None:
    """Make the loss of these steps not a number."""
    calls = {"number": 0}

    def spoil(module, inputs, output):
        calls["number"] += 1
        return {name: value * math.nan for name, value in output.items()} if calls["number"] - 1 in steps else output

    model.register_forward_hook(spoil)


def test_a_loss_that_is_no_number_never_reaches_the_weights(tmp_path: Path):
    model, windows = fresh(dropout=0.0)
    poison(model, {2, 3})
    train(model, windows, out=tmp_path, steps=6, batch_size=8, log_every=6)
    assert lines(tmp_path)[-1]["train/skipped_steps"] == 2
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_three_such_losses_in_a_row_stop_the_run(tmp_path: Path):
    model, windows = fresh()
    poison(model, {2, 3, 4})
    with pytest.raises(
        NumericsError, match=r"steps 2 to 4 is not finite; the windows .*not-finite-step-000004\.safetensors"
    ):
        train(model, windows, out=tmp_path, steps=9, batch_size=8)
    batch = storage.read_tensors(tmp_path / "not-finite-step-000004.safetensors")
    assert torch.equal(batch["observation"], windows.draw(4, 0, 8).gather()["observation"])
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_gradients_are_clipped_to_the_norm(tmp_path: Path):
    model, windows = fresh()
    norms = []
    original = torch.optim.AdamW.step

    def watch(optimizer, *arguments, **options):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in gradients]).norm().item())
        return original(optimizer, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watch)
        train(model, windows, out=tmp_path, steps=5, batch_size=8, clip_norm=0.1)
    assert len(norms) == 5 and max(norms) <= 0.1 + 1e-5


def test_a_spike_is_seen_in_the_log_and_does_not_throw_the_weights_far(tmp_path: Path):
    models = []
    for name in ("plain", "spiked"):
        model, windows = fresh(dropout=0.0)
        if name == "spiked":  # a step of the first six, of which the last is logged
            calls = itertools.count(1)

            def grow(module, inputs, losses, calls=calls):
                return {key: value * 1e6 for key, value in losses.items()} if next(calls) == 3 else losses

            model.register_forward_hook(grow)
        train(model, windows, out=tmp_path / name, steps=12, batch_size=8, log_every=6, learning_rate=1e-3)
        models.append(model)
    plain, spiked = (
        [line["train/largest_gradient_norm"] for line in lines(tmp_path / name)] for name in ("plain", "spiked")
    )
    assert spiked[0] > 1e3 * plain[0] and spiked[1] < 10 * plain[1]
    assert all(line["train/gradient_norm"] <= line["train/largest_gradient_norm"] for line in lines(tmp_path / "plain"))
    for name, one, other in parameters_of(models):
        assert (one - other).abs().max() < 0.02, name  # as far as twelve steps of 1e-3 can go apart, and little more


def test_another_number_of_threads_gives_nearly_the_same_weights(tmp_path: Path):
    models = []
    for count in (1, 2):
        torch.set_num_threads(count)
        model, windows = fresh()
        train(model, windows, out=tmp_path / str(count), steps=6, batch_size=8)
        models.append(model)
    torch.set_num_threads(1)
    for name, one, other in parameters_of(models):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3, msg=name)


def test_an_episode_of_a_million_steps_trains_beside_one_of_one_step(tmp_path: Path):
    model, _ = fresh()
    episodes = box_episodes(2, lengths=(1, 2)) + box_episodes(1, lengths=(10**6, 10**6 + 1))
    dataset = from_episodes(episodes, box_spec())
    windows = Windows(dataset, model.layout)
    assert len(windows) > 10**6
    train(model, windows, out=tmp_path, steps=3, batch_size=8, log_every=1)
    assert all(math.isfinite(line["train/loss"]) for line in lines(tmp_path))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"batch_size": 10, "accumulate": 3}, "batch size 10 cannot be split"),
        ({"steps": 0}, "steps is 0"),
        ({"tracker": "mlflow"}, "unknown tracker 'mlflow'"),
        ({"tracker": "trackio"}, r'pip install "seqdec\[trackio\]"'),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict, complaint: str, tmp_path: Path):
    model, windows = fresh()
    with pytest.raises(UsageError, match=complaint):
        train(model, windows, out=tmp_path, **{"steps": 2, "batch_size": 8, **options})


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path, caplog):
    model, windows = fresh()
    train(model, windows, out=tmp_path, steps=10, batch_size=8, checkpoint_every=5, keep_checkpoints=2)
    newest = tmp_path / "checkpoints" / "step-000010"
    with (newest / "train" / "optimizer.safetensors").open("r+b") as file:
        file.truncate(100)
    model, windows = fresh()
    with caplog.at_level(logging.WARNING):
        train(model, windows, out=tmp_path, steps=10, batch_size=8, resume=True)
    assert "optimizer.safetensors" in caplog.text and "checkpoint before" in caplog.text


def test_resuming_with_another_model_is_refused_by_the_first_difference(tmp_path: Path):
    model, windows = fresh()
    train(model, windows, out=tmp_path, steps=2, batch_size=8)
    windows, spec = make_windows()
    other = build_model(windows, load_backbone("small", num_layers=1))
    with pytest.raises(UsageError, match=r"another model: backbone\.h\.1.* nothing here; resume with the settings"):
        train(other, windows, out=tmp_path, steps=4, batch_size=8, resume=True)


def test_without_any_good_checkpoint_resuming_is_an_error(tmp_path: Path):
    model, windows = fresh()
    train(model, windows, out=tmp_path, steps=2, batch_size=8)
    (tmp_path / "checkpoints" / "step-000002" / "train" / "state.json").unlink()
    with pytest.raises(DataError, match=r"state\.json"):
        train(model, windows, out=tmp_path, steps=4, batch_size=8, resume=True)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path):
    model, windows = fresh()

    def fill_the_disk() -> dict[str, float]:
        # a folder in the place of the log of file names: publishing step 10 fails on it
        (tmp_path / "checkpoints" / "step-000010").write_text("in the way")
        return {}

    with pytest.raises(StorageError, match="could not save step 10: .*step-000005 is kept"):
        train(
            model, windows, out=tmp_path, steps=10, batch_size=8, checkpoint_every=5, eval_every=5,
            evaluate=fill_the_disk,
        )  # fmt: skip
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-000005"]


def test_adapters_and_frozen_backbones_train_only_what_they_should(tmp_path: Path, family_folder):
    pytest.importorskip("peft")
    for finetune in ("lora", "frozen"):
        windows, spec = make_windows()
        model = build_model(windows, load_backbone(str(family_folder("llama")), finetune=finetune))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        train(model, windows, out=tmp_path / finetune, steps=3, batch_size=8)
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        in_backbone = {name for name in changed if name.startswith("backbone.")}
        assert in_backbone and all(("lora_" if finetune == "lora" else "norm") in name for name in in_backbone)


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, windows = fresh()
    train(model, windows, out=tmp_path, steps=4, batch_size=8, log_every=2, tracker="tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = [event.value for event in events.Scalars("train/loss")]
    assert logged == pytest.approx([line["train/loss"] for line in lines(tmp_path) if "train/loss" in line])


def test_a_tracker_that_fails_never_stops_training(tmp_path: Path, caplog):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("a file where the tracker wants its folder")
    model, windows = fresh()
    outcome = train(model, windows, out=tmp_path, steps=3, batch_size=8, tracker="tensorboard")
    assert outcome.step == 3 and "tensorboard unavailable" in caplog.text
    assert lines(tmp_path)[-1]["step"] == 3


def test_two_processes_follow_one(tmp_path: Path):
    """The same global batch on one process and on two (gloo): equal losses, one writer."""
    command = [str(ROOT / "tests" / "train_small.py"), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for name, launch in (("one", []), ("two", TWO)):
        subprocess.run([sys.executable, *launch, *command, name], check=True, env=environment, timeout=120)
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for a, b in zip(one, two, strict=True):
        for key in a:
            if key.startswith(("train/loss", "heldout/")):
                assert a[key] == pytest.approx(b[key], rel=1e-5), (key, a["step"])
    assert load_policy(tmp_path / "two" / "policy").layout.context_length == 12
    # in words, and of a stream, half of which is read by each: as one process that computes the windows of both
    for kind, num_lines in (("words", 7), ("stream", 13)):
        one, two = lines(tmp_path / f"one-{kind}"), lines(tmp_path / f"two-{kind}")
        assert len(one) == num_lines
        for a, b in zip(one, two, strict=True):
            for key in a:
                if key.startswith(("train/loss", "train/gradient", "heldout/")):
                    assert a[key] == pytest.approx(b[key], rel=1e-5), (key, a["step"])
        models = [load_policy(tmp_path / f"{name}-{kind}" / "policy") for name in ("one", "two")]
        for (name, weights), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(weights, other, atol=2e-5, rtol=1e-4, msg=name)
    # an episode that one of them cannot train on: both say so
    complaints = {(tmp_path / name).read_text() for name in ("one-bad-0", "two-bad-0", "two-bad-1")}
    assert len(complaints) == 1 and complaints.pop().startswith("episode 12, step 0: observation[1] is nan")
    # an evaluation that fails on the one that evaluates: the run goes on
    evaluated = [line for line in lines(tmp_path / "two") if "eval/return" in line]
    assert [(line["step"], line["eval/return"]) for line in evaluated] == [(6, None), (12, None)]
    # a save that fails on the one that saves: both end
    failures = [(tmp_path / f"two-blocked-{rank}").read_text() for rank in range(2)]
    assert failures[0].startswith("could not save step 3: ") and failures[1].endswith(failures[0]), failures
    # not a number on one process alone: both skip that step
    assert lines(tmp_path / "two-spoilt")[-1]["train/skipped_steps"] == 1
    # no thread that waits for the other is left at the interpreter's end, which it would abort (seen on Linux)
    assert [(tmp_path / f"two-threads-{rank}").read_text() for rank in range(2)] == ["", ""]
    # a signal to one process alone: both stop after that step, with a checkpoint
    assert [folder.name for folder in checkpoints(tmp_path / "two-stopped")] == ["step-000005"]


def test_a_process_that_hangs_is_named_and_one_that_dies_ends_the_others(tmp_path: Path):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", processes.PROCESS_SECONDS: "3"}
    launcher = subprocess.Popen(
        [sys.executable, *TWO, str(ROOT / "tests" / "train_hanging.py"), str(tmp_path)],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "said").exists() and launcher.poll() is None:
        time.sleep(0.05)
    first, second = (int((tmp_path / f"pid-{rank}").read_text()) for rank in range(2))
    os.kill(second, signal.SIGKILL)
    _, errors = launcher.communicate(timeout=60)
    said = (tmp_path / "said").read_text()
    assert said.startswith("process 1 of 2 (counted from 0) did not reach step 3 within 3 s: it hangs or is gone (")
    assert launcher.returncode != 0 and not psutil.pid_exists(first)
    assert f"Signal 9 (SIGKILL) received by PID {second}" in errors and "rank      : 1" in errors


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "86401"])
def test_a_limit_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(processes.PROCESS_SECONDS, text)
    with pytest.raises(UsageError, match="SEQDEC_PROCESS_SECONDS is '.*': give seconds, more than 0 and at most a day"):
        processes.join_processes()


def test_asking_for_more_earns_more(tmp_path: Path):
    """Seconds of training on the sample data; five targets."""
    dataset = scripted_cartpole(num_episodes=120)
    spec = environment_of(dataset)
    layout = layout_from_spaces("fused", spec.observation_space, spec.action_space, context_length=8)
    windows = Windows(dataset, layout)
    model = build_model(windows, load_backbone("small", dropout=0.0))
    began = time.perf_counter()
    train(model, windows, out=tmp_path, steps=250, batch_size=32, learning_rate=2e-3, clip_norm=1.0)
    targets = [20, 100, 200, 350, 500]
    achieved = []
    for target in targets:
        episodes = rollout(Policy(model, target), make_envs(spec, 12), num_episodes=12, seed=0)
        achieved.append(float(np.mean([episode.total_return for episode in episodes])))
    assert spearman(targets, achieved) >= 0.9, (achieved, time.perf_counter() - began)


def test_a_second_signal_ends_at_once(tmp_path: Path):
    script = (
        "import os, signal, sys, time; sys.path[:0] = ['tests', 'tests/training']; from test_loop import fresh; "
        "from seqdec import train\n"
        "model, windows = fresh()\n"
        "def slow(*ignored):\n"
        "    os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
        "model.register_forward_hook(slow)\n"
        f"train(model, windows, out={str(tmp_path)!r}, steps=5, batch_size=8)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=50, capture_output=True)
    assert ended.returncode == -signal.SIGTERM, re.sub(r"\s+", " ", ended.stderr.decode())[-300:]


def test_processes_that_cannot_find_each_other_are_told_how_to_start(monkeypatch: pytest.MonkeyPatch):
    PartialState._reset_state()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what accelerate sets on its way is taken back afterwards
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match="WORLD_SIZE asks for 2 processes.*start them with torchrun"):
        processes.join_processes()
    assert not PartialState._shared_state, "nobody takes what failed half-way for joined"


@pytest.mark.skipif(find_spec("wandb") is None, reason='pip install "seqdec[wandb]"')
def test_wandb_logs_offline_without_a_question_and_what_the_log_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "nobody-is-logged-in"))

    model, windows = fresh()
    train(model, windows, out=tmp_path / "run", steps=4, batch_size=8, log_every=2, tracker="wandb")
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    ends = time.monotonic() + 30
    while b"train/loss_action" not in record.read_bytes():  # a process of wandb's writes it, and may come to it later
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert lines(tmp_path / "run")[-1]["step"] == 4
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"  # a thread of wandb's would reach for the network later on

"""Acting is reading what training would have read: cached, batched, forked, refilled."""

import numpy as np
import pytest
import torch

from conftest import FAMILIES, box_episodes, make_model, prompted_model
from read_states import states_before
from seqdec.errors import UsageError
from seqdec.inference.context import Context
from seqdec.model.backbone import load_backbone
from seqdec.sequence import noise
from seqdec.sequence.presets import PRESETS


def play(model, batch, *, num_steps: int, use_cache: bool = True, rows=None) -> list[torch.Tensor]:
    """Write given values step by step; return the states that predicted the action, a list of [B, D]."""
    rows = range(len(batch["observation"])) if rows is None else rows
    context = Context(model, len(rows), use_cache=use_cache)
    names = [n for n in model.layout.step_names if n not in model.layout.late] + list(model.layout.late)
    states = []
    for timestep in range(num_steps):
        for name in names:
            if name == "action":
                states.append(context._state_before("action"))
            context.write(**{name: batch[name][list(rows), timestep]})
    return states


def random_values(model, num_sequences: int, num_steps: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = {}
    for variable in model.layout.variables:
        values[variable.name] = torch.randn(num_sequences, num_steps, variable.size, generator=generator).clamp(-1, 1)
    return values


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", PRESETS)
def test_cached_predictions_equal_full_ones_across_refills(family: str, preset: str, family_folder):
    model, _ = make_model(load_backbone(str(family_folder(family))), preset)
    values = random_values(model, 2, 17)  # the context of 6 is refilled several times
    cached = play(model, values, num_steps=17)
    full = play(model, values, num_steps=17, use_cache=False)
    for timestep, (one, other) in enumerate(zip(cached, full, strict=True)):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=f"timestep {timestep}")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_window_acted_on_is_the_window_trained_on(preset: str, backbone):
    model, windows = make_model(backbone, preset)
    full = [i for i in range(len(windows)) if windows.gather(np.array([i]))["timestep"][0].tolist() == list(range(6))]
    batch = windows.gather(np.array(full[:3]))
    trained = states_before(model, batch)["action"]
    acted = torch.stack(play(model, batch, num_steps=6), 1)
    torch.testing.assert_close(acted, trained, atol=1e-5, rtol=1e-4)


def test_a_refilled_context_is_a_window_of_its_newest_half(backbone):
    model, windows = make_model(backbone, "multi_game")
    values = random_values(model, 1, 7)
    last = play(model, values, num_steps=7)[-1]
    # at timestep 6 the window of 6 was full: timesteps 3, 4, 5 stayed, and 6 was written
    batch = {name: value[:, 3:7] for name, value in values.items()}
    batch = {name: torch.cat([value, torch.zeros(1, 2, value.shape[-1])], 1) for name, value in batch.items()}
    batch |= {"timestep": torch.tensor([[3, 4, 5, 6, 7, 8]]), "mask": torch.ones(1, 6, dtype=torch.bool)}
    torch.testing.assert_close(last, states_before(model, batch)["action"][:, 3], atol=1e-5, rtol=1e-4)
    assert windows.layout.context_length == 6


def test_a_batch_of_sequences_equals_each_alone(backbone):
    model, _ = make_model(backbone)
    values = random_values(model, 4, 9)
    together = play(model, values, num_steps=9)
    for row in range(4):
        alone = play(model, values, num_steps=9, rows=[row])
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], other[row], atol=1e-5, rtol=1e-4)


def test_fork_repeats_every_sequence(backbone):
    model, _ = make_model(backbone)
    values = random_values(model, 2, 4)
    context = Context(model, 2)
    for timestep in range(3):
        context.write(**{name: values[name][:, timestep] for name in ("observation", "return_to_go")})
        context._state_before("action")
        context.write(action=values["action"][:, timestep])
    context.fork(3)
    rows = [0, 0, 0, 1, 1, 1]
    context.write(**{name: values[name][rows, 3] for name in ("observation", "return_to_go")})
    forked = context._state_before("action")
    expected = play(model, values, num_steps=4)[-1]
    torch.testing.assert_close(forked, expected[rows], atol=1e-5, rtol=1e-4)


def test_keep_never_mixes_rows(backbone):
    model, _ = make_model(backbone)
    values = random_values(model, 4, 9)
    expected = play(model, values, num_steps=9)
    context, rows = Context(model, 4), [0, 1, 2, 3]
    for timestep in range(9):
        if timestep == 2:
            context.keep(torch.tensor([3, 1]))
            rows = [3, 1]
        if timestep == 7:
            context.keep(torch.tensor([1]))
            rows = [1]
        context.write(**{name: values[name][rows, timestep] for name in ("observation", "return_to_go")})
        torch.testing.assert_close(context._state_before("action"), expected[timestep][rows], atol=1e-5, rtol=1e-4)
        context.write(action=values["action"][rows, timestep])


def sampled(model, keys: np.ndarray, *, num_steps: int = 4) -> torch.Tensor:
    """Returns and actions sampled by sequences with these keys, [B, steps, 3]."""
    context, values = Context(model, len(keys), keys=keys), []
    for _ in range(num_steps):
        context.write(observation=np.zeros((len(keys), 3)))
        values.append(torch.cat([context.sample("return_to_go"), context.sample("action")], -1))
    return torch.stack(values, 1)


def test_what_a_sequence_samples_depends_on_no_other(backbone):
    model, _ = make_model(backbone)
    together = sampled(model, noise.keys(7, 0, 5))
    for row in range(5):
        torch.testing.assert_close(sampled(model, noise.keys(7, row, 1))[0], together[row], atol=1e-4, rtol=1e-4)
    assert together[:, 0, 0].unique().numel() == 5
    assert not torch.allclose(sampled(model, noise.keys(8, 0, 5)), together)


def test_branches_sample_apart_and_the_first_as_if_alone(backbone):
    model, _ = make_model(backbone)

    def after(fork: int) -> torch.Tensor:
        context = Context(model, 2)
        context.write(observation=np.zeros((2, 3)))
        if fork:
            context.fork(fork)
        return context.sample("return_to_go")

    plain, forked = after(0), after(4)
    torch.testing.assert_close(forked[[0, 4]], plain)
    assert forked.unique().numel() == 8


def test_unknown_evidence_can_be_written(backbone):
    model, _ = make_model(backbone)
    states = []
    for value in (None, [1.0, 2.0]):
        context = Context(model, 2)
        context.write(observation=np.ones((2, 3)), return_to_go=value)
        states.append(context._state_before("action"))
    assert torch.equal(states[0][0], states[0][1]) and not torch.allclose(states[0], states[1])


def test_a_masked_text_or_demo_is_unknown_whatever_it_says():
    model, _ = prompted_model(load_backbone("small", num_layers=1, vocabulary=True), ["text", "goal", "demo"])
    demo = box_episodes(1)[0]
    states = []
    for text, demos, masks in (
        (["go", "stop"], [demo, demo], {"missing.text": [True, False], "missing.demo": [False, True]}),
        ([None, "stop"], [demo, None], {}),
        (["stop", "stop"], [demo, None], {}),
    ):
        context = Context(model, 2)
        context.write(**{"text": text, "goal": None, "goal.when": None, "demo": demos, **masks})
        context.write(observation=np.ones((2, 3)), return_to_go=None)
        states.append(context._state_before("action"))
    assert torch.equal(states[0], states[1]) and not torch.allclose(states[0][0], states[2][0])


def test_a_masked_goal_or_number_is_unknown_whatever_it_is(backbone):
    model, _ = prompted_model(backbone, ["goal"])
    states = []
    for value, mask in (([[7.0] * 3, [1.0] * 3], [True, False]), ([[np.nan] * 3, [1.0] * 3], None)):
        context = Context(model, 2)
        context.write(**{"goal": value, "missing.goal": mask, "goal.when": None})
        context.write(observation=np.ones((2, 3)), return_to_go=[[8.0], [9.0]])
        states.append(context._state_before("action"))
    assert torch.equal(states[0], states[1])


def test_a_full_context_keeps_the_newer_half(backbone):
    model, _ = make_model(backbone, "multi_game")
    values, context = random_values(model, 1, 7), Context(model, 1)
    for timestep in range(7):
        context.write(**{name: values[name][:, timestep] for name in model.layout.step_names})
    written = [step["observation"].tokens for step in context._script.steps]
    expected = [model.embed_values("observation", values["observation"][:, t])[0] for t in (3, 4, 5, 6)]
    assert len(written) == 4 and all(torch.equal(*pair) for pair in zip(written, expected, strict=True))


@pytest.mark.parametrize(
    ("use", "complaint"),
    [
        (lambda c: c.write(observatoin=np.zeros((2, 3))), "did you mean 'observation'"),
        (lambda c: c.write(observation=np.zeros((2, 4))), r"shape \(2, 4\): \(2, 3\) is expected"),
        (lambda c: c.write(**{"missing.observation": [True, False]}), "no observation beside it"),
        (lambda c: c.sample("observation"), "does not predict 'observation'"),
        (lambda c: c.sample("action"), "observation of timestep 0 has not been written"),
        (lambda c: [c.write(observation=np.zeros((2, 3))) for _ in range(2)], "written already"),
    ],
)
def test_misuse_is_answered_with_what_was_expected(use, complaint: str, backbone):
    model, _ = make_model(backbone)
    with pytest.raises(UsageError, match=complaint):
        use(Context(model, 2))

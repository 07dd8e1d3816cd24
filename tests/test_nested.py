"""Every kind of space at once, from episodes to actions: images, texts, vectors, counts, missing values."""

import numpy as np
import pytest
import torch

from byte_models import load_with_bytes
from conftest import FAMILIES, WORDS, nested_episodes, nested_spec
from nested_cases import CASES, MASKED
from read_states import states_before
from seqdec import storage
from seqdec.data.dataset import from_episodes
from seqdec.errors import DataError, UsageError
from seqdec.inference.context import Context
from seqdec.inference.policy import Policy
from seqdec.inference.prompt import Prompt
from seqdec.model.backbone import Backbone, load_backbone
from seqdec.model.folder import load_policy, save_policy
from seqdec.model.packed import pack_window
from seqdec.model.perception import Image, image_axes
from seqdec.model.sequence_model import SequenceModel, build_model
from seqdec.sequence.draw import Draw
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.spaces.leaves import MISSING, join
from seqdec.training.loop import train
from seqdec.training.run import heldout_losses


@pytest.fixture(scope="module")
def small() -> Backbone:
    return load_backbone("small", predicts_words=True)


def nested_windows(preset="multi_game", *, missing=(), steady=True, **options) -> Windows:
    spec = nested_spec(missing)
    layout = layout_from_spaces(
        preset, spec.observation_space, spec.action_space, context_length=5, missing=missing, text_tokens=30, **options
    )
    return Windows(from_episodes(nested_episodes(missing=bool(missing), steady=steady), spec), layout, text="go")


def nested_model(backbone: Backbone, preset="multi_game", **options) -> tuple[SequenceModel, Windows]:
    windows = nested_windows(preset, **options)
    model = build_model(windows, backbone)
    torch.manual_seed(1)
    for name in windows.layout.predicted:
        if model.words(name) is None:
            torch.nn.init.normal_(model.codec(name).head.weight, std=0.05)  # pyright: ignore
    return model.eval(), windows


def written(windows: Windows, batch: dict[str, torch.Tensor], name: str, timestep: int) -> dict[str, object]:
    """What acting writes for a variable at a timestep of a batch."""
    values = batch[name][:, timestep]
    if windows.layout.variable(name).kind == "text":
        return {name: [bytes(row.tolist()).rstrip(b"\0").decode() for row in values]}
    missing = batch.get(MISSING + name)
    return {name: values, MISSING + name: None if missing is None else missing[:, timestep]}


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_acted_window_reads_the_states_of_the_trained_window(case, use_cache, small):
    model, windows = nested_model(small, **CASES[case])
    batch = windows.gather(np.array([0, 40, 80]))
    states = states_before(model, batch)
    context = Context(model, 3, use_cache=use_cache)
    context._script.timestep = 0
    layout = windows.layout
    early = batch["timestep"][:, 0] == 0  # acting begins at the episode's first timestep
    assert early.any()
    for name in layout.prompt_names:
        context.write(**written(windows, batch, name, 0))
    names = [name for name in layout.step_names if name not in layout.late] + list(layout.late)
    for timestep in range(layout.context_length):
        for name in names:
            if name in layout.predicted:
                expected = states[name][:, timestep]
                torch.testing.assert_close(context._state_before(name)[early], expected[early], atol=2e-5, rtol=1e-4)
            context.write(**written(windows, batch, name, timestep))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_reads_the_same_beside_longer_ones_in_every_family(family, family_folder):
    folder = family_folder(family)
    backbone = load_with_bytes(load_backbone(str(folder)), folder)
    model, windows = nested_model(backbone, prompt=("observation.mission", "text"))
    indices = np.array([0, 30, 60, 90])
    together = windows.gather(indices)
    batched = states_before(model, together)
    for row in range(len(indices)):
        alone = states_before(model, {name: values[row : row + 1] for name, values in together.items()})
        for name, states in alone.items():
            torch.testing.assert_close(batched[name][row], states[0], atol=3e-5, rtol=1e-3)


def test_a_policy_acts_in_nested_spaces_and_its_folder_acts_alike(small, tmp_path):
    model, _ = nested_model(small, missing=MASKED, prompt=("observation.mission", "text"))
    spec = model.data.spec
    episode = nested_episodes(3, missing=True)[2]
    rows = {name: np.stack([values[0], values[1]]) for name, values in episode.steps.items()}
    seen = join(
        spec.observation_space, {**rows, "observation.mission": np.array(["go", "stop"], object)}, "observation"
    )

    def actions(policy: Policy):
        policy.reset(2)
        first = policy.act(seen, None)
        policy.keep(np.array([1]))
        half = join(
            spec.observation_space,
            {name: values[:1] for name, values in rows.items()},
            "observation",
        )
        return first, policy.act(half, np.array([0.5]))

    first, second = actions(Policy(model, 1.0, prompt=Prompt(text="open the red door")))
    assert isinstance(first, tuple) and first[0].shape == (2, 2) and first[1].shape == (2, 2)
    assert second[0].shape == (1, 2) and second[1].dtype == np.int64
    assert ((first[1] >= [0, -1]) & (first[1] <= [1, 1])).all()
    save_policy(model, tmp_path / "policy")
    again = actions(Policy(load_policy(tmp_path / "policy"), 1.0, prompt=Prompt(text="open the red door")))
    for ours, theirs in zip((*first, *second), (*again[0], *again[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other, _ = actions(Policy(model, 1.0, prompt=Prompt(text="stop")))
    assert not np.array_equal(other[0], first[0])


def test_a_later_leaf_of_an_action_depends_on_an_earlier_one_unless_they_are_fused(small):
    spec = nested_spec()

    def second_leaf_moves(fuse) -> bool:
        model, _ = nested_model(small, fuse=fuse)
        found = []
        for arm in ([-1.0, -1.0], [1.0, 1.0]):
            context = Context(model, 1)
            context.write(
                **{
                    "observation.image": np.zeros((1, 5, 4, 3)),
                    "observation.direction": [2],
                    "observation.mission": "go",
                },
                **{"observation.joints": np.zeros((1, 2, 2)), "return_to_go": [1.0]},
            )
            context.write(**{"action.0": [arm]})
            with torch.no_grad():
                found.append(context._state_before("action.1"))
        return not torch.equal(*found)

    assert spec.action_leaves.keys() == {"action.0", "action.1"}
    assert second_leaf_moves(())
    assert not second_leaf_moves(("action",))


def test_a_missing_value_does_not_matter_and_counts_no_loss(small):
    """Whatever stands where a value is missing changes nothing, in what is read and in what is lost."""
    model, windows = nested_model(small, "trajectory", missing=MASKED)
    batch = windows.gather(np.arange(0, 60, 7))
    changed = dict(batch)
    for name in MASKED:
        missing = batch[MISSING + name]
        values = batch[name].clone()
        wide = missing if missing.shape == values.shape else missing.reshape(*missing.shape, *[1] * (values.ndim - 2))
        changed[name] = torch.where(wide.expand_as(values), torch.full_like(values, 3), values)
    with torch.no_grad():
        first, second = model(batch), model(changed)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-5)


def test_unknown_entries_are_not_a_vector_of_zeros(small):
    model, _ = nested_model(small, missing=MASKED)
    zeros, unknown = torch.zeros(1, 4), torch.tensor([[False, True, False, False]])
    codec = model.codec("observation.joints")
    assert not torch.allclose(codec.embed(zeros, torch.zeros_like(unknown)), codec.embed(zeros, unknown))
    whole = codec.embed(zeros, torch.ones_like(unknown))
    torch.testing.assert_close(whole, codec.embed(zeros + 5, torch.tensor([True])))


def test_dropped_observations_are_all_unknown_at_share_one(small):
    model, windows = nested_model(small, prompt=("observation.mission",))
    batch = windows.gather(np.array([3]))
    other = {
        **batch,
        "observation.joints": batch["observation.joints"] + 9,
        "observation.image": 255 - batch["observation.image"],
    }
    with torch.no_grad():
        for share, is_same in ((0.0, False), (1.0, True)):
            tokens = [pack_window(model, given, share).tokens for given in (batch, other)]
            assert torch.equal(*tokens) is is_same


def test_nan_and_none_are_written_as_unknown(small):
    model, _ = nested_model(small, missing=MASKED, prompt=("observation.mission",))

    def predicted(**values):
        context = Context(model, 1)
        known = {
            "observation.mission": ["go"], "observation.image": np.full((1, 5, 4, 3), 3.0),
            "observation.direction": [2.0], "observation.joints": [[[1.0, 2.0], [3.0, 4.0]]],
        }  # fmt: skip
        context.write(**{**known, **values})
        with torch.no_grad():
            return context._state_before("return_to_go")

    plain = predicted()
    for name, value in (
        ("observation.image", np.full((1, 5, 4, 3), np.nan)),
        ("observation.direction", [np.nan]),
        ("observation.joints", [[[1.0, np.nan], [3.0, 4.0]]]),
        ("observation.mission", [None]),
    ):
        assert not torch.allclose(plain, predicted(**{name: value})), name
    for name in ("observation.image", "observation.direction", "observation.joints"):
        whole = np.full((1, *{"observation.image": (5, 4, 3), "observation.joints": (2, 2)}.get(name, ())), np.nan)
        torch.testing.assert_close(predicted(**{name: whole}), predicted(**{name: None}))


@pytest.mark.parametrize(
    ("shape", "order", "sizes"),
    [
        ((7, 6), (0, 1), (1, 7, 6)),
        ((7, 6, 3), (2, 0, 1), (3, 7, 6)),
        ((3, 64, 48), (0, 1, 2), (3, 64, 48)),
        ((4, 84, 84), (0, 1, 2), (4, 84, 84)),
        ((84, 84, 12), (2, 0, 1), (12, 84, 84)),
        ((6, 84, 84), (0, 1, 2), (6, 84, 84)),
        ((4, 64, 48, 3), (0, 3, 1, 2), (12, 64, 48)),
        ((4, 3, 64, 48), (0, 1, 2, 3), (12, 64, 48)),
    ],
)
def test_channels_and_frames_come_first_whatever_the_order(shape, order, sizes):
    assert image_axes(shape) == (order, sizes)


def test_an_image_reads_the_same_in_both_orders(small):
    model, _ = nested_model(small)
    ours = model.codecs["observation/image"]
    assert isinstance(ours, Image)
    from dataclasses import replace

    ours = Image(replace(ours.variable, image=(5, 6, 3), size=90), 128, 0.1)
    turned = Image(replace(ours.variable, image=(3, 5, 6)), 128, 0.1)
    turned.load_state_dict(ours.state_dict())
    image = torch.randint(0, 12, (2, 5, 6, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.embed(image.flatten(1)), turned.embed(image.permute(0, 3, 1, 2).flatten(1).contiguous())
        )


def test_a_text_longer_than_its_slot_is_refused_before_training(small):
    windows = nested_windows(steady=False)
    layout = layout_from_spaces("multi_game", windows.spec.observation_space, windows.spec.action_space, text_tokens=10)
    short = Windows(from_episodes(nested_episodes(steady=False), windows.spec), layout)
    longest = max(len(word) for word in WORDS)
    with pytest.raises(
        DataError, match=r"observation.mission has a text of \d+ tokens, there is room for 10 .*make room for"
    ):
        build_model(short, small)
    assert longest == 28


def test_what_changes_within_an_episode_cannot_stand_in_the_prompt():
    with pytest.raises(UsageError, match="observation.mission changes within episode 0"):
        nested_windows(steady=False, prompt=("observation.mission",))


def test_a_loss_is_the_mean_over_the_timesteps_at_which_its_variable_is_known(small, tmp_path):
    model, windows = nested_model(small, "trajectory", missing=MASKED)
    indices = windows.draw(0, 0, 6).indices
    batch = windows.gather(indices)
    known = batch["mask"] & ~batch[MISSING + "observation.direction"]
    counts = Draw(windows, indices).num_known()
    assert counts["observation.direction"] == int(known.sum()) < counts["action.0"] == Draw(windows, indices).num_valid
    train(model, windows, out=tmp_path, steps=1, batch_size=6, learning_rate=0.0, log_every=1)
    (line,) = storage.read_lines(tmp_path / "metrics.jsonl")
    with torch.no_grad():
        sums = model.eval()(batch)
    by_hand = {name: float(value) / counts[name] for name, value in sums.items()}
    heldout = heldout_losses({"": model}, {"": windows})
    everything = np.linspace(0, len(windows) - 1, min(512, len(windows))).astype(np.int64)
    with torch.no_grad():
        parts = [model(windows.gather(part)) for part in np.array_split(everything, 4)]
    total = sum(float(part["observation.direction"]) for part in parts)
    assert heldout["heldout/loss_observation.direction"] == pytest.approx(
        total / Draw(windows, everything).num_known()["observation.direction"], rel=1e-4
    )
    # dropout makes the training loss another, near it: not the half that dividing by all timesteps would give
    assert line["train/loss_observation.direction"] == pytest.approx(by_hand["observation.direction"], rel=0.2)

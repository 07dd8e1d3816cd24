from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Box

from conftest import box_episodes, box_spec, discrete_episodes, discrete_spec, nested_episodes, nested_spec
from seqdec.data.dataset import from_episodes
from seqdec.data.episode import Episode
from seqdec.data.schema import lengths, returns
from seqdec.data.select import chosen, mix, subset
from seqdec.errors import UsageError
from seqdec.sequence.presets import layout_from_spaces
from seqdec.sequence.windows import Windows
from seqdec.spaces.spec import EnvironmentSpec


@pytest.fixture(scope="module")
def dataset():
    return from_episodes(box_episodes(40), box_spec())


def test_a_smaller_share_is_a_part_of_a_larger_one(dataset):
    shares = [set(chosen(dataset, fraction=fraction, seed=4).tolist()) for fraction in (0.05, 0.1, 0.5, 1.0)]
    assert [len(share) for share in shares] == [2, 4, 20, 40]
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert set(chosen(dataset, num_episodes=4, seed=4).tolist()) == shares[1]
    assert chosen(dataset, fraction=0.1, seed=5).tolist() != chosen(dataset, fraction=0.1, seed=4).tolist()


def test_the_best_are_those_of_the_highest_return_and_all_of_them_are_all(dataset):
    ranked = np.argsort(-returns(dataset))
    assert chosen(dataset, best=0.25).tolist() == sorted(ranked[:10].tolist())
    assert chosen(dataset, best=1.0).tolist() == list(range(40))
    part = subset(dataset, best=0.025)
    assert returns(part).tolist() == [returns(dataset).max()]
    among = chosen(dataset, best=0.25, fraction=0.5)
    assert len(among) == 5 and set(among.tolist()) < set(ranked[:10].tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction is 0: give a share above 0"),
        ({"best": 1.5}, "best is 1.5: give a share"),
        ({"num_episodes": 41}, "41 episodes were asked for, there are 40"),
    ],
)
def test_what_cannot_be_chosen_is_one_sentence(dataset, options, message):
    with pytest.raises(UsageError, match=message):
        chosen(dataset, **options)


def test_a_mixture_draws_each_data_set_by_its_weight_and_its_episodes_by_their_length():
    spec = EnvironmentSpec(Box(-9, 9, (1,)), Box(-9, 9, (1,)))

    def made(value: float, counts: list[int]):
        steps = [
            {"observation": np.full((n, 1), value), "action": np.zeros((n, 1)), "reward": np.zeros(n)} for n in counts
        ]
        return from_episodes([Episode(step, [value], terminated=True, truncated=False) for step in steps], spec)

    merged, weights = mix([made(1.0, [30, 10]), made(2.0, [5, 5])], [1.0, 3.0])
    assert lengths(merged).tolist() == [30, 10, 5, 5]
    layout = layout_from_spaces("behaviour_cloning", spec.observation_space, spec.action_space, context_length=1)
    windows = Windows(merged, layout, weights=weights)
    drawn = windows.gather(np.concatenate([windows.draw(step, 0, 100).indices for step in range(40)]))
    values = drawn["observation"][:, 0, 0].numpy()
    assert abs((values == 2.0).mean() - 0.75) < 0.021  # three standard deviations of 4000 draws
    indices = np.concatenate([windows.draw(step, 0, 100).indices for step in range(40)])
    counts = np.bincount(indices, minlength=50)
    assert (counts > 0).all()
    assert abs(counts[:30].sum() / counts[:40].sum() - 0.75) < 0.05
    assert windows.draw(7, 1, 20).indices.tolist() == windows.draw(7, 1, 20).indices.tolist()


def test_without_weights_every_timestep_counts_alike(dataset):
    merged, weights = mix([dataset, from_episodes(box_episodes(5, seed=9), box_spec())])
    assert len(merged) == 45 and set(weights.tolist()) == {1.0}


def test_other_spaces_are_refused_with_both_and_how_to_name_tasks(dataset):
    other = from_episodes(discrete_episodes(), discrete_spec())
    with pytest.raises(UsageError, match=r"has observations Box\(3\), number 2 has Discrete\(5\): name their tasks"):
        mix([dataset, other])
    with pytest.raises(UsageError, match="weights are .* for 1 data sets"):
        mix([dataset], [1.0, 2.0])


def test_data_sets_of_which_other_leaves_may_be_missing_are_refused_with_both(dataset):
    other = from_episodes(box_episodes(), replace(box_spec(), missing=("observation",)))
    with pytest.raises(UsageError, match="first data set nothing may be missing, in number 2 observation: make them"):
        mix([dataset, other])


def test_what_may_be_missing_has_no_order():
    names = ("observation.joints", "observation.image")
    parts = [from_episodes(nested_episodes(3), nested_spec(missing)) for missing in (names, names[::-1])]
    assert len(mix(parts)[0]) == 6

"""The order of tokens, its presets, and its way through JSON."""

import gymnasium
import numpy as np
import pytest

from seqdec.errors import DataError, UsageError
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import PRESETS, check_spaces, layout_from_spaces
from seqdec.sequence.variable import Variable

BOX = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
UNBOUNDED = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)


def preset(name: str, context_length: int = 3) -> Layout:
    return layout_from_spaces(name, UNBOUNDED, BOX, context_length=context_length)


def test_positions_of_the_default_layout_by_hand():
    layout = preset("multi_game")
    # start o R a o R a o R a
    assert layout.positions("observation").tolist() == [1, 4, 7]
    assert layout.positions("return_to_go").tolist() == [2, 5, 8]
    assert layout.positions("action").tolist() == [3, 6, 9]
    assert layout.num_tokens == 10


def test_fused_layout_uses_one_token_a_timestep_and_reads_the_action_from_it():
    layout = preset("fused")
    assert layout.num_tokens == 4
    assert layout.positions("observation").tolist() == [1, 2, 3]
    assert (layout.positions("action") - 1).tolist() == layout.positions("observation").tolist()


def test_prompt_facts_stand_before_the_first_step():
    variables = (Variable("target_return", "gaussian", 1), *preset("behaviour_cloning").variables)
    layout = Layout(variables, (("observation",), ("action",)), prompt=(("target_return",),), context_length=2)
    assert layout.positions("target_return").tolist() == [1]
    assert layout.positions("observation").tolist() == [2, 4]
    assert layout.num_tokens == 6


def test_every_slot_has_its_own_position():
    for name in PRESETS:
        layout = preset(name)
        starts = sorted(layout.position(slot[-1]) for slot in layout.step)
        assert starts == list(range(1, 1 + len(layout.step))), name


def test_layouts_survive_json():
    for name in PRESETS:
        layout = preset(name)
        assert Layout.from_json(layout.to_json()) == layout


def test_infinite_bounds_survive_json():
    half_open = gymnasium.spaces.Box(np.array([0.0, -np.inf]), np.array([np.inf, 1.0]), dtype=np.float64)
    layout = layout_from_spaces("behaviour_cloning", UNBOUNDED, half_open)
    assert Layout.from_json(layout.to_json()).variable("action").low == (0.0, -np.inf)


def test_a_mistyped_preset_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'fused'"):
        layout_from_spaces("fusde", UNBOUNDED, BOX)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"stepp": []}, "did you mean 'step'"),
        ({"variables": None}, "no layout"),
        ({"step": [["observation"], ["actoin"]]}, "did you mean 'action'"),
        ({"step": [["observation"]]}, "places 'action' 0 times"),
        ({"context_length": 0}, "context_length is 0"),
        ({"late": ["reward"]}, "late variable"),
        ({"discount": 10**400}, "no layout"),
    ],
)
def test_malformed_layouts_are_refused_by_name(change: dict, complaint: str):
    with pytest.raises(DataError, match=complaint):
        Layout.from_json({**preset("behaviour_cloning").to_json(), **change})


def test_a_layout_that_predicts_nothing_is_refused():
    observation = Variable("observation", "gaussian", 3)
    with pytest.raises(UsageError, match="nothing would be learned"):
        Layout((observation,), (("observation",),))


@pytest.mark.parametrize(
    ("observation_space", "complaint"),
    [
        (gymnasium.spaces.Box(-1, 1, (4,), np.float32), "observation is a vector of 3, the data's is a vector of 4"),
        (gymnasium.spaces.Discrete(5), r"a vector of 3, the data's is Discrete\(5, start=0\)"),
    ],
)
def test_a_layout_made_for_other_spaces_is_refused_with_both(observation_space: gymnasium.Space, complaint: str):
    with pytest.raises(UsageError, match=complaint):
        check_spaces(preset("multi_game"), observation_space, BOX)
    check_spaces(preset("multi_game"), UNBOUNDED, BOX)


def test_a_variable_that_no_data_set_has_is_refused():
    base = preset("behaviour_cloning")
    layout = Layout((*base.variables, Variable("goal", "gaussian", 2)), (("goal",), *base.step))
    with pytest.raises(UsageError, match="no data set has the variable 'goal'"):
        check_spaces(layout, UNBOUNDED, BOX)


def test_unsupported_spaces_are_named():
    graph = gymnasium.spaces.Graph(BOX, BOX)
    with pytest.raises(UsageError, match=r"Graph observations are not supported"):
        layout_from_spaces("multi_game", graph, BOX)

"""Rows: any space, any episode, there and back."""

import json
from collections import OrderedDict

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seqdec.data.dataset import episode_at, from_episodes
from seqdec.data.episode import Episode
from seqdec.data.schema import environment_of, lengths
from seqdec.data.source import Source, convert
from seqdec.errors import DataError, UsageError
from seqdec.formats.load import load_dataset
from seqdec.spaces.leaves import MISSING, join, leaf_dtype, leaf_kind, role_of, shape_of_missing
from seqdec.spaces.space import space_from_json, space_to_json, spaces_agree
from seqdec.spaces.spec import EnvironmentSpec

SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (2, 1, 3)])
WORDS = st.sampled_from(["", "go", "öffne die Tür", "\N{GRINNING FACE}", "two\nlines", "nul\0", " ", "'\"\\"])
KEYS = st.text(alphabet="ab_-/ é\N{GRINNING FACE}0", max_size=3)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    dtype = np.dtype(
        draw(st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint8", "uint64", "bool"]))
    )
    shape = draw(SHAPES)
    if dtype.kind == "f":
        low, high = draw(st.sampled_from([(-np.inf, np.inf), (-1, 1), (0, np.inf), (-3.5, 2.25), (0, 0)]))
        if shape and draw(st.booleans()):
            low = np.full(shape, low, dtype)
            low.flat[0] = -np.inf
            high = np.full(shape, high, dtype)
    else:
        low, high = draw(st.sampled_from([(0, 1), (0, 0)] if dtype.kind == "b" else [(0, 5), (3, 100)]))
    return Box(low, high, shape, dtype.type)


@st.composite
def counts(draw: st.DrawFn) -> MultiDiscrete:
    sizes = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    sizes = sizes.reshape(2, -1) if len(sizes) % 2 == 0 and draw(st.booleans()) else sizes
    return MultiDiscrete(sizes, start=sizes * 0 + draw(st.integers(-3, 3)))


NUMBERS = st.one_of(
    boxes(),
    counts(),
    st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 6), st.integers(-4, 4)),
    st.builds(MultiBinary, st.sampled_from([1, 4, (2, 3)])),
)
TEXTS = st.builds(lambda length, letters: Text(length, charset=letters), st.integers(1, 9), st.text(min_size=1))
ACTED = st.one_of(NUMBERS.filter(lambda space: leaf_kind(space) != "image"), TEXTS)
OBSERVED = st.one_of(NUMBERS, TEXTS)


def nested(leaf: st.SearchStrategy[Space]) -> st.SearchStrategy[Space]:
    """Spaces with at most three levels of Dicts and Tuples."""
    for _ in range(3):
        dicts = st.dictionaries(KEYS, leaf, min_size=1, max_size=3).map(lambda inner: Dict(OrderedDict(inner)))
        leaf = st.one_of(leaf, dicts, st.lists(leaf, min_size=1, max_size=3).map(Tuple))
    return leaf


@st.composite
def specs(draw: st.DrawFn) -> EnvironmentSpec:
    observation, action = draw(nested(OBSERVED)), draw(nested(ACTED))
    try:
        names = list(EnvironmentSpec(observation, action).observation_leaves)
    except UsageError:  # two leaves of one name
        assume(False)
    missing = draw(st.lists(st.sampled_from(names), unique=True))
    return EnvironmentSpec(observation, action, missing=tuple(missing), reference_returns=(0.0, 1.5))


def values_of(leaf: Space, size: int, seed: int, words: list[str]) -> np.ndarray:
    """Values of a leaf as an episode has them: [size, ...]."""
    if isinstance(leaf, Text):
        return np.array([words[(seed + index) % len(words)] for index in range(size)], dtype=object)
    leaf.seed(seed)
    return np.stack([leaf.sample() for _ in range(size)]).astype(leaf_dtype(leaf))


def episode_of(spec: EnvironmentSpec, num_steps: int, seed: int, words: list[str]) -> Episode:
    random = np.random.default_rng(seed)
    seen: dict[str, np.ndarray] = {}
    for name, leaf in spec.observation_leaves.items():
        seen[name] = values_of(leaf, num_steps + 1, seed, words)
        if name in spec.missing:
            seen[MISSING + name] = random.random((num_steps + 1, *shape_of_missing(leaf))) < 0.3
    done = {name: values_of(leaf, num_steps, seed + 1, words) for name, leaf in spec.action_leaves.items()}
    return Episode(
        {**{name: values[:-1] for name, values in seen.items()}, **done, "reward": random.normal(size=num_steps)},
        final={name: values[-1] for name, values in seen.items()},
        terminated=bool(seed % 2),
        truncated=not seed % 3,
        text=words[seed % len(words)],
        metadata={"seed": seed, "share": seed / 7, "is odd": bool(seed % 2), "who": words[0]},
    )


@settings(max_examples=80, deadline=None)
@given(nested(OBSERVED))
def test_a_space_survives_json(space: Space):
    again = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert spaces_agree(space, again, with_bounds=True) and spaces_agree(again, space, with_bounds=True)
    assert space_to_json(again) == space_to_json(space)


@settings(max_examples=60, deadline=None)
@given(
    specs(),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.lists(WORDS, min_size=1, max_size=3),
    st.sampled_from([1, 200, 2**27]),
)
def test_episodes_of_any_space_survive_memory_and_a_folder(
    tmp_path_factory: pytest.TempPathFactory, spec: EnvironmentSpec, counts: list[int], words: list[str], chunk: int
):
    episodes = [episode_of(spec, length, seed, words) for seed, length in enumerate(counts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqdec.data.arrow.CHUNK_BYTES", chunk)
        dataset = from_episodes(episodes, spec)
        folder = tmp_path_factory.mktemp("rows") / "set"
        source = Source(spec, read=lambda: (episode.to_row() for episode in episodes), identity={})
        convert(source, folder)
    for found in (dataset, load_dataset(folder)):
        assert environment_of(found).to_json() == spec.to_json()
        assert lengths(found).tolist() == counts
        for index, episode in enumerate(episodes):
            assert episode_at(found, index).equals(episode)


@settings(max_examples=60, deadline=None)
@given(specs(), st.integers(1, 4), st.lists(WORDS, min_size=1, max_size=3))
def test_what_was_collected_as_it_is_nested_is_the_episode_by_leaf(spec: EnvironmentSpec, num_steps: int, words):
    """NaN and None stand for what is missing, in the arrays of a nested batch."""
    episode = episode_of(spec, num_steps, 1, words)
    seen = {
        name: np.concatenate([values, episode.final.get(name, np.zeros_like(values[0]))[None]])
        for name, values in episode.steps.items()
        if role_of(name) == "observation"
    }
    collected = {
        "observation": join(spec.observation_space, seen, "observation"),
        "action": join(spec.action_space, episode.steps, "action"),
        "reward": episode.steps["reward"],
        **{name: getattr(episode, name) for name in ("terminated", "truncated", "text", "metadata")},
    }
    found = episode_at(from_episodes([collected], spec), 0)
    assert found.equals(episode_at(from_episodes([episode], spec), 0)) and found.equals(episode)


@pytest.mark.parametrize(
    ("role", "change"),
    [
        ("observation", {"observation": ["\ud800", "go"]}),
        ("action", {"action": ["\ud800"]}),
        ("text", {"text": "half \udfff"}),
        ("metadata.who", {"metadata": {"who": "\ud800"}}),
    ],
)
def test_half_a_character_is_one_sentence(role: str, change: dict):
    episode = {"observation": ["stop", "go"], "action": [1], "reward": [1.0], **change}
    with pytest.raises(DataError, match=rf"{role} holds '.*\\ud.*', which is no text") as caught:
        from_episodes([episode], EnvironmentSpec(Text(9), Text(9) if role == "action" else Discrete(2)))
    assert str(caught.value).isprintable()

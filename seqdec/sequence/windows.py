"""Windows of the data as batches: contiguous slices of episodes, gathered from the memory-mapped Arrow buffers.

Every timestep of the data is the candidate for one window: the window that has it in the middle, moved inside the
episode. So long episodes weigh by their length, and a window is padded, on the right, only where the whole episode
is shorter than the context. The windows of step n are a function of the seed and n alone.

An index counts through the windows again and again: in each round a window has other facts in its prompt.

    0 1 2 ... n-1 | n n+1 n+2 ...      n windows; index i is window i % n, in round i // n
"""

import copy
from collections.abc import Callable, Sequence

import datasets
import numpy as np
from torch import Tensor

from seqdec.data import schema
from seqdec.data.discounting import delay_rewards, returns_to_go
from seqdec.data.episode import METADATA
from seqdec.errors import DataError, UsageError, suggest
from seqdec.sequence.draw import Draw
from seqdec.sequence.gather import Arrays, Chunks, take, take_texts
from seqdec.sequence.hindsight import Hindsight, Peers
from seqdec.sequence.layout import Layout
from seqdec.sequence.presets import check_spaces

STATISTICS_SAMPLE = 250_000  # timesteps read for means, deviations and quantiles
STATISTICS_BYTES = 256 * 2**20  # and at most so much of a variable
ROUNDS = 2**20  # in which the facts of a prompt are drawn
REWARD_BLOCK = 2_000_000  # timesteps whose returns are computed at once
Count = Callable[[str, Sequence[str] | Sequence[float]], np.ndarray]


class Windows:
    """The windows of a data set, one for each of its timesteps.

    Args:
        dataset: rows of `sources`, one an episode.
        layout: names the variables to gather, the length of a window and how facts are told; must fit the spaces.
        episodes: the rows to use, all of them by default.
        weights: of the episodes: how much more often than others the timesteps of an episode are drawn; all alike by
            default.
        text: what the episodes are about, for those that do not say it themselves.
        numbers: of the rows, for what is said of them; from 0 on by default.

    Raises:
        UsageError: the layout does not fit the data, or has a leaf in its prompt that changes within an episode.

    Example:
        >>> from seqdec import layout_from_spaces
        >>> from seqdec.data import environment_of
        >>> from seqdec.play import scripted_cartpole
        >>> dataset = scripted_cartpole(num_episodes=4)
        >>> spec = environment_of(dataset)
        >>> layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space)
        >>> windows = Windows(dataset, layout)
        >>> windows.draw(step=0, seed=0, batch_size=8).gather()["observation"].shape
        torch.Size([8, 20, 4])
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        layout: Layout,
        *,
        episodes: Sequence[int] | np.ndarray | None = None,
        weights: Sequence[float] | np.ndarray | None = None,
        text: str = "",
        numbers: Sequence[int] | None = None,
    ):
        self.layout, self.text, self.spec = layout, text, schema.environment_of(dataset)
        check_spaces(layout, self.spec.observation_space, self.spec.action_space, self.spec.missing)
        # a demo's task is a column
        self._all_lengths = all_lengths = schema.lengths(dataset)
        self._groups = _groups(dataset, layout.demo_group) if layout.demo else np.zeros(0, object)
        # rewards and returns as the layout tells them, all other columns as they are
        rewards = schema.column(dataset, "reward")
        self._returns_to_go = _returns_to_go(rewards, all_lengths, layout)
        if layout.delayed_reward and "reward" in layout.step_names:
            rewards = [delay_rewards(np.concatenate(rewards), all_lengths)]
        computed = {"reward": [chunk[:, None] for chunk in rewards], "return_to_go": [self._returns_to_go[:, None]]}
        self._arrays = Arrays.of(dataset, layout, self.spec.missing, computed)
        # a leaf in the prompt has one value for the whole episode
        for name in layout.prompt_names:
            changing = schema.changing_episode(dataset, name) if layout.variable(name).role == "observation" else None
            if changing is not None:
                number = changing if numbers is None else numbers[changing]
                raise UsageError(
                    f"{name} changes within episode {number}: what stands in the prompt must be known from the "
                    "first step on; leave it in the steps"
                )
        self._choose(np.arange(len(all_lengths)) if episodes is None else episodes, weights)

    def select(self, episodes: Sequence[int] | np.ndarray) -> "Windows":
        """Return the windows of other rows of the same data set, unweighted; what is known of the data is shared."""
        others = copy.copy(self)
        others._choose(episodes, None)
        return others

    def _choose(self, episodes: Sequence[int] | np.ndarray, weights: Sequence[float] | np.ndarray | None) -> None:
        rows, num_all = np.sort(np.asarray(episodes)), len(self._all_lengths)
        if len(rows) == 0:
            raise DataError("no episodes to take windows from")
        if rows[0] < 0 or rows[-1] >= num_all or len(np.unique(rows)) < len(rows):
            raise UsageError(f"episodes are rows of the data set, 0 to {num_all - 1}, each named once")
        firsts = np.cumsum(self._all_lengths) - self._all_lengths  # flat index of each episode's timestep 0
        self.lengths, self._rows, self._firsts = self._all_lengths[rows], rows, firsts[rows]
        self._mass = None if weights is None else _cumulated_mass(weights, num_all, rows, self.lengths)
        self._index()

    def _index(self) -> None:
        """Make what follows from the chosen episodes."""
        self._ends = np.cumsum(self.lengths)
        peers = Peers.of(self._groups[self._rows]) if self.layout.demo else None
        self._hindsight = Hindsight(self.layout, self._arrays, self._rows, self._firsts, self.lengths, peers)

    def count_tokens(self, count: Count) -> None:
        """Let windows have at most as many tokens as the layout allows, from now on; so have those selected from them.

        Args:
            count: of a variable that is written in words and its values [n], the tokens of each, int64 [n].

        Raises:
            DataError: a single timestep has more.
        """
        layout, num_tokens = self.layout, np.zeros(len(self._returns_to_go), np.int64)
        for slot in layout.step:
            variable, every = layout.variable(slot[0]), np.arange(len(num_tokens))
            if not variable.is_words:
                num_tokens += 1
            elif variable.kind == "text":
                num_tokens += count(slot[0], take_texts(self._arrays.texts[slot[0]], every))
            else:
                num_tokens += count(slot[0], take(self._arrays.steps[slot[0]], every)[:, 0].tolist())
        of_prompt = 1 + sum(self._most_tokens(slot[0], count) for slot in layout.prompt)
        limit = layout.max_tokens - of_prompt - (layout.first_step - layout.first_demo)
        if layout.max_tokens and num_tokens.max(initial=0) > limit:
            raise DataError(
                f"a timestep has {num_tokens.max()} tokens, the prompt {of_prompt}: they exceed the context of "
                f"{layout.max_tokens} tokens",
                option="max_tokens",
            )
        self._arrays.count_tokens(num_tokens, of_prompt)

    def _most_tokens(self, name: str, count: Count) -> int:
        """Return the most tokens that a slot of the prompt has."""
        variable = self.layout.variable(name)
        if variable.kind != "text":
            return variable.most_tokens
        return int(count(name, self._every_text(name)).max(initial=1))

    def _within_limit(self, first: int, size: int, middle: int) -> tuple[int, int]:
        """Return how many timesteps to leave out at the beginning of a window, and how many it has then."""
        layout = self.layout
        limit = layout.max_tokens - self._arrays.prompt_tokens[0] - (layout.first_step - layout.first_demo)
        ends = self._arrays.token_ends[first : first + size + 1] - self._arrays.token_ends[first]
        if not layout.max_tokens or ends[-1] <= limit:
            return 0, size
        # the middle one stays, with about as many tokens on each side
        begin = min(max((ends[middle] + ends[middle + 1] - limit) / 2, 0), ends[-1] - limit)
        start = min(int(np.searchsorted(ends, begin)), middle)
        while ends[middle + 1] - ends[start] > limit:
            start += 1
        return start, int(np.searchsorted(ends, ends[start] + limit, side="right")) - 1 - start

    @property
    def returns(self) -> np.ndarray:
        """The return to go of each episode's first timestep, float32 [episodes]."""
        return self._returns_to_go[self._firsts]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def draw(self, step: int, seed: int, batch_size: int) -> Draw:
        """Draw the windows of an optimizer step, uniformly over timesteps if unweighted."""
        random = np.random.default_rng((seed, step))
        indices = self._draw_indices(random, batch_size)
        if self._hindsight.is_drawn:
            indices = indices + len(self) * random.integers(ROUNDS, size=batch_size)
        return Draw(self, indices)

    def _draw_indices(self, random: np.random.Generator, batch_size: int) -> np.ndarray:
        if self._mass is None:
            return random.integers(len(self), size=batch_size)
        # an episode by its share of the mass, and a timestep by where in that share the number fell
        numbers = random.random(batch_size) * self._mass[-1]
        episodes = np.minimum(np.searchsorted(self._mass, numbers, side="right"), len(self._mass) - 1)
        before = self._mass[episodes - 1] * (episodes > 0)
        share = (numbers - before) / (self._mass[episodes] - before)
        lengths = self.lengths[episodes]
        return self._ends[episodes] - lengths + np.minimum((share * lengths).astype(np.int64), lengths - 1)

    def gather(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return the windows of these indices as a batch; see `Draw.gather`."""
        return Draw(self, indices).gather()

    def _episodes_of(self, windows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, windows, side="right")

    def _texts_of(self, episodes: np.ndarray) -> list[str]:
        return [text or self.text for text in take_texts(self._arrays.episode_texts, self._rows[episodes])]

    def _every_text(self, name: str) -> list[str]:
        """Return all that differ of a variable's texts, those of held-out episodes included."""
        chunks = self._arrays.episode_texts if name == "text" else self._arrays.texts[name]
        texts = {text for chunk in chunks for text in chunk.unique().to_pylist()}
        return sorted({text or self.text for text in texts} if name == "text" else texts)

    def statistics(self) -> dict[str, np.ndarray]:
        """Return the values that codecs are fitted to, by variable: all of them, or a fixed sample of many.

        Of texts, all that differ.
        """
        values: dict[str, np.ndarray] = {}
        sample = np.arange(len(self))
        if len(self) > STATISTICS_SAMPLE:
            sample = np.sort(np.random.default_rng(0).choice(len(self), STATISTICS_SAMPLE, replace=False))
        episodes = self._episodes_of(sample)
        flat = sample - (self._ends - self.lengths)[episodes] + self._firsts[episodes]
        for variable in self.layout.variables:
            name, leaf = variable.name, variable.of or variable.name
            if variable.kind == "timestep":
                continue
            if name == "target_return":
                values[name] = self.returns[:, None]
            elif variable.kind == "text":
                values[name] = np.array(self._every_text(name), object)
            else:
                every = -(-len(flat) * self._arrays.num_bytes(leaf) // STATISTICS_BYTES)
                known = self._arrays.known(leaf, flat[:: max(1, every)])
                values[name] = known[:, list(variable.entries)] if variable.entries else known
        return values


def concatenate(parts: Sequence[Windows]) -> Windows:
    """Return the windows of several data sets, one after the other, as those of one; their columns are not copied.

    All have one environment, layout and text, and no weights.
    """
    whole = copy.copy(parts[0])
    whole.lengths = np.concatenate([part.lengths for part in parts])
    whole._all_lengths = np.concatenate([part._all_lengths for part in parts])
    whole._returns_to_go = np.concatenate([part._returns_to_go for part in parts])
    whole._groups = np.concatenate([part._groups for part in parts])
    whole._firsts = _shifted([part._firsts for part in parts], [len(part._returns_to_go) for part in parts])
    whole._rows = _shifted([part._rows for part in parts], [len(part._all_lengths) for part in parts])
    computed = {"return_to_go": [whole._returns_to_go[:, None]]}
    whole._arrays = Arrays.joined([part._arrays for part in parts], computed)
    whole._index()
    return whole


def _groups(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """Return the task of each episode, as a column says it."""
    if column not in dataset.column_names or (column != "text" and not column.startswith(METADATA)):
        known = [name for name in dataset.column_names if name == "text" or name.startswith(METADATA)]
        meant = METADATA + column if METADATA + column in known else column
        raise UsageError(f"no column {column!r} says which task an episode is of{suggest(meant, known)}")
    return np.array([str(value) for value in dataset[column]], object)


def _shifted(indices: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Return indices into several things of these sizes as indices into all of them, one after the other."""
    before = np.cumsum([0, *sizes[:-1]])
    return np.concatenate([own + shift for own, shift in zip(indices, before, strict=True)])


def _cumulated_mass(
    weights: Sequence[float] | np.ndarray, num_episodes: int, rows: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Return the sum of weight times length over the episodes up to each one."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != (num_episodes,):
        raise UsageError(f"{weights.size} weights for {num_episodes} episodes: give one for each")
    if not np.isfinite(weights).all() or (weights < 0).any() or weights[rows].sum() == 0:
        raise UsageError("the weights of the episodes must be finite, at least 0, and not all 0")
    return np.cumsum(weights[rows] * lengths)


def _returns_to_go(rewards: Chunks, lengths: np.ndarray, layout: Layout) -> np.ndarray:
    """Return R_t of every timestep, float32, a block of episodes at a time: memory holds no more than the result."""
    returns = np.empty(int(lengths.sum()), np.float32)
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        begin = int(ends[first] - lengths[first])
        last = max(first + 1, int(np.searchsorted(ends, begin + REWARD_BLOCK, side="right")))
        end, own = int(ends[last - 1]), take(rewards, np.arange(begin, ends[last - 1]))
        returns[begin:end] = returns_to_go(own, lengths[first:last], layout.discount, layout.delayed_reward)
        first = last
    return returns


def split_episodes(num_episodes: int, heldout_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split row indices at random into those to train on and those held out, whole episodes each.

    Raises:
        DataError: if a fraction above 0 leaves no episode on either side.
    """
    num_heldout = max(round(num_episodes * heldout_fraction), int(heldout_fraction > 0))
    if num_heldout >= num_episodes:
        raise DataError(
            f"the data set needs more episodes, it has only {num_episodes}: too few to hold out {num_heldout}; "
            "record more, keep a larger part of the data, or hold out none",
            option="heldout_fraction",
        )
    order = np.random.default_rng(seed).permutation(num_episodes)
    return np.sort(order[num_heldout:]), np.sort(order[:num_heldout])

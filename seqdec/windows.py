"""Windows of the data as batches: contiguous slices of episodes, gathered from the memory-mapped Arrow buffers.

Every timestep of the data is the candidate for one window: the window that has it in the middle, moved inside the
episode. So long episodes weigh by their length, and a window is padded, on the right, only where the whole episode
is shorter than the context. The windows of step n are a function of the seed and n alone.

An index counts through the windows again and again: in each round a window has other facts in its prompt.

    0 1 2 ... n-1 | n n+1 n+2 ...      n windows; index i is window i % n, in round i // n
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Literal

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from seqdec import columns, hindsight, noise, texts
from seqdec.episode import METADATA, delay_rewards, final_name, returns_to_go
from seqdec.errors import DataError, UsageError, suggest
from seqdec.layout import Layout
from seqdec.leaves import MISSING

DemoPart = Literal["random", "best"]

STATISTICS_SAMPLE = 250_000  # timesteps read for means, deviations and quantiles
STATISTICS_BYTES = 256 * 2**20  # and at most so much of a variable
ROUNDS = 2**20  # in which the facts of a prompt are drawn
REWARD_BLOCK = 2_000_000  # timesteps whose returns are computed at once


class Windows:
    """The windows of a data set, one for each of its timesteps.

    Args:
        dataset: rows of `sources`, one an episode.
        layout: names the variables to gather and the length of a window; must fit the data's spaces.
        episodes: the rows to use, all of them by default.
        weights: of the episodes: how much more often than others the timesteps of an episode are drawn; all alike by
            default.
        text: what the episodes are about, for those that do not say it themselves.
        discount: of the returns to go.
        delayed_reward: pay all of an episode's reward at its last step.
        prompt_dropout: share in which each fact of the prompt, and the return to go, is unknown, and in which all are.
        demo_group: column of the data that says which episodes are of one task, for demos: "text", or one of the
            metadata ("metadata.velocity").
        demo_part: which timesteps of an episode are its demo: any, or those in a row that earn most.
        numbers: of the rows, for what is said of them; from 0 on by default.

    Raises:
        UsageError: the layout does not fit the data, has a leaf in its prompt that changes within an episode, or a
            share is none.

    Example:
        >>> from seqdec import layout_from_spaces, scripted_cartpole, environment_of
        >>> dataset = scripted_cartpole(num_episodes=4)
        >>> spec = environment_of(dataset)
        >>> layout = layout_from_spaces("multi_game", spec.observation_space, spec.action_space)
        >>> windows = Windows(dataset, layout)
        >>> windows.gather(windows.draw(step=0, seed=0, batch_size=8))["observation"].shape
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
        discount: float = 1.0,
        delayed_reward: bool = False,
        prompt_dropout: float = 0.0,
        demo_group: str = "text",
        demo_part: DemoPart = "random",
        numbers: Sequence[int] | None = None,
    ):
        self.layout, self.discount, self.delayed_reward, self.text = layout, discount, delayed_reward, text
        if not 0 <= prompt_dropout < 1:
            raise UsageError(f"prompt_dropout is {prompt_dropout}: give a share from 0 to below 1")
        self.prompt_dropout, self.demo_part = prompt_dropout, demo_part
        self.spec = columns.environment_of(dataset)
        layout.check_spaces(self.spec.observation_space, self.spec.action_space, self.spec.missing)
        self._all_lengths = all_lengths = columns.lengths(dataset)
        self._groups = _groups(dataset, demo_group) if layout.demo else np.zeros(0, object)
        self._choose(np.arange(len(all_lengths)) if episodes is None else episodes, weights)
        rewards = columns.column(dataset, "reward")
        self._returns_to_go = _returns_to_go(rewards, all_lengths, discount, delayed_reward)
        if delayed_reward and "reward" in layout.step_names:
            rewards = [delay_rewards(np.concatenate(rewards), all_lengths)]
        self._chunks: dict[str, list[np.ndarray]] = {
            "reward": [chunk[:, None] for chunk in rewards],
            "return_to_go": [self._returns_to_go[:, None]],
        }
        self._texts: dict[str, list[pa.StringArray]] = {}
        self._row_texts: list[pa.StringArray] = []
        self._finals: dict[str, list[np.ndarray]] = {}
        for variable in layout.variables:
            name = variable.of or variable.name
            if name == "text":
                self._row_texts = columns.text_column(dataset, "text")
            elif variable.kind == "text":
                self._texts[name] = columns.text_column(dataset, name)
            elif name not in self._chunks and name != "target_return" and variable.kind != "timestep":
                self._chunks[name] = columns.column(dataset, name)
            if name in self.spec.missing:
                self._chunks[MISSING + name] = columns.column(dataset, MISSING + name)
            if variable.of:
                for leaf in (name, MISSING + name):
                    if leaf in self._chunks:
                        self._finals[leaf] = columns.column(dataset, final_name(leaf))
            if name in layout.prompt_names and name.split(".")[0] == "observation":
                changing = columns.changing_episode(dataset, name)
                if changing is not None:
                    number = changing if numbers is None else numbers[changing]
                    raise UsageError(
                        f"{name} changes within episode {number}: what stands in the prompt must be known from the "
                        "first step on; leave it in the steps"
                    )

    def select(self, episodes: Sequence[int] | np.ndarray) -> "Windows":
        """Return the windows of other rows of the same data set, unweighted; what is known of the data is shared."""
        others = copy.copy(self)
        others._choose(episodes, None)
        return others

    def _choose(self, episodes: Sequence[int] | np.ndarray, weights: Sequence[float] | np.ndarray | None) -> None:
        chosen = np.sort(np.asarray(episodes))
        if len(chosen) == 0:
            raise DataError("no episodes to take windows from")
        num_all = len(self._all_lengths)
        if chosen[0] < 0 or chosen[-1] >= num_all or len(np.unique(chosen)) < len(chosen):
            raise UsageError(f"episodes are rows of the data set, 0 to {num_all - 1}, each named once")
        firsts = np.cumsum(self._all_lengths) - self._all_lengths  # flat index of each episode's timestep 0
        self.lengths, self._rows, self._firsts = self._all_lengths[chosen], chosen, firsts[chosen]
        self._ends = np.cumsum(self.lengths)
        self._mass = None if weights is None else _cumulated_mass(weights, num_all, chosen, self.lengths)
        self._peers = hindsight.peers_of(self._groups[chosen]) if self.layout.demo else None

    @property
    def returns(self) -> np.ndarray:
        """The return to go of each episode's first timestep, float32 [episodes]."""
        return self._returns_to_go[self._firsts]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def draw(self, step: int, seed: int, batch_size: int) -> np.ndarray:
        """Return the indices of the windows of an optimizer step, uniform over timesteps if unweighted, int64 [B]."""
        random = np.random.default_rng((seed, step))
        windows = self._draw_windows(random, batch_size)
        return windows + len(self) * random.integers(ROUNDS, size=batch_size) if self._has_draws else windows

    @property
    def _has_draws(self) -> bool:
        """Whether what stands in the prompt is drawn at random."""
        drawn = [name for name in self.layout.facts if name == "demo" or hindsight.is_moment(name)]
        return bool(drawn) or self.prompt_dropout > 0

    def _draw_windows(self, random: np.random.Generator, batch_size: int) -> np.ndarray:
        if self._mass is None:
            return random.integers(len(self), size=batch_size)
        drawn = random.random(batch_size) * self._mass[-1]
        rows = np.minimum(np.searchsorted(self._mass, drawn, side="right"), len(self._mass) - 1)
        before = self._mass[rows - 1] * (rows > 0)
        share = (drawn - before) / (self._mass[rows] - before)
        inside = np.minimum((share * self.lengths[rows]).astype(np.int64), self.lengths[rows] - 1)
        return self._ends[rows] - self.lengths[rows] + inside

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """Return how many timesteps each of these windows has, padding apart, int64 [B]."""
        return np.minimum(self.lengths[self._rows_of(indices)], self.layout.context_length)

    def num_valid(self, indices: np.ndarray) -> int:
        """Count the timesteps of these windows that are not padding."""
        return int(self.sizes(indices).sum())

    def num_known(self, indices: np.ndarray) -> dict[str, int]:
        """Count, for each variable that the layout predicts, the timesteps of these windows at which it is known."""
        timesteps, inside, rows = self._timesteps(indices)
        facts = self._facts(indices, timesteps, rows)
        found = {}
        for name in self.layout.predicted:
            is_there = inside if name in self.layout.step_names else np.ones((len(rows), 1), bool)
            missing = facts.get(MISSING + name)
            if missing is None and MISSING + name in self._chunks:
                missing = _take(self._chunks[MISSING + name], self._firsts[rows, None] + timesteps)
            if missing is not None:
                is_there = is_there & ~missing.reshape(*is_there.shape, -1).any(-1)
            found[name] = int(is_there.sum())
        return found

    def _timesteps(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the timesteps of windows [B, K], which of them are no padding [B, K], and their episodes [B]."""
        rows = self._rows_of(indices)
        middles = indices % len(self) - (self._ends[rows] - self.lengths[rows])
        length = self.layout.context_length
        starts = np.clip(middles - length // 2, 0, np.maximum(self.lengths[rows] - length, 0))
        sizes = np.minimum(self.lengths[rows], length)
        offsets = np.arange(sizes.max(initial=1))
        timesteps = starts[:, None] + np.minimum(offsets, sizes[:, None] - 1)
        return timesteps, offsets < sizes[:, None], rows

    def _rows_of(self, indices: np.ndarray) -> np.ndarray:
        """Return the episode of each window, as its place among those chosen."""
        return np.searchsorted(self._ends, indices % len(self), side="right")

    def gather(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return windows as a batch, in raw units, K timesteps each: as many as the longest of them has.

        Returns:
            every variable of the layout: [B, K, size] float32, uint8 for an image, int64 where it is multi_discrete;
            [B, K] int64 where it is discrete; bytes [B, K, bytes] of a text (see `texts`). What stands in the prompt
            has an axis of 1 in the place of K. "missing.NAME" [B, K] or [B, K, size], bool, of what may be missing;
            "hidden.NAME" [B, K] says what is to be written as unknown though its value is there. "demo.NAME"
            [B, demo_length, ...] is what a demo shows of a variable, "missing.demo.NAME" where it shows nothing.
            "timestep" [B, K] int64, counted from the episode's start; "mask" [B, K], False on padding, where the
            other entries repeat the window's last timestep.
        """
        timesteps, inside, rows = self._timesteps(indices)
        flat = self._firsts[rows, None] + timesteps
        batch = {"timestep": torch.from_numpy(timesteps), "mask": torch.from_numpy(inside)}
        for name in self.layout.step_names:
            batch |= self._values(name, flat)
        for name in self.layout.prompt_names:
            if name == "text":
                batch[name] = texts.encode(self._episode_texts(rows))[:, None]
            elif not hindsight.is_fact(name):
                batch |= self._values(name, flat[:, :1])
        facts = self._facts(indices, timesteps, rows)
        return batch | {name: torch.from_numpy(value) for name, value in facts.items()}

    def _facts(self, indices: np.ndarray, timesteps: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the prompt says of each window's episode but its text, and which of it is unknown."""
        layout, found = self.layout, {}
        if "target_return" in layout.prompt_names:
            found["target_return"] = hindsight.target_return(self._returns_to_go, self._firsts[rows])[:, None]
        if not self._has_draws:
            return found
        # what is drawn for a window depends on its place in the data set and its round alone
        place = self._firsts[rows] + timesteps[:, 0] + len(self._returns_to_go) * (indices // len(self))
        waypoints = [name for name in layout.facts if hindsight.WAYPOINT.fullmatch(name)]
        evidence = [*layout.facts, *(f"{name}{hindsight.WHEN}" for name in layout.facts), "return_to_go"]
        sizes = (2, len(waypoints), 2, 1 + len(evidence))
        drawn = np.split(noise.fractions(place, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
        found |= self._moments(timesteps[:, 0], rows, waypoints, *drawn[:2])
        if layout.demo:
            found |= self._demos(rows, drawn[2])
        if self.prompt_dropout == 0:
            return found
        dropped = dict(zip(evidence, hindsight.is_dropped(drawn[3], self.prompt_dropout).T, strict=True))
        for name, is_unknown in dropped.items():
            if name == "demo":
                for shown in layout.demo_names:
                    missing = found[f"{MISSING}demo.{shown}"]
                    missing |= is_unknown.reshape(-1, *[1] * (missing.ndim - 1))
            elif name in layout.prompt_names or (name == "return_to_go" and name in layout.step_names):
                is_unknown = is_unknown | dropped.get(name.removesuffix(hindsight.WHEN), False)
                width = timesteps.shape[1] if name in layout.step_names else 1
                found[hindsight.HIDDEN + name] = np.repeat(is_unknown[:, None], width, axis=1)
        return found

    def _moments(
        self, starts: np.ndarray, rows: np.ndarray, waypoints: Sequence[str], ahead: np.ndarray, between: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return goal, waypoints and final observation of each window, and their timesteps, with an axis of 1."""
        ends = self.lengths[rows]
        when = {"final": ends}
        if "goal" in self.layout.facts:
            when["goal"] = hindsight.goal_timesteps(starts, ends, self.layout.context_length, ahead)
        if waypoints:
            found = hindsight.waypoint_timesteps(starts, when.get("goal", ends), between)
            when |= dict(zip(sorted(waypoints, key=lambda name: int(name[8:])), found.T, strict=True))
        values = {}
        for name in (name for name in self.layout.facts if hindsight.is_moment(name)):
            variable = self.layout.variable(name)
            for prefix in ("", MISSING):
                if prefix + variable.of in self._finals:
                    seen = self._seen(prefix + variable.of, rows, when[name])
                    if variable.entries and seen.ndim > 1:
                        seen = seen[:, list(variable.entries)]
                    values[prefix + name] = (seen.astype(bool) if prefix else seen)[:, None]
            if name + hindsight.WHEN in self.layout.prompt_names:
                values[name + hindsight.WHEN] = when[name].astype(np.float32)[:, None, None]
        return values

    def _seen(self, name: str, rows: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """Return a leaf of the observation at timesteps [B], of which the last comes after the last step."""
        is_final = timesteps == self.lengths[rows]
        seen = _take(self._chunks[name], self._firsts[rows] + np.minimum(timesteps, self.lengths[rows] - 1))
        seen = seen.copy()
        seen[is_final] = _take(self._finals[name], self._rows[rows[is_final]])
        return seen

    def _demos(self, rows: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return some timesteps of another episode of the same task for each window, [B, demo_length, ...]."""
        assert self._peers is not None
        length = self.layout.demo_length
        others = hindsight.demo_rows(self._peers, rows, numbers[:, 0])
        is_none = others < 0
        others = np.where(is_none, rows, others)
        ends = self.lengths[others]
        if self.demo_part == "best":
            begins = np.array([hindsight.best_part(self._rewards_of(row), length) for row in others])
        else:
            begins = (numbers[:, 1] * np.maximum(ends - length + 1, 1)).astype(np.int64)
        timesteps = begins[:, None] + np.arange(length)
        absent = (timesteps >= ends[:, None]) | is_none[:, None]
        timesteps = np.minimum(timesteps, ends[:, None] - 1)
        found = {}
        for name in self.layout.demo_names:
            values = self._values(name, self._firsts[others, None] + timesteps)
            found[f"demo.{name}"] = values[name].numpy()
            missing = values[MISSING + name].numpy() if MISSING + name in values else np.zeros_like(absent)
            found[f"{MISSING}demo.{name}"] = missing | absent.reshape(*absent.shape, *[1] * (missing.ndim - 2))
        return found

    def _rewards_of(self, row: int) -> np.ndarray:
        return _take(self._chunks["reward"], self._firsts[row] + np.arange(self.lengths[row]))[:, 0]

    def _values(self, name: str, flat: np.ndarray) -> dict[str, Tensor]:
        """Return a variable at flat indices [B, K], and which values are missing where some may be."""
        if name in self._texts:
            content = texts.encode(_take_texts(self._texts[name], flat.reshape(-1)))
            found = {name: content.reshape(*flat.shape, -1)}
        else:
            found = {name: torch.from_numpy(_take(self._chunks[name], flat))}
        if MISSING + name in self._chunks:
            found[MISSING + name] = torch.from_numpy(_take(self._chunks[MISSING + name], flat)).bool()
        return found

    def _episode_texts(self, rows: np.ndarray) -> list[str]:
        return [found or self.text for found in _take_texts(self._row_texts, self._rows[rows])]

    def statistics(self) -> dict[str, np.ndarray]:
        """Return the values that codecs are fitted to, by variable: all of them, or a fixed sample of many.

        Of texts, all that differ.
        """
        values: dict[str, np.ndarray] = {}
        sample = np.arange(len(self))
        if len(self) > STATISTICS_SAMPLE:
            sample = np.sort(np.random.default_rng(0).choice(len(self), STATISTICS_SAMPLE, replace=False))
        rows = self._rows_of(sample)
        flat = sample - (self._ends - self.lengths)[rows] + self._firsts[rows]
        for variable in self.layout.variables:
            name, leaf = variable.name, variable.of or variable.name
            if variable.kind == "timestep":
                continue
            if name == "target_return":
                values[name] = hindsight.target_return(self._returns_to_go, self._firsts)
            elif name == "text":
                values[name] = np.unique(self._episode_texts(np.arange(len(self.lengths))))
            elif name in self._texts:
                values[name] = np.concatenate([chunk.unique().to_numpy(False) for chunk in self._texts[name]])
            else:
                width = self._chunks[leaf][0][:1].nbytes
                every = -(-len(flat) * width // STATISTICS_BYTES)
                known = self._known(leaf, flat[:: max(1, every)])
                values[name] = known[:, list(variable.entries)] if variable.entries else known
        return values

    def _known(self, name: str, flat: np.ndarray) -> np.ndarray:
        """Return a variable's values at flat indices without those that are missing.

        Entries of a vector can be missing one by one: in their places stand values of the same entry, evenly chosen.
        """
        values = _take(self._chunks[name], flat)
        if MISSING + name not in self._chunks:
            return values
        missing = _take(self._chunks[MISSING + name], flat).astype(bool)
        if missing.all():
            raise DataError(f"{name} is never known: leave it out of the data")
        if missing.ndim == 1:
            return values[~missing]
        values = values.copy()
        for entry in np.flatnonzero(missing.any(axis=0)):
            unknown = missing[:, entry]
            known, num_unknown = values[~unknown, entry], int(unknown.sum())
            if len(known):
                values[unknown, entry] = known[np.arange(num_unknown) * len(known) // num_unknown]
        return values


def concatenate(parts: Sequence[Windows]) -> Windows:
    """Return the windows of several data sets, one after the other, as those of one; their columns are not copied.

    All have one environment, layout, discount and text, and no weights.
    """
    whole = copy.copy(parts[0])
    whole.lengths = np.concatenate([part.lengths for part in parts])
    whole._all_lengths = np.concatenate([part._all_lengths for part in parts])
    whole._ends = np.cumsum(whole.lengths)
    whole._firsts = _shifted([part._firsts for part in parts], [len(part._returns_to_go) for part in parts])
    whole._rows = _shifted([part._rows for part in parts], [len(part._all_lengths) for part in parts])
    whole._returns_to_go = np.concatenate([part._returns_to_go for part in parts])
    whole._chunks = {name: [chunk for part in parts for chunk in part._chunks[name]] for name in whole._chunks}
    whole._chunks["return_to_go"] = [whole._returns_to_go[:, None]]
    whole._finals = {name: [chunk for part in parts for chunk in part._finals[name]] for name in whole._finals}
    whole._groups = np.concatenate([part._groups for part in parts])
    whole._peers = hindsight.peers_of(whole._groups[whole._rows]) if whole.layout.demo else None
    whole._texts = {name: [chunk for part in parts for chunk in part._texts[name]] for name in whole._texts}
    whole._row_texts = [chunk for part in parts for chunk in part._row_texts]
    return whole


def _groups(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """Return the task of each episode, as a column says it."""
    if column not in dataset.column_names or (column != "text" and not column.startswith(METADATA)):
        known = [name for name in dataset.column_names if name == "text" or name.startswith(METADATA)]
        raise UsageError(f"no column {column!r} says which task an episode is of{suggest(column, known)}")
    return np.array([str(value) for value in dataset[column]], object)


def _shifted(indices: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """Return indices into several things of these sizes as indices into all of them, one after the other."""
    before = np.cumsum([0, *sizes[:-1]])
    return np.concatenate([found + shift for found, shift in zip(indices, before, strict=True)])


def _cumulated_mass(
    weights: Sequence[float] | np.ndarray, num_episodes: int, chosen: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Return the sum of weight times length over the episodes up to each one."""
    given = np.asarray(weights, np.float64)
    if given.shape != (num_episodes,):
        raise UsageError(f"{given.size} weights for {num_episodes} episodes: give one for each")
    if not np.isfinite(given).all() or (given < 0).any() or given[chosen].sum() == 0:
        raise UsageError("the weights of the episodes must be finite, at least 0, and not all 0")
    return np.cumsum(given[chosen] * lengths)


def _returns_to_go(rewards: list[np.ndarray], lengths: np.ndarray, discount: float, delayed_reward: bool) -> np.ndarray:
    """Return R_t of every timestep, float32, a block of episodes at a time: memory holds no more than the result."""
    found = np.empty(int(lengths.sum()), np.float32)
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        begin = int(ends[first] - lengths[first])
        last = max(first + 1, int(np.searchsorted(ends, begin + REWARD_BLOCK, side="right")))
        block = np.arange(begin, int(ends[last - 1]))
        found[begin : ends[last - 1]] = returns_to_go(
            _take(rewards, block), lengths[first:last], discount, delayed_reward
        )
        first = last
    return found


def _take(chunks: list[np.ndarray], flat: np.ndarray) -> np.ndarray:
    """Gather rows by flat index from consecutive arrays; a copy is made of what is taken only."""
    if len(chunks) == 1:
        return chunks[0][flat]
    taken = np.empty((flat.size, *chunks[0].shape[1:]), chunks[0].dtype)
    for index, here, inside in _by_chunk([len(chunk) for chunk in chunks], flat.reshape(-1)):
        taken[here] = chunks[index][inside]
    return taken.reshape(*flat.shape, *taken.shape[1:])


def _take_texts(chunks: list[pa.StringArray], flat: np.ndarray) -> list[str]:
    taken = np.empty(flat.shape, dtype=object)
    for index, here, inside in _by_chunk([len(chunk) for chunk in chunks], flat):
        taken[here] = chunks[index].take(pa.array(inside)).to_pylist()
    return taken.tolist()


def _by_chunk(sizes: Sequence[int], flat: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield each chunk that is meant, which of the indices [N] mean it, and where in it."""
    ends = np.cumsum(sizes)
    chunk_of = np.searchsorted(ends, flat, side="right")
    order = np.argsort(chunk_of, kind="stable")
    firsts = np.flatnonzero(np.diff(chunk_of[order], prepend=-1))
    for here in np.split(order, firsts)[1:]:
        index = int(chunk_of[here[0]])
        yield index, here, flat[here] - (ends[index] - sizes[index])


def split_episodes(num_episodes: int, heldout_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split row indices at random into those to train on and those held out, whole episodes each.

    Raises:
        DataError: if a fraction above 0 leaves no episode on either side.
    """
    num_heldout = round(num_episodes * heldout_fraction)
    if heldout_fraction > 0:
        num_heldout = max(num_heldout, 1)
    if num_heldout >= num_episodes:
        raise DataError(
            f"the data set needs more episodes, it has only {num_episodes}: too few to hold out {num_heldout}; "
            "record more, take a larger --fraction or --best, or give --heldout-fraction 0"
        )
    order = np.random.default_rng(seed).permutation(num_episodes)
    return np.sort(order[num_heldout:]), np.sort(order[:num_heldout])

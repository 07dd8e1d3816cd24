"""One episode: what was seen, done and paid, from reset to end.

    steps["observation"]  o0 o1 ... o(T-1)   final oT
    steps["action"]       a0 a1 ... a(T-1)
    steps["reward"]       r0 r1 ... r(T-1)   R_t = r_t + discount * R_(t+1)

Every array of `steps` has T rows. Environments, data sets and the trainer share this record; raw units only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from seqdec.errors import DataError, UsageError

RowValue = np.ndarray | np.generic | bool | str


@dataclass(frozen=True, eq=False, repr=False)
class Episode:
    """One episode; floating arrays are kept as float32, whole numbers as int64.

    Example:
        >>> episode = Episode(
        ...     steps={"observation": [[0.0], [1.0]], "action": [1, 0], "reward": [1.0, 2.0]},
        ...     final=[2.0],
        ...     terminated=True,
        ...     truncated=False,
        ... )
        >>> episode.total_return
        3.0
    """

    steps: Mapping[str, np.ndarray]
    final: np.ndarray
    terminated: bool
    truncated: bool
    text: str = ""

    def __post_init__(self) -> None:
        """Bring the arrays to their types and refuse an episode whose parts do not fit together."""
        missing = [name for name in ("observation", "action", "reward") if name not in self.steps]
        if missing:
            raise DataError(f"an episode needs observation, action and reward; {missing[0]} is missing")
        steps = {name: _as_numbers(name, values) for name, values in self.steps.items()}
        steps["reward"] = steps["reward"].astype(np.float32)
        final = _as_numbers("final", self.final)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "final", final.astype(steps["observation"].dtype))
        object.__setattr__(self, "terminated", bool(self.terminated))
        object.__setattr__(self, "truncated", bool(self.truncated))
        _check(steps, final)

    def __len__(self) -> int:
        """Return T, the number of timesteps."""
        return len(self.steps["reward"])

    def __getitem__(self, window: slice) -> "Episode":
        """Return the timesteps of a slice as an episode; one that stops early counts as truncated."""
        if not isinstance(window, slice) or window.step not in (None, 1):
            raise UsageError(f"an episode is cut by a slice of neighbours such as [2:5], not by {window!r}")
        start, stop, _ = window.indices(len(self))
        if stop <= start:
            raise UsageError(f"the slice {start}:{stop} of {len(self)} steps is empty: give at least one step")
        is_end = stop == len(self)
        return Episode(
            steps={name: values[start:stop] for name, values in self.steps.items()},
            final=self.final if is_end else self.steps["observation"][stop],
            terminated=self.terminated and is_end,
            truncated=self.truncated if is_end else True,
            text=self.text,
        )

    def __repr__(self) -> str:
        """Show shapes, not numbers."""
        shapes = ", ".join(f"{name}: {list(values.shape)}" for name, values in self.steps.items())
        end = "terminated" if self.terminated else "truncated" if self.truncated else "unfinished"
        text = f", text={self.text[:40]!r}" if self.text else ""
        return f"Episode({len(self)} steps, return {self.total_return:g}, {end}, {shapes}{text})"

    @property
    def total_return(self) -> float:
        """Return the undiscounted sum of all rewards."""
        return float(self.steps["reward"].sum(dtype=np.float64))

    def returns_to_go(self, discount: float = 1.0, delayed_reward: bool = False) -> np.ndarray:
        """Return R_t for every timestep, r_t included: [T] float32."""
        return returns_to_go(self.steps["reward"], np.array([len(self)]), discount, delayed_reward)

    def equals(self, other: "Episode") -> bool:
        """Say whether both hold the same values."""
        return (
            self.steps.keys() == other.steps.keys()
            and all(np.array_equal(values, other.steps[name]) for name, values in self.steps.items())
            and np.array_equal(self.final, other.final)
            and (self.terminated, self.truncated, self.text) == (other.terminated, other.truncated, other.text)
        )

    def to_row(self) -> dict[str, RowValue]:
        """Return the episode as one row of a data set."""
        return {
            **self.steps,
            "final": self.final,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "text": self.text,
        }

    @staticmethod
    def from_row(row: Mapping[str, RowValue]) -> "Episode":
        """Read a row as written by `to_row`; lists stand for arrays."""
        facts = {"final", "terminated", "truncated", "text"}
        missing = sorted(facts - {"text"} - row.keys())
        if missing:
            raise DataError(f"a row of episodes needs {missing[0]!r}; it has {', '.join(map(repr, row))}")
        return Episode(
            steps={name: np.asarray(values) for name, values in row.items() if name not in facts},
            final=np.asarray(row["final"]),
            terminated=bool(row["terminated"]),
            truncated=bool(row["truncated"]),
            text=str(row.get("text", "")),
        )


def returns_to_go(
    rewards: np.ndarray, lengths: np.ndarray, discount: float = 1.0, delayed_reward: bool = False
) -> np.ndarray:
    """Return R_t = r_t + discount * R_(t+1) for every timestep of every episode: [timesteps] float32.

    Args:
        rewards: the rewards of all episodes, one episode after the other.
        lengths: the number of timesteps of each episode.
        discount: how much a reward one timestep later counts.
        delayed_reward: all reward is paid at the last timestep: R_t = discount**(T - 1 - t) * sum(rewards).
    """
    if not 0 < discount <= 1:
        raise UsageError(f"discount is {discount}: it must be above 0 and at most 1")
    lengths = _checked_lengths(rewards, lengths)
    totals = np.asarray(rewards, dtype=np.float64)
    totals = delay_rewards(totals, lengths) if delayed_reward else totals.copy()
    remaining = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(totals))
    # Doubling: each pass lets totals[t] cover twice as many rewards from t on, never past its episode's end.
    # No loop over timesteps for any discount, and no sum that mixes two episodes.
    reach, weight = 1, float(discount)
    while len(lengths) and reach < lengths.max():
        inside = np.flatnonzero(remaining > reach)
        totals[inside] += weight * totals[inside + reach]
        reach, weight = 2 * reach, weight * weight
    with np.errstate(over="ignore"):
        return totals.astype(np.float32)


def delay_rewards(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the rewards with each episode's sum at its last timestep and 0 before."""
    lengths = _checked_lengths(rewards, lengths)
    rewards = np.asarray(rewards)
    delayed = np.zeros_like(rewards)
    ends = np.cumsum(lengths)
    if len(ends):
        delayed[ends - 1] = np.add.reduceat(rewards.astype(np.float64), ends - lengths)
    return delayed


def nonfinite_entry(values: np.ndarray) -> tuple[int, str] | None:
    """Return the first row with a nan or an infinity and that entry in words, "[1] is nan", or None."""
    if not np.issubdtype(values.dtype, np.floating):
        return None
    finite = np.isfinite(values)
    if finite.all():
        return None
    row, *entry = (int(index) for index in np.argwhere(~finite)[0])
    place = f"[{', '.join(map(str, entry))}]" if entry else ""
    return row, f"{place} is {values[(row, *entry)]}"


def _as_numbers(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if np.issubdtype(values.dtype, np.floating):
        with np.errstate(over="ignore"):  # what is too large for float32 turns infinite and is refused as such
            return values.astype(np.float32)
    if np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_:
        return values.astype(np.int64)
    raise DataError(f"{name} has type {values.dtype}: only numbers are supported, all of one shape")


def _check(steps: Mapping[str, np.ndarray], final: np.ndarray) -> None:
    num_steps = len(steps["reward"]) if steps["reward"].ndim == 1 else -1
    if num_steps < 0:
        raise DataError(f"reward has shape {list(steps['reward'].shape)}: give one number per step")
    if num_steps == 0:
        raise DataError("the episode has no steps: give at least one")
    for name, values in steps.items():
        if values.ndim == 0 or len(values) != num_steps:
            came = "no axis of steps" if values.ndim == 0 else f"{len(values)} steps"
            raise DataError(f"{name} has {came}, reward has {num_steps}: give one {name} per step")
        broken = nonfinite_entry(values)
        if broken:
            raise DataError(f"step {broken[0]}: {name}{broken[1]}")
    expected = steps["observation"].shape[1:]
    if final.shape != expected:
        raise DataError(f"final has shape {list(final.shape)}, an observation has {list(expected)}")
    broken = nonfinite_entry(final[None])
    if broken:
        raise DataError(f"final{broken[1]}")


def _checked_lengths(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    lengths = np.asarray(lengths, dtype=np.int64)
    if (lengths < 1).any():
        raise DataError(f"an episode has {lengths.min()} steps: each needs at least one")
    if lengths.sum() != len(rewards):
        raise DataError(f"the episodes have {lengths.sum()} steps in all, there are {len(rewards)} rewards")
    return lengths

"""One episode: what was seen, done and paid, from reset to end.

    steps["observation"]  o0 o1 ... o(T-1)   final oT
    steps["action"]       a0 a1 ... a(T-1)
    steps["reward"]       r0 r1 ... r(T-1)   R_t = r_t + discount * R_(t+1)

Every array of `steps` has T rows. Where observations or actions are nested, each leaf has an array of its own
("observation.camera", see `leaves`), and `final` is a mapping of the same names. Environments, data sets and the
trainer share this record; raw units only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from seqdec.errors import DataError, UsageError
from seqdec.spaces.leaves import MISSING

RowValue = np.ndarray | np.generic | bool | int | float | str | None
Row = Mapping[str, RowValue]
Metadata = Mapping[str, bool | int | float | str | None]
METADATA = "metadata."
LONG = 64  # timesteps from which on a sum an episode is quicker than the passes over all of them


@dataclass(frozen=True, eq=False, repr=False)
class Episode:
    """One episode; floating arrays are kept as float32, uint8 and texts as they are, other whole numbers as int64.

    `metadata` holds what else is known of it: the seed, who acted.

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
    final: np.ndarray | Mapping[str, np.ndarray]
    terminated: bool
    truncated: bool
    text: str = ""
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring the arrays to their types and refuse an episode whose parts do not fit together."""
        for role in ("observation", "action", "reward"):
            if not any(name == role or name.startswith(f"{role}.") for name in self.steps):
                raise DataError(f"an episode needs observation, action and reward; {role} is missing")
        steps = {name: _as_kept(name, values) for name, values in self.steps.items()}
        if "reward" not in steps:
            raise DataError("an episode has one reward a step: reward cannot be nested")
        steps["reward"] = steps["reward"].astype(np.float32)
        given = self.final if isinstance(self.final, Mapping) else {"observation": self.final}
        finals = {name: _as_kept(final_name(name), value) for name, value in given.items()}
        _check(steps, finals)
        finals = {name: np.asarray(value, steps[name].dtype) for name, value in finals.items()}
        is_plain = "observation" in finals and not finals.get(MISSING + "observation", np.zeros(1)).any()
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "final", finals["observation"] if is_plain else finals)
        object.__setattr__(self, "terminated", bool(self.terminated))
        object.__setattr__(self, "truncated", bool(self.truncated))

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
        final = self.final
        if not is_end and isinstance(final, Mapping):
            final = {name: self.steps[name][stop] for name in final}
        elif not is_end:
            final = self.steps["observation"][stop]
        return Episode(
            steps={name: values[start:stop] for name, values in self.steps.items()},
            final=final,
            terminated=self.terminated and is_end,
            truncated=self.truncated if is_end else True,
            text=self.text,
            metadata=self.metadata,
        )

    def __repr__(self) -> str:
        """Show shapes, not numbers."""
        shapes = ", ".join(f"{name}: {list(values.shape)}" for name, values in self.steps.items())
        end = "terminated" if self.terminated else "truncated" if self.truncated else "unfinished"
        text = f", text={self.text[:40]!r}" if self.text else ""
        return f"Episode({len(self)} steps, return {self.total_return:g}, {end}, {shapes}{text})"

    @property
    def finals(self) -> dict[str, np.ndarray]:
        """Return the observation after the last step by leaf: {"observation": ...} where it is not nested."""
        return dict(self.final) if isinstance(self.final, Mapping) else {"observation": self.final}

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
            and self.finals.keys() == other.finals.keys()
            and all(np.array_equal(value, other.finals[name]) for name, value in self.finals.items())
            and (self.terminated, self.truncated, self.text) == (other.terminated, other.truncated, other.text)
            and dict(self.metadata) == dict(other.metadata)
        )

    def to_row(self) -> dict[str, RowValue]:
        """Return the episode as one row of a data set."""
        return {
            **self.steps,
            **{final_name(name): value for name, value in self.finals.items()},
            "terminated": self.terminated,
            "truncated": self.truncated,
            "text": self.text,
            **{METADATA + name: value for name, value in self.metadata.items()},
        }

    @staticmethod
    def from_row(row: Mapping[str, RowValue]) -> "Episode":
        """Read a row as written by `to_row`; lists stand for arrays."""
        facts = {"terminated", "truncated", "text"}
        finals = {_leaf_of_final(name): np.asarray(value) for name, value in row.items() if _is_final(name)}
        lacking = sorted((facts - {"text"}) - row.keys()) or ([] if finals else ["final"])
        if lacking:
            raise DataError(f"a row of episodes needs {lacking[0]!r}; it has {', '.join(map(repr, row))}")
        return Episode(
            steps={
                name: np.asarray(values)
                for name, values in row.items()
                if name not in facts and not _is_final(name) and not name.startswith(METADATA)
            },
            final=finals["observation"] if finals.keys() == {"observation"} else finals,
            terminated=bool(row["terminated"]),
            truncated=bool(row["truncated"]),
            text=str(row.get("text") or ""),
            metadata={
                name.removeprefix(METADATA): value  # pyright: ignore[reportArgumentType]
                for name, value in row.items()
                if name.startswith(METADATA)
            },
        )


def final_name(name: str) -> str:
    """Return the column of a leaf's last value: "final.camera" of "observation.camera", and so for "missing."."""
    prefix = MISSING if name.startswith(MISSING) else ""
    return f"{prefix}final{name.removeprefix(prefix).removeprefix('observation')}"


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
    if discount == 1 and len(totals) > LONG * len(lengths):
        ends = np.cumsum(lengths)
        for begin, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
            totals[begin:end] = np.cumsum(totals[begin:end][::-1])[::-1]
        with np.errstate(over="ignore"):
            return totals.astype(np.float32)
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


def _is_final(name: str) -> bool:
    return name.removeprefix(MISSING).split(".")[0] == "final"


def _leaf_of_final(name: str) -> str:
    prefix = MISSING if name.startswith(MISSING) else ""
    return f"{prefix}observation{name.removeprefix(prefix).removeprefix('final')}"


def _as_kept(name: str, values: object) -> np.ndarray:
    values = np.asarray(values)
    if name.startswith(MISSING):
        return values.astype(bool)
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating):
        with np.errstate(over="ignore"):  # what is too large for float32 turns infinite and is refused as such
            return values.astype(np.float32)
    if np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_:
        return values.astype(np.int64)
    is_observed = name.split(".")[0] in ("observation", "final")
    if is_observed and values.dtype.kind in "UO" and all(isinstance(text, str) for text in values.reshape(-1)):
        return values.astype(object)
    wanted = "only numbers and texts are" if is_observed else "only numbers are"
    raise DataError(f"{name} has type {values.dtype}: {wanted} supported, all of one shape")


def _check(steps: dict[str, np.ndarray], finals: dict[str, np.ndarray]) -> None:
    num_steps = len(steps["reward"]) if steps["reward"].ndim == 1 else -1
    if num_steps < 0:
        raise DataError(f"reward has shape {list(steps['reward'].shape)}: give one number per step")
    if num_steps == 0:
        raise DataError("the episode has no steps: give at least one")
    for name, values in steps.items():
        if values.ndim == 0 or len(values) != num_steps:
            came = "no axis of steps" if values.ndim == 0 else f"{len(values)} steps"
            raise DataError(f"{name} has {came}, reward has {num_steps}: give one {name} per step")
        steps[name] = _checked(values, steps.get(MISSING + name), name)
    expected = {name for name in steps if name.removeprefix(MISSING).split(".")[0] == "observation"}
    for name in expected - finals.keys():
        if name.startswith(MISSING):  # what is not called missing is there
            finals[name] = np.zeros(steps[name].shape[1:], bool)
    if finals.keys() != expected:
        lacking, unknown = sorted(expected - finals.keys()), sorted(finals.keys() - expected)
        raise DataError(f"final {f'lacks {lacking[0]!r}' if lacking else f'has {unknown[0]!r}'}: give what is observed")
    for name, value in finals.items():
        if value.shape != steps[name].shape[1:]:
            came, wanted = list(value.shape), list(steps[name].shape[1:])
            raise DataError(f"{final_name(name)} has shape {came}, an observation has {wanted}")
        missing = finals.get(MISSING + name)
        finals[name] = _checked(value[None], None if missing is None else missing[None], final_name(name))[0]


def _checked(values: np.ndarray, missing: np.ndarray | None, name: str) -> np.ndarray:
    """Return values with zeros where they are missing; anything else that is not finite is refused."""
    if missing is not None:
        if missing.shape not in (values.shape, values.shape[:1]):
            came = f"{MISSING}{name} has shape {list(missing.shape)}"
            raise DataError(f"{came}: expected {list(values.shape)} or {list(values.shape[:1])}")
        values = values.copy()
        values[missing] = "" if values.dtype == object else 0
    broken = nonfinite_entry(values)
    if broken:
        place = name if name.split(".")[0] == "final" else f"step {broken[0]}: {name}"
        raise DataError(f"{place}{broken[1]}")
    return values


def _checked_lengths(rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    lengths = np.asarray(lengths, dtype=np.int64)
    if (lengths < 1).any():
        raise DataError(f"an episode has {lengths.min()} steps: each needs at least one")
    if lengths.sum() != len(rewards):
        raise DataError(f"the episodes have {lengths.sum()} steps in all, there are {len(rewards)} rewards")
    return lengths

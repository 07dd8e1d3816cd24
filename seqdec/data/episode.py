"""One episode: what was seen, done and paid, from reset to end; and the row of a data set that it is kept as.

    steps["observation"]  o0 o1 ... o(T-1)   final["observation"] oT
    steps["action"]       a0 a1 ... a(T-1)
    steps["reward"]       r0 r1 ... r(T-1)   R_t = r_t + discount * R_(t+1)

Every array of `steps` has T rows. Where observations or actions are nested, each leaf has an array of its own
("observation.camera", see `leaves`), and so in `final`. Environments, data sets and the trainer share this record;
raw units only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from seqdec.data.discounting import returns_to_go
from seqdec.errors import DataError, UsageError
from seqdec.spaces.leaves import MISSING, as_reals, role_of

RowValue = np.ndarray | np.generic | bool | int | float | str | None
Row = Mapping[str, RowValue]
Metadata = Mapping[str, bool | int | float | str | None]
METADATA = "metadata."
ROLES = ("observation", "action", "reward")
MAX_MAGNITUDE = 1e18  # squares and sums of larger numbers leave float32


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Episode:
    """One episode; floating arrays are kept as float32, uint8 and texts as they are, other whole numbers as int64.

    Numbers so large that float32 would change them (see `as_reals`) stay float64.
    `final` is the observation after the last step by leaf; `metadata` holds what else is known: the seed, who acted.

    Example:
        >>> episode = Episode(
        ...     steps={"observation": [[0.0], [1.0]], "action": [1, 0], "reward": [1.0, 2.0]},
        ...     final=[2.0],
        ...     terminated=True,
        ...     truncated=False,
        ... )
        >>> episode.final["observation"].tolist(), episode.total_return
        ([2.0], 3.0)
    """

    steps: Mapping[str, np.ndarray]
    final: Mapping[str, np.ndarray]
    terminated: bool
    truncated: bool
    text: str
    metadata: Metadata

    def __init__(
        self,
        steps: Mapping[str, ArrayLike],
        final: ArrayLike | Mapping[str, ArrayLike],
        terminated: bool,
        truncated: bool,
        text: str = "",
        metadata: Metadata | None = None,
    ) -> None:
        """Bring the arrays to their types and refuse an episode whose parts do not fit together.

        `final` may be a plain array where the observation is not nested.
        """
        for role in ROLES:
            if not any(name == role or name.startswith(f"{role}.") for name in steps):
                raise DataError(f"an episode needs observation, action and reward; {role} is missing")
        if "reward" not in steps:
            raise DataError("an episode has one reward a step: reward cannot be nested")
        arrays = {name: _as_kept(name, values) for name, values in steps.items()}
        arrays["reward"] = arrays["reward"].astype(np.float32)
        last = final if isinstance(final, Mapping) else {"observation": final}
        last = {name: _as_kept(final_name(name), value) for name, value in last.items()}
        _check(arrays, last)
        last = {name: np.asarray(value, arrays[name].dtype) for name, value in last.items()}
        fields = {"steps": arrays, "final": last, "terminated": bool(terminated), "truncated": bool(truncated)}
        for name, value in {**fields, "text": text, "metadata": metadata or {}}.items():
            object.__setattr__(self, name, value)

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
            final=self.final if is_end else {name: self.steps[name][stop] for name in self.final},
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
    def total_return(self) -> float:
        """Return the undiscounted sum of all rewards."""
        return float(self.steps["reward"].sum(dtype=np.float64))

    def returns_to_go(self, discount: float = 1.0, delayed_reward: bool = False) -> np.ndarray:
        """Return R_t for every timestep, r_t included: [T] float32."""
        return returns_to_go(self.steps["reward"], np.array([len(self)]), discount, delayed_reward)

    def equals(self, other: "Episode") -> bool:
        """Say whether both hold the same values."""
        return (
            _are_equal(self.steps, other.steps)
            and _are_equal(self.final, other.final)
            and (self.terminated, self.truncated, self.text) == (other.terminated, other.truncated, other.text)
            and dict(self.metadata) == dict(other.metadata)
        )

    def to_row(self) -> dict[str, RowValue]:
        """Return the episode as one row of a data set, see `make_row`."""
        ends = {"terminated": self.terminated, "truncated": self.truncated}
        return make_row(self.steps, self.final, **ends, text=self.text, metadata=self.metadata)

    @staticmethod
    def from_row(row: Row) -> "Episode":
        """Read a row as written by `to_row`; lists stand for arrays."""
        steps = {name: np.asarray(values) for name, values in row.items() if role_of(name) in ROLES}
        last = [name for name in row if role_of(name) == "final"]
        final = {name.replace("final", "observation", 1): np.asarray(row[name]) for name in last}
        lacking = [name for name in ("terminated", "truncated") if name not in row] + ["final"] * (not final)
        if lacking:
            raise DataError(f"a row of episodes needs {lacking[0]!r}; it has {', '.join(map(repr, row))}")
        metadata = {name.removeprefix(METADATA): value for name, value in row.items() if name.startswith(METADATA)}
        ends = {"terminated": bool(row["terminated"]), "truncated": bool(row["truncated"])}
        return Episode(steps, final, **ends, text=str(row.get("text") or ""), metadata=metadata)  # pyright: ignore[reportArgumentType]


def make_row(
    steps: Mapping[str, np.ndarray],
    final: Mapping[str, np.ndarray] | None = None,
    *,
    terminated: bool,
    truncated: bool,
    text: str = "",
    metadata: Metadata | None = None,
) -> dict[str, RowValue]:
    """Return the row that an episode is in a data set: the one constructor of rows, for every reader and recorder.

    Its values may still be wrong: whether they fit the spaces, are all known and finite is checked, and counted over
    all episodes, as rows become a data set. A mask says what is not known, never NaN: see `leaves.split`.

    Args:
        steps: by leaf, "missing.LEAF" among them: rewards [T], actions [T, ...] and observations, which are [T, ...]
            where there is a `final`, else [T + 1, ...] with the final one last.
        final: the observation after the last step by leaf, "missing.LEAF" among them.
        terminated: the task ended.
        truncated: a time limit, or the end of the record, cut the episode.
        text: an instruction.
        metadata: what else is known, by names without "metadata.".

    Raises:
        DataError: the arrays are not of one length, or rewards are no numbers.
        UsageError: `steps` has an array that is no observation, action or reward.
    """
    unknown = next((name for name in steps if role_of(name) not in ROLES), None)
    if unknown is not None:
        raise UsageError(f"a data set keeps observation, action and reward, not {unknown!r}: leave it out")
    has_last = final is None
    _check_lengths(steps, has_last)
    with np.errstate(over="ignore"):  # a reward too large for float32 turns infinite, which the checks refuse
        row: dict[str, RowValue] = {"reward": steps["reward"].astype(np.float32, copy=False)}
    for name, values in steps.items():
        if name != "reward":
            row[name] = values[: len(steps["reward"])]
        if has_last and role_of(name) == "observation":
            row[final_name(name)] = values[-1]
    row |= {final_name(name): value for name, value in (final or {}).items()}
    row |= {"terminated": bool(terminated), "truncated": bool(truncated), "text": text}
    return row | {METADATA + name: value for name, value in (metadata or {}).items()}


def final_name(name: str) -> str:
    """Return the column of a leaf's last value: "final.camera" of "observation.camera", and so for "missing."."""
    prefix = MISSING if name.startswith(MISSING) else ""
    return f"{prefix}final{name.removeprefix(prefix).removeprefix('observation')}"


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


def _are_equal(arrays: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    is_alike = arrays.keys() == others.keys()
    return is_alike and all(np.array_equal(values, others[name]) for name, values in arrays.items())


def _as_kept(name: str, values: ArrayLike) -> np.ndarray:
    first = values[0] if isinstance(values, list | tuple) and len(values) > 0 else values
    values = np.asarray(
        values, object if isinstance(first, str) else None
    )  # NumPy's own texts lose zero characters at their end
    if name.startswith(MISSING):
        return values.astype(bool)
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating):
        return as_reals(values)
    if np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_:
        return values.astype(np.int64)
    may_be_text = role_of(name) in ("observation", "action", "final")
    if may_be_text and values.dtype.kind in "UO" and all(isinstance(text, str) for text in values.reshape(-1)):
        return values.astype(object)
    expected = "only numbers and texts are" if may_be_text else "only numbers are"
    raise DataError(f"{name} has type {values.dtype}: {expected} supported, all of one shape")


def _check_lengths(steps: Mapping[str, np.ndarray], has_last: bool = False) -> None:
    """Refuse arrays that are not of one length; observations may have one more, the last one."""
    rewards = steps["reward"]
    if rewards.ndim != 1 or rewards.dtype.kind not in "biuf":
        raise DataError(f"reward has type {rewards.dtype} and shape {list(rewards.shape)}: give one number per step")
    if len(rewards) == 0:
        raise DataError("it has no steps: give at least one")
    for name, values in steps.items():
        num_more = int(has_last and role_of(name) == "observation")
        if values.ndim == 0 or len(values) != len(rewards) + num_more:
            hint = 'give one more than rewards, or the last one as "final"' if num_more else "give one per reward"
            raise DataError(
                f"{name} has {len(values) if values.ndim else 'no'} rows for {len(rewards)} rewards: {hint}"
            )


def _check(steps: dict[str, np.ndarray], final: dict[str, np.ndarray]) -> None:
    _check_lengths(steps)
    for name, values in steps.items():
        steps[name] = _checked(values, steps.get(MISSING + name), name)
    expected = {name for name in steps if role_of(name) == "observation"}
    for name in expected - final.keys():
        if name.startswith(MISSING):  # a final observation without a mask is known
            final[name] = np.zeros(steps[name].shape[1:], bool)
    if final.keys() != expected:
        lacking, unknown = sorted(expected - final.keys()), sorted(final.keys() - expected)
        raise DataError(f"final {f'lacks {lacking[0]!r}' if lacking else f'has {unknown[0]!r}'}: give what is observed")
    for name, value in final.items():
        shape = list(steps[name].shape[1:])
        if list(value.shape) != shape:
            raise DataError(f"{final_name(name)} has shape {list(value.shape)}, an observation has {shape}")
        mask = final.get(MISSING + name)
        final[name] = _checked(value[None], None if mask is None else mask[None], final_name(name))[0]


def _checked(values: np.ndarray, mask: np.ndarray | None, name: str) -> np.ndarray:
    """Return values with zeros where they are missing; any other that is not finite is refused."""
    if mask is not None:
        if mask.shape not in (values.shape, values.shape[:1]):
            expected = f"expected {list(values.shape)} or {list(values.shape[:1])}"
            raise DataError(f"{MISSING}{name} has shape {list(mask.shape)}: {expected}")
        values = values.copy()
        values[mask] = "" if values.dtype == object else 0
    nonfinite = nonfinite_entry(values)
    if nonfinite:
        place = name if role_of(name) == "final" else f"step {nonfinite[0]}: {name}"
        raise DataError(f"{place}{nonfinite[1]}")
    return values

"""The report of an evaluation: asked against achieved, as a table, a figure and `report.json`.

Written by `evaluation`; what it holds is plain numbers, and nothing here plays an episode.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from seqdec.errors import DataError


@dataclass(frozen=True)
class TargetResult:
    """The episodes of one target.

    A `target_return` of None says that nothing was asked, "expert" that the policy chose what an expert would get. All
    returns are in the unit of the target: discounted where the policy's are. `ci95` is a bootstrap interval of the
    mean; `score` is 0 at the first reference return and 100 at the second, and counts every reward in full.
    `success_rate` is the share of the episodes that the environment calls a success, where it says so of any, and
    `success_ci95` Wilson's interval.
    """

    target_return: float | str | None
    mean: float
    std: float
    ci95: tuple[float, float]
    score: float | None
    episode_returns: list[float]
    episode_lengths: list[int]
    failures: list[dict[str, int | str]] = field(default_factory=list)
    success_rate: float | None = None
    success_ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class Report:
    """The episodes of several targets: what `report.json` holds.

    Example:
        >>> report = policy.evaluate(target_return=[1000, "max"])
        >>> print(report)  # the table
        >>> report.plot("report.png")
    """

    env: str
    seed: int
    num_episodes: int
    targets: list[TargetResult]
    rank_correlation: float | None
    data_returns: dict[str, float]
    env_steps_per_second: float
    discount: float = 1.0

    def to_json(self) -> dict[str, object]:
        """Return what `report.json` holds."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> "Report":
        """Read what `to_json` returned.

        Raises:
            DataError: A key is missing or unknown, or a value is not what it must be.
        """
        _check_keys(value, cls, "a report")
        results = value["targets"]
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise DataError("a report's targets must be a list of objects; write it again with `seqdec eval`")
        targets = []
        for result in results:
            _check_keys(result, TargetResult, "a report's target")
            intervals = {name: result.get(name) for name in ("ci95", "success_ci95")}
            if not all(isinstance(interval, list | tuple | None) for interval in intervals.values()):
                raise DataError("a report's intervals must be lists of two; write it again with `seqdec eval`")
            pairs = {name: None if value is None else tuple(value) for name, value in intervals.items()}
            targets.append(TargetResult(**{**result, **pairs}))
        return cls(**{**value, "targets": targets})  # pyright: ignore[reportArgumentType]

    def __str__(self) -> str:
        """Return the table."""
        return self.table()

    def plot(self, path: Path | str) -> None:
        """Draw asked against achieved as a PNG.

        Raises:
            StorageError: the file cannot be written.
        """
        from seqdec.inference.plots import plot_report  # which knows reports

        plot_report({"achieved": self}, Path(path))

    def table(self) -> str:
        """Return asked against achieved as lines of text, with the rank correlation and the data's returns below."""
        failed = any(result.failures for result in self.targets)
        scored = any(result.score is not None for result in self.targets)
        judged = any(result.success_rate is not None for result in self.targets)
        rows = [["asked", "achieved", "95 % interval", "std", "length"]]
        rows[0] += ["score"] * scored + ["success", "95 % interval"] * judged + ["failed"] * failed
        for result in self.targets:
            low, high = result.ci95
            row = [in_words(result.target_return), _number(result.mean), f"{_number(low)} .. {_number(high)}"]
            row += [_number(result.std), _number(float(np.mean(result.episode_lengths)))]
            row += ["" if result.score is None else f"{result.score:.1f}"] * scored
            row += [_percent(result.success_rate), _percent(*result.success_ci95 or (None,))] * judged
            row += [f"{len(result.failures)} of {self.num_episodes}"] * failed
            rows.append(row)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines += [
            "",
            f"{self.env}: {self.num_episodes} episodes a target, from seed {self.seed} on",
            f"data: returns {_number(self.data_returns['min'])} to {_number(self.data_returns['max'])}, "
            f"median {_number(self.data_returns['q50'])}",
        ]
        if self.discount != 1:
            lines.append(f"returns are discounted by {self.discount:g} a step" + ", scores are not" * scored)
        if self.rank_correlation is not None:
            lines.append(f"rank correlation of asked and achieved: {self.rank_correlation:.2f}")
        for result in self.targets:
            for failure in result.failures[:1]:
                lines.append(
                    f"asked {in_words(result.target_return)}: episode {failure['episode']} failed: {failure['message']}"
                )
        return "\n".join(lines)


def in_words(target: float | str | None) -> str:
    """Return a target as a reader wants it in a table."""
    return "nothing" if target is None else target if isinstance(target, str) else _number(target)


def _number(value: float) -> str:
    """Return a number as a reader wants it in a table: no decimals where they say nothing."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _percent(*rates: float | None) -> str:
    """Return one rate, or an interval, in percent; nothing where it is not known."""
    return "" if None in rates else " .. ".join(f"{100 * rate:.0f} %" for rate in rates if rate is not None)


def _check_keys(value: Mapping[str, object], kind: type, what: str) -> None:
    names = {entry.name for entry in fields(kind)}
    needed = {entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING}
    wrong = [f"no {name!r}" for name in sorted(needed - set(value))]
    wrong += [f"an unknown {name!r}" for name in sorted(set(value) - names)]
    if wrong:
        raise DataError(f"{what} has {', '.join(wrong)}; write it again with `seqdec eval`")

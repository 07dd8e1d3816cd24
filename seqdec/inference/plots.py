"""Asked against achieved as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seqdec.errors import StorageError, UsageError
from seqdec.inference.report import Report, TargetResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_report(reports: Mapping[str, Report], path: Path) -> None:
    """Draw asked against achieved for one or more runs, with the diagonal and the data's returns, as a PNG.

    Args:
        reports: Reports by the name that the legend shows; the data's returns are the first one's.
        path: File to write.

    Raises:
        StorageError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not reports:
        raise UsageError("no reports to draw: give at least one")
    figure = Figure(figsize=(6.4, 5.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    first = next(iter(reports.values()))
    _draw_data(axes, first.data_returns)
    colours = ["#1f5fa8", "#c8591b", "#2f8f5b", "#8b4fa0", "#7a6a2f", "#b03a5b"]
    for index, (name, report) in enumerate(reports.items()):
        _draw_results(axes, report, name if len(reports) > 1 else "achieved", colours[index % len(colours)])
    asked = [target for report in reports.values() for target, _ in _asked_results(report)]
    low, high = min([*asked, first.data_returns["min"]]), max([*asked, first.data_returns["max"]])
    room = 0.06 * (high - low) or 1.0
    ends = [low - room, high + room]
    axes.plot(ends, ends, color="#555555", lw=1, ls=(0, (5, 4)), zorder=2, label="asked = achieved")
    axes.set_xlim(*ends)
    unit = "" if first.discount == 1 else f", discounted by {first.discount:g}"
    axes.set(xlabel=f"target return (asked{unit})", ylabel=f"return (achieved{unit})")
    axes.set_title(_title(reports), loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    # Outside: where the points will be is not known before they are.
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _draw_data(axes: "Axes", data_returns: Mapping[str, float]) -> None:
    axes.axvspan(data_returns["min"], data_returns["max"], color="#f6f3ea", lw=0, zorder=0, label="data: min to max")
    axes.axvspan(data_returns["q10"], data_returns["q90"], color="#ebe5d4", lw=0, zorder=0, label="data: q10 to q90")
    for index, value in enumerate(data_returns.values()):
        label = "data: min, each decile, max" if index == 0 else None
        axes.plot(
            value, 0.012, transform=axes.get_xaxis_transform(), ls="", marker="|", ms=8, mew=1.4, color="#8a8268",
            zorder=1, label=label,
        )  # fmt: skip


def _draw_results(axes: "Axes", report: Report, name: str, colour: str) -> None:
    for result in report.targets:
        if not isinstance(result.target_return, float):
            what = "nothing asked" if result.target_return is None else "expert"
            axes.axhspan(*result.ci95, color=colour, alpha=0.2, lw=0, zorder=3)
            axes.axhline(result.mean, color=colour, lw=1.6, zorder=4, label=f"{name}: {what}, mean, 95 % interval")
    if not _asked_results(report):
        return
    asked, results = zip(*_asked_results(report), strict=True)
    means = [result.mean for result in results]
    for target, result in zip(asked, results, strict=True):
        axes.plot(
            [target] * len(result.episode_returns),
            result.episode_returns,
            ls="",
            marker="o",
            ms=4,
            mew=0,
            alpha=0.25,
            color=colour,
            zorder=3,
        )
    below = [result.mean - result.ci95[0] for result in results]
    above = [result.ci95[1] - result.mean for result in results]
    axes.errorbar(
        asked, means, yerr=[below, above], color=colour, lw=1.6, elinewidth=1.6, capsize=4, marker="o", ms=6, zorder=4,
        label=f"{name}: mean, 95 % interval, episodes",
    )  # fmt: skip


def _asked_results(report: Report) -> list[tuple[float, TargetResult]]:
    """Return the results of asked returns with what was asked, in that order."""
    pairs = [(result.target_return, result) for result in report.targets if isinstance(result.target_return, float)]
    return sorted(pairs, key=lambda pair: pair[0])


def _title(reports: Mapping[str, Report]) -> str:
    first = next(iter(reports.values()))
    title = f"{first.env}: asked against achieved, {first.num_episodes} episodes a target"
    if not any(_asked_results(report) for report in reports.values()):
        title = f"{first.env}: achieved, nothing asked, {first.num_episodes} episodes"
    if len(reports) == 1 and first.rank_correlation is not None:
        title += f"\nrank correlation {first.rank_correlation:.2f}"
    return title

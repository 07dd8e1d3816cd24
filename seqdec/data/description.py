"""What a data set holds, in a table and in a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from seqdec.data.episode import METADATA
from seqdec.data.schema import column, environment_of, lengths, num_bytes, returns
from seqdec.errors import StorageError
from seqdec.spaces.leaves import MISSING
from seqdec.spaces.space import describe_space, quote
from seqdec.spaces.spec import EnvironmentSpec

QUANTILES = ("min", "q10", "q20", "q30", "q40", "q50", "q60", "q70", "q80", "q90", "max")


@dataclass(frozen=True)
class Description:
    """What a data set holds; as text, the table that `seqdec data show` prints.

    Example:
        >>> print(describe(scripted_cartpole()))  # doctest: +SKIP
    """

    spec: EnvironmentSpec
    num_episodes: int
    num_timesteps: int
    length_quantiles: Mapping[str, int]
    return_quantiles: Mapping[str, float]
    fraction_terminated: float
    fraction_truncated: float
    num_bytes: int
    fraction_missing: Mapping[str, float]
    texts: tuple[str, ...]
    metadata: tuple[str, ...]

    def __str__(self) -> str:
        """Return the table."""
        spec, reference = self.spec, self.spec.reference_returns
        lines = [
            ("environment", "not named" if spec.id is None else quote(spec.id)[1:-1]),
            ("observation", describe_space(spec.observation_space)),
            ("action", describe_space(spec.action_space)),
            ("episodes", f"{self.num_episodes:,}"),
            ("timesteps", f"{self.num_timesteps:,}"),
            ("terminated", f"{self.fraction_terminated:.0%}, truncated {self.fraction_truncated:.0%}"),
            ("size", f"{self.num_bytes / 1e6:.1f} MB"),
            ("score 0 / 100", "not known" if reference is None else f"{reference[0]:g} / {reference[1]:g}"),
            *[("missing", f"{share:.1%} of {name}") for name, share in self.fraction_missing.items()],
            *([("texts", self._shown_texts())] if self.texts else []),
            *([("metadata", ", ".join(quote(name)[1:-1] for name in self.metadata))] if self.metadata else []),
            ("", "".join(f"{name:>8}" for name in QUANTILES)),
            ("length", "".join(f"{self.length_quantiles[name]:>8}" for name in QUANTILES)),
            ("return", "".join(f"{_short(self.return_quantiles[name]):>8}" for name in QUANTILES)),
        ]
        return "\n".join(f"{name:<14} {text}" for name, text in lines)

    def _shown_texts(self) -> str:
        shown = ", ".join(quote(text[:60]) for text in self.texts[:3])
        return shown if len(self.texts) <= 3 else f"{shown} and {len(self.texts) - 3} others"


def describe(dataset: Dataset) -> Description:
    """Count and measure a data set."""
    spec = environment_of(dataset)
    episode_lengths = lengths(dataset)
    return Description(
        spec=spec,
        num_episodes=len(dataset),
        num_timesteps=int(episode_lengths.sum()),
        length_quantiles={name: round(value) for name, value in quantiles(episode_lengths).items()},
        return_quantiles=quantiles(returns(dataset)),
        fraction_terminated=float(np.mean(dataset["terminated"][:])),
        fraction_truncated=float(np.mean(dataset["truncated"][:])),
        num_bytes=num_bytes(dataset),
        fraction_missing={name: _mean(column(dataset, MISSING + name)) for name in spec.missing},
        texts=tuple(sorted({text for text in dataset.unique("text") if text})),
        metadata=tuple(name.removeprefix(METADATA) for name in dataset.column_names if name.startswith(METADATA)),
    )


def plot_description(dataset: Dataset, path: Path, title: str = "") -> None:
    """Draw how the episodes' returns and lengths are spread, as a PNG.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    parts = (("return of an episode", returns(dataset)), ("length of an episode (timesteps)", lengths(dataset)))
    for axes, (label, values) in zip(figure.subplots(1, 2), parts, strict=True):
        axes.hist(values, bins=min(50, max(10, len(values) // 8)), color="#1f5fa8", alpha=0.85)
        axes.axvline(np.mean(values), color="#c8591b", lw=1.6, label=f"mean {_short(float(np.mean(values)))}")
        axes.set(xlabel=label, ylabel="episodes")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5)
    spec = environment_of(dataset)
    name = title or (quote(spec.id)[1:-1] if spec.id else "an unnamed environment")
    figure.suptitle(f"{name}: {len(dataset):,} episodes, {int(lengths(dataset).sum()):,} timesteps", fontsize=11)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return min, the nine deciles and max by name ("q10", "q50")."""
    return dict(zip(QUANTILES, np.quantile(values, np.linspace(0, 1, len(QUANTILES))).tolist(), strict=True))


def _mean(chunks: list[np.ndarray]) -> float:
    return float(sum(chunk.sum(dtype=np.int64) for chunk in chunks) / sum(chunk.size for chunk in chunks))


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

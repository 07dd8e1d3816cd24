"""Where the numbers of a run go: one line a log in `metrics.jsonl` always, and to a tracker if asked.

A tracker that is asked for and not installed is an error at the start. One that fails later is reported once and
left alone: it never stops training.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from seqdec import storage
from seqdec.errors import UsageError

TRACKERS = ("none", "wandb", "tensorboard", "trackio")
logger = logging.getLogger(__name__)


class Metrics:
    """Writes a run's metrics; `log` takes numbers by name, such as "train/loss".

    Args:
        folder: the run's folder.
        step: lines of later steps are cut away, so that a resumed run has neither gaps nor repeats.
        tracker: one of `TRACKERS`.
        config: what the tracker shows as the run's settings.
    """

    def __init__(self, folder: Path, *, step: int, tracker: str, config: Mapping[str, object]):
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            storage.truncate_lines(self.path, lambda line: line.get("step", 0) <= step)
        self._close: Callable[[], None] | None = None
        self._track = self._guard(lambda: _open_tracker(tracker, folder, dict(config)), tracker)

    def _guard(self, open_tracker, name: str) -> Callable[[dict[str, float], int], None] | None:
        try:
            opened = open_tracker()
        except ImportError as error:
            raise UsageError(f'{name} is not installed: pip install "seqdec[{name}]"') from error
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - foreign code, of any kind of failure
            self._give_up(name, error)
            return None
        if opened is None:
            return None
        track, self._close = opened
        self._name = name
        return track

    def _give_up(self, name: str, error: Exception) -> None:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        logger.warning("%s unavailable (%s), continuing with %s", name, reason, self.path)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line; numbers that are not finite become null."""
        finite = {name: value if abs(value) < float("inf") else None for name, value in values.items()}
        storage.append_line(self.path, {"step": step, **finite})
        if self._track is not None:
            try:
                self._track(dict(values), step)
            except Exception as error:  # noqa: BLE001 - foreign code, of any kind of failure
                self._give_up(self._name, error)
                self._track = None

    def close(self) -> None:
        """Let the tracker finish."""
        if self._close is not None and self._track is not None:
            try:
                self._close()
            except Exception as error:  # noqa: BLE001 - foreign code, of any kind of failure
                self._give_up(self._name, error)
            self._track = None


def _open_tracker(name: str, folder: Path, config: dict[str, object]):
    """Return how to log to a tracker and how to close it; None for no tracker."""
    if name == "none":
        return None
    if name == "wandb":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it sends what goes wrong, also when offline
        import wandb  # pyright: ignore[reportMissingImports]

        logged_in = bool(os.environ.get("WANDB_API_KEY")) or _has_wandb_login()
        run = wandb.init(
            project="seqdec", name=folder.name, dir=str(folder), config=config,
            mode=None if logged_in or "WANDB_MODE" in os.environ else "offline",
            settings=wandb.Settings(init_timeout=20, silent=True, disable_git=True),
        )  # fmt: skip
        run.define_metric("*", step_metric="step")
        return lambda values, step: run.log({**values, "step": step}), run.finish
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder / "tensorboard"))

        def write(values: dict[str, float], step: int) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)

        return write, writer.close
    if name == "trackio":
        import trackio  # pyright: ignore[reportMissingImports]

        trackio.init(project="seqdec", name=folder.name, config=config)
        return lambda values, step: trackio.log(values, step=step), trackio.finish
    raise UsageError(f"unknown tracker {name!r}: use one of {', '.join(TRACKERS)}")


def _has_wandb_login() -> bool:
    """Whether somebody is logged in on this machine; asked of the netrc file, so that nothing is prompted."""
    import netrc

    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return path.exists() and netrc.netrc(str(path)).authenticators("api.wandb.ai") is not None
    except (netrc.NetrcParseError, OSError):
        return False

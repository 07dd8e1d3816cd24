"""Which features of a LeRobot data set are read, and which spaces their values make.

    observation.state   float32 [6]             Dict(state=Box(6), images=Dict(top=Box(480, 640, 3) uint8))
    observation.images.top  video [480, 640, 3]
    action              float32 [6]             Box(6); with action.arm and action.gripper alone, a Dict of these

Boxes have no bounds: meta/stats.json tells what was seen, not what may be. Single truth values are Discrete(2);
integers become a Box, except a scalar whose values are named, which becomes Discrete.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import gymnasium
from gymnasium.spaces import Discrete, MultiBinary, Text

from seqdec.errors import DataError, UsageError, suggest
from seqdec.formats.infer import images, nested, numbers
from seqdec.formats.lerobot_meta import Feature, Info
from seqdec.formats.video import Shape
from seqdec.spaces.space import MAX_ENTRIES, MAX_TEXT, is_int, quote
from seqdec.spaces.spec import EnvironmentSpec

logger = logging.getLogger(__name__)
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FACTS = ("next.reward", "next.success", "next.done", "next.truncated", "task_index", "frame_index", "timestamp")
Cameras = Literal["read", "skip"] | Sequence[str]


@dataclass(frozen=True)
class Plan:
    """What is read of each episode: columns of its frames, and the videos among its cameras; `resize` their images."""

    info: Info
    spec: EnvironmentSpec
    cameras: tuple[str, ...]
    columns: tuple[str, ...]
    videos: tuple[str, ...]
    resize: bool


def make_plan(info: Info, cameras: Cameras, image_size: tuple[int, int] | None) -> Plan:
    """Choose the features to read.

    Args:
        info: of the data set.
        cameras: "read" all of them, "skip" them, or the names of those to read.
        image_size: height and width to bring images to; their own by default.

    Raises:
        UsageError: there is no such camera, or its images are too large.
        DataError: there is nothing to observe or nothing to do, or a feature is of a type that is not read.
    """
    if image_size is not None and (len(image_size) != 2 or not all(is_int(size) and size >= 1 for size in image_size)):
        raise UsageError(f"image_size is {quote(image_size)}: expected height and width, such as (240, 320)")
    seen = _cameras(info, cameras)
    observed = {
        name: _leaf(feature, image_size, info)
        for name, feature in info.features.items()
        if name.startswith("observation.") and (name in seen or not feature.is_camera)
    }
    acted = {name: _leaf(info.features[name], None, info) for name in _action_names(info)}
    if not observed:
        raise DataError(f"{info.path} has no feature observation.* to read, besides cameras that are left out")
    spec = EnvironmentSpec(nested(observed, "observation"), nested(acted, "action"))
    videos = tuple(name for name in seen if info.features[name].dtype == "video")
    columns = [name for name in (*observed, *acted) if name not in videos]
    columns += [name for name in FACTS if name in info.features]
    return Plan(info, spec, tuple(seen), tuple(columns), videos, resize=image_size is not None)


def _action_names(info: Info) -> list[str]:
    """Return "action", or where there is none, all its parts; with it, parts are the same told otherwise."""
    parts = [name for name in info.features if name.startswith("action.")]
    if "action" in info.features:
        if parts:
            logger.info("%s: action is read, %s are left out", info.path, ", ".join(map(quote, parts)))
        return ["action"]
    if not parts:
        raise DataError(f"{info.path} has no feature action")
    return parts


def _cameras(info: Info, cameras: Cameras) -> list[str]:
    known = [name for name, feature in info.features.items() if feature.is_camera and name.startswith("observation.")]
    if isinstance(cameras, str) and cameras not in ("read", "skip"):
        raise UsageError(
            f"cameras is {quote(cameras)}: expected 'read', 'skip', or names in a list, as [{quote(cameras)}]"
        )
    if cameras == "skip":
        return []
    chosen = known if cameras == "read" else [_camera(name, known, info) for name in cameras]
    depth = [name for name in chosen if info.features[name].is_depth]
    if depth:
        rest = [name for name in known if not info.features[name].is_depth]
        raise UsageError(f"{info.path}: {quote(depth[0])} holds depth maps, which are not read: pass cameras={rest}")
    return [name for name in known if name in chosen]


def _camera(name: str, known: Sequence[str], info: Info) -> str:
    matches = [name] if name in known else [camera for camera in known if camera.endswith(f".{name}")]
    if len(matches) != 1:
        nearest = suggest(name, known) or f"; it has {', '.join(map(quote, known)) or 'none'}"
        reason = "is the end of several names" if matches else "is no camera of this data set"
        raise UsageError(f"{info.path}: {quote(name)} {reason}{nearest}")
    return matches[0]


def _leaf(feature: Feature, image_size: tuple[int, int] | None, info: Info) -> gymnasium.Space:
    """Return the space of a feature's values."""
    shape = feature.shape
    place = f"{info.path}: {quote(feature.name)}"
    if feature.is_camera:
        return images(_image_shape(feature, image_size, place))
    if feature.dtype == "string":
        return Text(MAX_TEXT)
    if math.prod(shape) > MAX_ENTRIES:
        raise DataError(f"{place} has shape {list(shape)}: at most {MAX_ENTRIES} entries are supported")
    if feature.dtype == "bool":
        return Discrete(2) if shape == (1,) else MultiBinary(shape)
    if feature.dtype not in NUMBERS:
        raise DataError(
            f"{place} has dtype {quote(feature.dtype)}: expected image, video, string, bool or numbers; take the "
            "feature out of info.json to leave it out"
        )
    if shape == (1,) and feature.dtype.startswith(("int", "uint")) and len(feature.names) > 1:
        return Discrete(len(feature.names))
    return numbers(shape)


def _image_shape(feature: Feature, image_size: tuple[int, int] | None, place: str) -> Shape:
    if len(feature.shape) != 3:
        raise DataError(f"{place} has shape {list(feature.shape)}: expected height, width and channels")
    named_last = feature.names[2:] and feature.names[2].startswith("channel")
    named_first = feature.names[:1] and feature.names[0].startswith("channel")
    is_first = named_first or (not named_last and feature.shape[2] not in (1, 3) and feature.shape[0] in (1, 3))
    channels, height, width = feature.shape if is_first else (feature.shape[2], *feature.shape[:2])
    if channels not in (1, 3):
        raise DataError(f"{place} has {channels} channels: images of 1 or 3 are read; leave the camera out")
    height, width = image_size or (height, width)
    if height * width * channels > MAX_ENTRIES:
        raise UsageError(
            f"{place} has {height} x {width} x {channels} entries, at most {MAX_ENTRIES} are supported: give an "
            "image_size, such as (240, 320)"
        )
    return height, width, channels

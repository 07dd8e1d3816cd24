"""Which features of a LeRobot data set are what, and the spaces of their values.

    feature                         by default         with Columns(observation={"observation.camera": "image", ...})
    observation.state, image, ...   observation.*      the leaves that are named, each of one feature, or of several
    action, or action.arm, ...      action, action.*   likewise

Numbers become float32 without bounds, whatever meta/stats.json says of them, a single truth value or an integer whose
values are named Discrete.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import gymnasium
from gymnasium.spaces import Discrete, MultiBinary, Text

from seqdec.errors import DataError, UsageError, suggest
from seqdec.formats import video
from seqdec.formats.columns import Columns, LeafColumns, Names, completed, flat, roles_of
from seqdec.formats.infer import images, nested, numbers
from seqdec.formats.lerobot_meta import Feature, Info
from seqdec.spaces.space import MAX_ENTRIES, MAX_TEXT, is_int, quote
from seqdec.spaces.spec import EnvironmentSpec

logger = logging.getLogger(__name__)
NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
Cameras = Literal["read", "skip"] | Sequence[str]


@dataclass(frozen=True)
class Plan:
    """What is read of each episode.

    Attributes:
        observation: features by leaf; several make a vector. So is `action`.
        facts: features by what they say of a frame: reward, success, terminated, truncated, text, frame_index,
            timestamp.
        videos: the cameras that are videos.
        resize: bring images to the size of their spaces.
    """

    info: Info
    spec: EnvironmentSpec
    observation: LeafColumns
    action: LeafColumns
    facts: Mapping[str, str]
    cameras: tuple[str, ...]
    videos: tuple[str, ...]
    resize: bool

    @property
    def columns(self) -> list[str]:
        """Return the columns of the frames that are read."""
        names = [*flat(self.observation), *flat(self.action), *self.facts.values()]
        return [name for name in dict.fromkeys(names) if name not in self.videos]


def named_features(columns: Columns | None) -> list[str]:
    """Return the features that the user names."""
    columns = columns or Columns()
    entries: list[Names | None] = [columns.observation, columns.action]
    names = [columns.reward, columns.terminated, columns.truncated, columns.text]
    for entry in entries:
        parts = entry.values() if isinstance(entry, Mapping) else [entry]
        names += [name for part in parts for name in ([part] if isinstance(part, str) else part or ())]
    return [name for name in names if name]


def plan_of(info: Info, columns: Columns | None, cameras: Cameras, image_size: tuple[int, int] | None) -> Plan:
    """Choose the features to read and the spaces of their values."""
    if image_size is not None and (len(image_size) != 2 or not all(is_int(size) and size >= 1 for size in image_size)):
        raise UsageError(f"image_size is {quote(image_size)}: expected height and width, such as (240, 320)")
    own, may_succeed = _own_names(info), columns is None or columns.reward == ""
    columns = completed(columns, own, "LeRobot")
    if not columns.observation or not columns.action:
        role = "action" if columns.observation else "observation"
        lacks = "feature action" if columns.observation else "feature observation.*"
        has = ", ".join(name for name in info.names if not info.is_bookkeeping(name))
        advice = f"name what it is (Columns.{role}); it has {quote(has)}"
        raise DataError(f"{info.path} has no {lacks}: {advice}", option=role)
    roles = roles_of(columns, info.names, str(info.path), own)
    known = [name for name in flat(roles.observation) if info.features[name].is_camera]
    seen = _cameras(info, cameras, known)
    observation = {leaf: column for leaf, column in roles.observation.items() if column not in known or column in seen}
    if not observation:
        raise DataError(f"{info.path} has no feature observation.* to read, besides cameras that are left out")
    observed = {leaf: _leaf(info, column, image_size) for leaf, column in observation.items()}
    acted = {leaf: _leaf(info, column, None) for leaf, column in roles.action.items()}
    videos = tuple(name for name in seen if info.features[name].dtype == "video")
    facts = {"reward": roles.reward, "terminated": roles.terminated, "truncated": roles.truncated, "text": roles.text}
    if roles.reward is None and may_succeed and "next.success" in info.features:
        facts["success"] = "next.success"
    # the clock matters where the frames of a video are looked for by it
    facts |= {name: name for name in ("frame_index", *["timestamp"] * bool(videos)) if name in info.features}
    return Plan(
        info,
        EnvironmentSpec(nested(observed, "observation"), nested(acted, "action")),
        observation,
        roles.action,
        {role: name for role, name in facts.items() if name is not None},
        tuple(seen),
        videos,
        resize=image_size is not None,
    )


def _own_names(info: Info) -> dict[str, Names | None]:
    """Return LeRobot's own names of what a data set has."""
    optional = {"reward": "next.reward", "terminated": "next.done", "truncated": "next.truncated", "text": "task_index"}
    own: dict[str, Names | None] = {role: name if name in info.features else None for role, name in optional.items()}
    own["observation"] = {name: name for name in info.names if name.startswith("observation.")}
    parts = {name: name for name in info.names if name.startswith("action.")}
    if "action" in info.features and parts:
        logger.info("%s: action is read, %s are left out", info.path, ", ".join(map(quote, parts)))
    own["action"] = "action" if "action" in info.features else parts
    return own


def _cameras(info: Info, cameras: Cameras, known: Sequence[str]) -> list[str]:
    if isinstance(cameras, str) and cameras not in ("read", "skip"):
        expected = f"expected 'read', 'skip', or names in a list, as [{quote(cameras)}]"
        raise UsageError(f"cameras is {quote(cameras)}: {expected}")
    if cameras == "skip":
        return []
    chosen = list(known) if cameras == "read" else [_camera(name, known, info) for name in cameras]
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


def _leaf(info: Info, column: str | tuple[str, ...], image_size: tuple[int, int] | None) -> gymnasium.Space:
    """Return the space of the values of a feature, or of the numbers of several side by side."""
    if isinstance(column, str):
        return _space(info.features[column], image_size, info)
    parts = [_space(info.features[name], None, info) for name in column]
    wrong = next((name for name in column if info.features[name].dtype not in (*NUMBERS, "bool")), None)
    if wrong is not None:
        raise UsageError(f"{info.path}: {quote(wrong)} holds no numbers: only these go side by side with others")
    return numbers((sum(math.prod(part.shape or ()) for part in parts),))


def _space(feature: Feature, image_size: tuple[int, int] | None, info: Info) -> gymnasium.Space:
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
        expected = "expected image, video, string, bool or numbers; take it out of info.json to leave it out"
        raise DataError(f"{place} has dtype {quote(feature.dtype)}: {expected}")
    if shape == (1,) and feature.dtype.startswith(("int", "uint")) and len(feature.names) > 1:
        return Discrete(len(feature.names))
    return numbers(shape)


def _image_shape(feature: Feature, image_size: tuple[int, int] | None, place: str) -> video.Shape:
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
        limit = f"at most {MAX_ENTRIES} are supported: give an image_size, such as (240, 320)"
        raise UsageError(f"{place} has {height} x {width} x {channels} entries, {limit}")
    return height, width, channels

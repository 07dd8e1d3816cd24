"""What a camera saw, as uint8 arrays of one size: the frames of a video nearest to given times, and single images.

    video   | key  f1  f2  f3 | key  f5  f6 ...      times  t0  t1 ...   each takes the frame nearest to it,
            one pass, from the key frame before t0 on                    or is refused where none is near

Videos are decoded by PyAV, which `pip install "seqdec[video]"` brings; images by Pillow. A file is opened as what its
kind is, refers to no other file, and what it declares is compared with a limit before anything is decoded.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from PIL import Image

from seqdec import storage
from seqdec.errors import DataError, UsageError
from seqdec.formats.arrays import opened_image
from seqdec.formats.guard import reading

MAX_PIXELS = 2**24
# Some files list the frame to start from later than it is shown.
_SEEK_MARGIN = 1.0  # seconds
Shape = tuple[int, int, int]  # height, width, channels


class _Frame(Protocol):
    """What is used of PyAV's VideoFrame."""

    pts: int | None

    def to_ndarray(self, *, format: str) -> np.ndarray: ...


def import_av() -> ModuleType:
    """Return PyAV; raise `UsageError` where videos cannot be decoded."""
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        advice = 'pip install "seqdec[video]", or leave the cameras out with cameras="skip"'
        raise UsageError(f"videos need PyAV: {advice}") from error
    return av


def read_video(path: Path, times: np.ndarray, shape: Shape, *, tolerance: float, resize: bool) -> np.ndarray:
    """Return the frame nearest to each time: [T, height, width, channels] uint8.

    Args:
        path: an MP4 file.
        times: seconds from the video's start on, ascending.
        shape: height, width and channels, 3 (red, green, blue) or 1 (grey).
        tolerance: how many seconds the nearest frame may be away.
        resize: bring frames of another size to this one instead of refusing them.

    Raises:
        DataError: the file is damaged, or there is no frame near one of the times.
        UsageError: PyAV is not installed.
    """
    av = import_av()
    frames = np.empty((len(times), *shape), np.uint8)
    options = {"protocol_whitelist": "file"}
    with reading(path), av.open(str(path), format="mp4", options=options) as container:
        if not container.streams.video:
            raise DataError(f"{path} holds no video{storage.advice(path)}")
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None:
            raise DataError(f"{path} is in a format that PyAV does not decode{storage.advice(path)}")
        _check_pixels(codec.width, codec.height, str(path))
        codec.options = {"max_pixels": str(MAX_PIXELS)}
        stream.thread_type = "AUTO"
        container.seek(max(0, int((times[0] - _SEEK_MARGIN) / stream.time_base)), stream=stream)
        frames_in_time = (frame for frame in container.decode(stream) if frame.pts is not None)
        decoded = ((float(frame.pts * stream.time_base), frame) for frame in frames_in_time)
        for step, (shown, frame) in enumerate(_nearest(decoded, times)):
            if frame is None or not abs(shown - times[step]) <= tolerance:
                nearest = "it has none" if frame is None else f"the nearest is at {shown:.4f} s"
                advice = "it is cut off or belongs to other data; fetch it again, or leave this camera out"
                raise DataError(f"{path} has no frame at {times[step]:.4f} s, {nearest}: {advice}")
            pixels = frame.to_ndarray(format="rgb24" if shape[2] == 3 else "gray")
            frames[step] = _fitted(Image.fromarray(pixels), shape, resize, str(path))
    return frames


def read_image(entry: object, shape: Shape, name: str, *, resize: bool) -> np.ndarray:
    """Return an encoded image as [height, width, channels] uint8; `name` is for the sentence that says what is wrong.

    Raises:
        DataError: it is damaged, of a kind that is not read, or not of this size.
    """
    with opened_image(entry, name) as image:
        _check_pixels(*image.size, name)
        return _fitted(image, shape, resize, name)


def _nearest(decoded: Iterable[tuple[float, _Frame]], times: Iterable[float]) -> Iterator[tuple[float, _Frame | None]]:
    """Yield for each of ascending times the frame nearest to it and when that is shown."""
    frames = iter(decoded)
    before, after = (-np.inf, None), next(frames, (np.inf, None))
    for time in times:
        while after[0] < time:
            before, after = after, next(frames, (np.inf, None))
        yield before if time - before[0] <= after[0] - time else after


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{name} declares {height} x {width} pixels: at most {MAX_PIXELS} are decoded")


def _fitted(image: Image.Image, shape: Shape, resize: bool, name: str) -> np.ndarray:
    height, width, channels = shape
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        if not resize:
            size = f"{image.height} x {image.width}"
            raise DataError(f"{name} has {size} pixels, info.json says {height} x {width}: resize with image_size")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)

"""Evenly spaced frames of a video file, or of a folder with the frames as images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph

IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def read_frames(video: str | Path, count: int) -> list[Any]:
    """Evenly spaced frames as PIL images, the first and the last one among them.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for grey in range(5):
        ...     Image.new("L", (4, 4), grey).save(folder / f"{grey}.png")
        >>> [frame.getpixel((0, 0))[0] for frame in read_frames(folder, 3)]
        [0, 2, 4]

    The frames are those of `chosen_frames`, as lmms-eval chooses them. A video is decoded with PyAV, from its beginning
    to the last chosen frame.

    Args:
        video: A video file, or a folder of images whose names are in the order of time.
        count: Number of frames; a shorter video gives all that it has.

    Raises:
        SpatialBoostError: The video cannot be read, or has no frame.
    """
    video = Path(video)
    return _of_folder(video, count) if video.is_dir() else _of_file(video, count)


def chosen_frames(total: int, count: int) -> list[int]:
    """Numbers of evenly spaced frames.

    Example:
        >>> chosen_frames(10, 4), chosen_frames(2, 4)
        ([0, 3, 6, 9], [0, 1])
    """
    if count < 1:
        raise SpatialBoostError(f"frames is {count}; expected at least 1")
    return np.linspace(0, total - 1, min(count, total), dtype=int).tolist()


def _of_folder(folder: Path, count: int) -> list[Any]:
    from PIL import Image

    files = sorted(each for each in folder.iterdir() if each.suffix.lower() in IMAGES)
    if not files:
        raise SpatialBoostError(f"{folder} has no images; expected the frames of a video as {', '.join(IMAGES)}")
    return [Image.fromarray(open_photograph(files[number])) for number in chosen_frames(len(files), count)]


def _of_file(file: Path, count: int) -> list[Any]:
    import av

    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            total = stream.frames
        if not total:  # the file does not say it
            total = sum(1 for _ in _decoded(file))
        wanted = chosen_frames(total, count) if total else []
        found = _these(file, set(wanted))
        if found and len(found) < len(wanted):  # the file says more frames than it has
            found = _these(file, set(chosen_frames(sum(1 for _ in _decoded(file)), count)))
    except (av.FFmpegError, IndexError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SpatialBoostError(f"{file} cannot be read as a video: {reason}") from None
    if not found:
        raise SpatialBoostError(f"{file} has no frame that can be decoded")
    return found


def _these(file: Path, wanted: set[int]) -> list[Any]:
    found = []
    for number, frame in enumerate(_decoded(file)):
        if number in wanted:
            found.append(frame.to_image())
        if number >= max(wanted, default=0):
            break
    return found


def _decoded(file: Path) -> Iterator[Any]:
    import av

    with av.open(str(file)) as container:
        container.streams.video[0].thread_type = "AUTO"
        yield from container.decode(video=0)

"""Frames of a sample: which frames of a video are taken, and how they are resized for encoder and language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class FrameOptions:
    """How many frames a sample has, and their size. The defaults are those of Spa3-VLM.

    Example:
        >>> options = FrameOptions()
        >>> [options.count(seconds) for seconds in (3.0, 11.0, 60.0)]
        [4, 6, 8]
        >>> prepared = options.prepare(np.zeros((480, 640, 3), np.uint8))
        >>> prepared.shape, crop(prepared, 28).shape
        ((392, 518, 3), (392, 504, 3))

    Attributes:
        seconds: A video gives one frame for so many seconds ...
        least: ... but at least so many frames ...
        most: ... and at most so many.
        folder_rate: Frames a second of a folder of frames.
        width: Width of a frame in pixels; the height keeps the aspect ratio.
        patch: Width and height become multiples of this; a height above the width is cut, equally above and below.

    Source: Spa3R (arXiv 2602.21186), released code of Spa3-VLM.
    """

    seconds: float = 2.0
    least: int = 4
    most: int = 8
    folder_rate: float = 1.0
    width: int = 518
    patch: int = 14

    def count(self, seconds: float) -> int:
        """Number of frames of a video of this length."""
        return min(max(round(seconds / self.seconds), self.least), self.most)

    def chosen(self, total: int, rate: float) -> list[int]:
        """Indices of the frames that are taken from a video of `total` frames: evenly, from the first to the last."""
        return np.unique(np.linspace(0, total - 1, self.count(total / rate)).astype(int)).tolist()

    def prepare(self, frame_HW3: np.ndarray) -> np.ndarray:
        """A frame of the width and the height above."""
        height, width = frame_HW3.shape[:2]
        across = max(self.width // self.patch, 1) * self.patch
        down = max(round(height * across / width / self.patch), 1) * self.patch
        if (down, across) != (height, width):
            frame_HW3 = np.asarray(Image.fromarray(frame_HW3).resize((across, down), Image.Resampling.BICUBIC))
        top = max(down - across, 0) // 2
        return frame_HW3[top : top + across]

    def read(self, paths: Sequence[Path]) -> list[np.ndarray]:
        """The prepared frames of a sample: of its images, of a folder of frames, or of a video.

        Raises:
            SpatialBoostError: One of them cannot be read.
        """
        if len(paths) == 1 and paths[0].is_dir():
            files = sorted(path for path in paths[0].iterdir() if path.suffix.lower() in IMAGES)
            if not files:
                raise SpatialBoostError(f"{paths[0]} has no images: expected a folder with the frames of a video")
            paths = [files[i] for i in self.chosen(len(files), self.folder_rate)]
        elif len(paths) == 1 and paths[0].suffix.lower() not in IMAGES:
            return [self.prepare(frame) for frame in self._decode(paths[0])]
        return [self.prepare(open_photograph(path)) for path in paths]

    def _decode(self, path: Path) -> np.ndarray:
        from transformers.video_utils import load_video

        if not path.is_file():
            raise SpatialBoostError(f"there is no file {path}: give the folder with the videos as `media`")

        def indices(metadata: Any, **others: Any) -> list[int]:
            return self.chosen(metadata.total_num_frames, metadata.fps or self.folder_rate)

        try:
            frames, _ = load_video(str(path), backend="pyav", sample_indices_fn=indices)  # type: ignore[arg-type]
        except ImportError:
            raise SpatialBoostError(
                f'{path}: videos are decoded by the package av: pip install "spatialboost[video]". A folder with the '
                "frames needs no package"
            ) from None
        except Exception as error:  # decoders raise many kinds of errors on a broken file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SpatialBoostError(f"{path} cannot be read as a video: {reason}") from error
        return np.asarray(frames)


def crop(frame_HW3: np.ndarray, multiple: int) -> np.ndarray:
    """The upper left part of a frame whose sides are multiples of a number, so that no processor has to resize it."""
    height, width = (max(side // multiple, 1) * multiple for side in frame_HW3.shape[:2])
    return frame_HW3[:height, :width]

"""A question of a benchmark, and the images or the video that it is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation.frames import read_frames
from spatialboost.photographs import open_photograph


@dataclass(frozen=True)
class Question:
    """A question as a model is asked it, and what its answer is compared with.

    Example:
        >>> question = Question("7", ("depth",), "Which is closer? (A) the bed (B) the desk", "A", letters="AB")
        >>> question.category
        'depth'

    Attributes:
        id: Its name in the benchmark; no two questions have the same.
        cell: The finest group that the benchmark's means tell apart: its category, then what divides the category.
        prompt: The text that the model gets, without the images.
        truth: The true answer: a letter, a number, or the text of a special kind.
        letters: The letters of its choices, such as ``"ABCD"``; empty if the answer is no letter.
        choices: The texts of the choices, in the order of the letters, where the benchmark gives them apart.
        images: Image files, or functions that return the bytes of an image.
        video: A video file, or a folder with its frames as images.
        scene: Questions about the same scene or image are not independent of each other.
    """

    id: str
    cell: tuple[str, ...]
    prompt: str
    truth: str
    letters: str = ""
    choices: tuple[str, ...] = ()
    images: Sequence[Path | Callable[[], bytes]] = field(default=(), repr=False)
    video: Path | None = None
    scene: str = ""

    @property
    def category(self) -> str:
        """The category of the benchmark, as in its tables."""
        return self.cell[0]

    def look(self, frames: int) -> list[Any]:
        """The images of the question as PIL images, in order; of a video, evenly spaced frames.

        Args:
            frames: Number of frames of a video.

        Raises:
            SpatialBoostError: An image or the video cannot be read.
        """
        from PIL import Image

        if self.video is not None:
            return list(_frames(self.video, frames))
        sources = [source if isinstance(source, Path) else source() for source in self.images]
        return [Image.fromarray(open_photograph(source)) for source in sources]


@lru_cache(maxsize=1)  # questions about the same video are asked one after the other
def _frames(video: Path, count: int) -> tuple[Any, ...]:
    return tuple(read_frames(video, count))


def check_truth(truth: str, letters: str) -> str:
    """The true answer, if it is the letter of a choice.

    Raises:
        SpatialBoostError: It is not.
    """
    if len(truth) != 1 or truth not in letters:
        raise SpatialBoostError(f"its answer is {truth!r}, but its choices are {', '.join(letters) or 'none'}")
    return truth

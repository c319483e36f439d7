"""Files of visual instructions as VSI-590K and VG-LLM lay them out: conversations with images or a video each."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal.frames import FrameOptions
from spatialboost.weights.hub import stays_inside

logger = logging.getLogger(__name__)

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
IMAGE, VIDEO = "<image>", "<video>"


@dataclass(frozen=True)
class Sample:
    """One conversation with its frames.

    Attributes:
        messages: `role` and `content` each; every ``<image>`` in a content stands for the next frame.
        frames: ``uint8 (height, width, 3)`` each.
        name: Where it comes from, for messages.
    """

    messages: list[dict[str, str]]
    frames: list[np.ndarray] = field(default_factory=list)
    name: str = ""

    def without_answer(self) -> Sample:
        """The same without the last message, if that is an answer."""
        messages = self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages
        return Sample(messages, self.frames, self.name)


class VisualInstructions(Sequence[Sample]):
    """The samples of a JSON or JSONL file, for training: a row that cannot be used is left out, counted and named.

    Each row has `conversations`: messages with `from` (human, gpt) and `value`, or `role` and `content`. Its frames are
    named by `video` (a file, or a folder of frames) or by `image` or `images` (a path or a list). ``<video>`` in the
    first question stands for all frames of the row, and so does ``<image>`` in a row with a video, as VSI-590K has it.
    Other keys, such as `question_type`, are not read.

    The file is not held in memory: of a JSONL file, only the position of each line.

    Args:
        file: The file.
        media: The folder that the paths in it start from; None is the folder of the file.
        frames: Which frames are taken, and their size.

    Raises:
        SpatialBoostError: The file cannot be read, or has no rows.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        media: str | os.PathLike[str] | None = None,
        frames: FrameOptions | None = None,
    ) -> None:
        self.file = Path(file)
        self.media = self.file.parent if media is None else Path(media)
        self.frames = frames or FrameOptions()
        self.left_out: dict[str, str] = {}  # name of a row -> why
        try:
            with self.file.open("rb") as opened:
                is_list = next((text for line in opened if (text := line.strip())), b"")[:1] == b"["
            self._rows: list[Any] | None = json.loads(self.file.read_bytes()) if is_list else None
            self._starts = np.array([] if is_list else list(self._lines()), dtype=np.int64)
        except OSError as error:
            raise SpatialBoostError(f"cannot read {self.file}: {error.strerror}") from None
        except ValueError as error:
            raise SpatialBoostError(
                f"{self.file} is not JSON ({str(error)[:200]}); expected a list or one object a line"
            ) from None
        if not len(self):
            raise SpatialBoostError(f"{self.file} has no rows; expected conversations, as a list or one object a line")

    def _lines(self) -> Iterator[int]:
        start = 0
        with self.file.open("rb") as opened:
            for line in opened:
                if line.strip():
                    yield start
                start += len(line)

    def __len__(self) -> int:
        return len(self._starts) if self._rows is None else len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """A sample; in the place of one that cannot be used, the next one that can."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        for offset in range(len(self)):
            number = (index + offset) % len(self)
            try:
                return self.read(number)
            except SpatialBoostError as error:
                name = f"{self.file.name} row {number}"
                if name not in self.left_out:
                    logger.warning("%s is left out: %s (%d so far)", name, error, len(self.left_out) + 1)
                self.left_out[name] = str(error)
        raise SpatialBoostError(
            f"no row of {self.file} can be used; the last one: {next(reversed(self.left_out.values()))}"
        )

    def read(self, number: int) -> Sample:
        """Sample `number`.

        Raises:
            SpatialBoostError: It cannot be used.
        """
        row = self._row(number)
        if not isinstance(row, Mapping):
            raise SpatialBoostError(f"it is {repr(row)[:80]}; expected an object with `conversations`")
        messages = _messages(row.get("conversations"))
        paths, is_video = _paths(row)
        frames = self.frames.read([self._inside(path) for path in paths]) if paths else []
        _place(messages, len(frames), is_video)
        return Sample(messages, frames, f"{self.file.name} row {number}")

    def _row(self, number: int) -> Any:
        if self._rows is not None:
            return self._rows[number]
        with self.file.open("rb") as opened:
            opened.seek(self._starts[number])
            try:
                return json.loads(opened.readline())
            except ValueError as error:
                raise SpatialBoostError(f"the line is not JSON ({str(error)[:200]})") from None

    def _inside(self, name: str) -> Path:
        """A path of a row; one that leads out of the media folder is refused, as the file may be somebody else's."""
        if not stays_inside(name):
            raise SpatialBoostError(f"the path {name[:200]!r} leads out of the media folder; expected one inside it")
        return self.media / name


def _messages(found: Any) -> list[dict[str, str]]:
    """The messages of a row, with the roles of chat templates."""
    if not isinstance(found, list) or not found:
        raise SpatialBoostError(f"`conversations` is {repr(found)[:80]}; expected a list of messages")
    messages = []
    for each in found:
        role, text = (
            (each.get("from", each.get("role")), each.get("value", each.get("content")))
            if isinstance(each, Mapping)
            else (None, None)
        )
        if role not in ROLES or not isinstance(text, str):
            raise SpatialBoostError(
                f"a message is {repr(each)[:80]}; expected `from` ({', '.join(ROLES)}) and `value`, a text"
            )
        messages.append({"role": ROLES[role], "content": text})
    if messages[0]["role"] == "assistant":
        messages = messages[1:]  # an answer without a question
    if not any(message["role"] == "user" for message in messages):
        raise SpatialBoostError("the conversation has no question")
    return messages


def _paths(row: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The paths of a row, and whether they are a video."""
    key = next((key for key in ("video", "images", "image") if row.get(key)), None)
    if key is None:
        return [], False
    found = [row[key]] if isinstance(row[key], str) else row[key]
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise SpatialBoostError(f"`{key}` is {repr(row[key])[:80]}; expected a path, or a list of paths")
    return found, key == "video"


def _place(messages: list[dict[str, str]], num_frames: int, is_video: bool) -> None:
    """Write one ``<image>`` for each frame into the messages, in place."""
    first = next(message for message in messages if message["role"] == "user")
    text = first["content"].replace(f"{IMAGE}\n", IMAGE).replace(f"{VIDEO}\n", VIDEO)
    all_frames = IMAGE * num_frames
    if VIDEO in text:
        text = text.replace(VIDEO, all_frames, 1)
    elif is_video and text.count(IMAGE) == 1:
        text = text.replace(IMAGE, all_frames)
    elif num_frames and not any(IMAGE in message["content"] for message in messages):
        text = all_frames + text
    first["content"] = text
    marks = sum(message["content"].count(IMAGE) for message in messages)
    if marks != num_frames:
        raise SpatialBoostError(f"the conversation has {marks} {IMAGE} marks for {num_frames} frames")

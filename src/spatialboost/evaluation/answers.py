"""The file to which replies are appended as they come, so that a second run asks only what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError

ANSWERS, SETTINGS = "answers.jsonl", "settings.json"
IMAGE, TEXT = "image", "text"  # with the images, and the same question without them


class AnswersFile:
    """The replies in a folder.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with AnswersFile(folder, {"frames": 8}) as answers:
        ...     answers.add("7", IMAGE, "B")
        >>> AnswersFile(folder, {"frames": 8}).replies
        {('7', 'image'): 'B'}

    A line that was cut off when a run was killed is removed, and its question is asked again.

    Args:
        folder: Made if it does not exist.
        settings: All that replies depend on. Replies of other settings do not belong into the same file.

    Raises:
        SpatialBoostError: The folder has replies of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path, self._file = folder / ANSWERS, None
        folder.mkdir(parents=True, exist_ok=True)
        ours: dict[str, Any] = json.loads(json.dumps(settings))
        if self.path.is_file() and (folder / SETTINGS).is_file():
            theirs = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            differ = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
            if differ:
                key = differ[0]
                raise SpatialBoostError(
                    f"{folder} has replies of other settings ({', '.join(differ)} differ; {key} was "
                    f"{theirs.get(key)!r} and is {ours.get(key)!r}): choose another out, or delete that folder"
                )
        (folder / SETTINGS).write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
        self.replies = self._read()

    def add(self, question: str, seen: str, reply: str) -> None:
        """Keep a reply; it is on disk when this returns."""
        self.replies[question, seen] = reply
        line = json.dumps({"question": question, "seen": seen, "reply": reply}, ensure_ascii=False)
        self._file.write(line + "\n")  # type: ignore[attr-defined]  # only within `with`
        self._file.flush()  # type: ignore[attr-defined]

    def __enter__(self) -> AnswersFile:
        self._file = self.path.open("a", encoding="utf-8")  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # type: ignore[attr-defined]
        self._file = None

    def _read(self) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        if not self.path.is_file():
            return found
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole, newline, rest = text.rpartition("\n")
        if rest:  # the run was killed while it wrote this line
            self.path.write_text(whole + newline, encoding="utf-8")
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                each = json.loads(line)
                found[each["question"], each["seen"]] = each["reply"]
            except (ValueError, KeyError, TypeError):
                raise SpatialBoostError(f"{self.path}:{number} is no reply: delete this line") from None
        return found

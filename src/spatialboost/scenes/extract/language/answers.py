"""What a server answered, and what it cost, on disk: a killed build does not pay for an answer twice."""

from __future__ import annotations

import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.scenes.paths import user_path

log = logging.getLogger(__name__)
LEDGER, TOTALS = "usage.jsonl", "usage.json"


@dataclass(frozen=True)
class Usage:
    """What requests cost."""

    requests: int = 0  # number of answers, also of those that could not be used
    input_tokens: int = 0  # tokens of the prompts and images, as the server counted them
    output_tokens: int = 0  # tokens of the answers
    cost: float = 0.0  # in the currency of the user's prices

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __str__(self) -> str:
        tokens = f"{self.input_tokens:,} tokens read and {self.output_tokens:,} written"
        return f"{self.requests:,} requests, {tokens}" + (f", cost {self.cost:.4f}" if self.cost else "")


class Answers:
    """A folder with the answers of language models by the hash of the request, and a ledger of what they cost.

    Example:
        >>> import tempfile
        >>> answers = Answers(tempfile.mkdtemp())
        >>> answers.save("0a1b", {"text": "A room."}, Usage(1, 900, 20, 0.01))
        >>> answers.load("0a1b"), answers.load("ffff"), str(answers.usage)
        ({'text': 'A room.'}, None, '1 requests, 900 tokens read and 20 written, cost 0.0100')

    An answer is stored at once when it arrives, in a file that appears only when it is complete. Several processes can
    use the same folder.

    Raises:
        SpatialBoostError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = user_path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpatialBoostError(f"{folder}: {(error.strerror or str(error)).lower()}; choose a folder") from None
        self._read, self._usage = 0, Usage()  # bytes of the ledger that are read, and their sum
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def load(self, key: str) -> dict[str, Any] | None:
        """The stored answer to a request; None if there is none that can be read."""
        try:
            found = json.loads(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s); it is asked for again", self._path(key), type(error).__name__)
            return None
        return found if isinstance(found, dict) and isinstance(found.get("text"), str) else None

    def save(self, key: str, answer: dict[str, Any], usage: Usage) -> None:
        """Store an answer and what it cost."""
        self.pay(usage)
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, json.dumps(answer).encode())

    def pay(self, usage: Usage) -> None:
        """Add to the ledger. One line is one write, so that several processes can add at the same time."""
        line = json.dumps(list(vars(usage).values())) + "\n"
        file = os.open(self.folder / LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    @property
    def usage(self) -> Usage:
        """The sum of the ledger: of all processes and all builds that used this folder."""
        with self._lock:
            try:
                with (self.folder / LEDGER).open("rb") as file:
                    file.seek(self._read)
                    for line in file:
                        if not line.endswith(b"\n"):  # being written, or left by a killed process
                            break
                        self._read += len(line)
                        self._usage += _usage_of(line)
            except FileNotFoundError:
                pass
            return self._usage

    def write_totals(self) -> None:
        """Write the sum of the ledger to a file for people."""
        replace_file(self.folder / TOTALS, (json.dumps(vars(self.usage), indent=1) + "\n").encode())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _usage_of(line: bytes) -> Usage:
    try:
        requests, read, written, cost = json.loads(line)
        return Usage(int(requests), int(read), int(written), float(cost))
    except (ValueError, TypeError):  # two half lines of killed processes
        return Usage()

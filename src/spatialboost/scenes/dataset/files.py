"""Files of a data set that are written whole or not at all, by one build at a time."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import gcd
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.schema import differing_settings

try:
    import fcntl
except ImportError:  # Windows: two builds in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

_START_SECONDS = 2.0  # a build that has just begun names itself within this time


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step, so that an interrupted write leaves the file as it was."""
    beside = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove the incomplete versions of a file that killed processes left. No other process may be writing it."""
    for leftover in path.parent.iterdir():
        if leftover.name.startswith(f".{path.name}.") and leftover.suffix == ".tmp":
            leftover.unlink(missing_ok=True)


@contextmanager
def build_lock(folder: Path, shard: tuple[int, int], settings: Mapping[str, Any]) -> Iterator[None]:
    """Reserve the files of a shard for this process.

    The lock is a file with the name of its holder. The system releases it when the holder ends, also if it is killed.

    Builds that write into the folder at the same time must have the same settings.

    Raises:
        SpatialBoostError: another process writes some of these files, or builds with other settings.
    """
    if fcntl is None:
        yield
        return
    number, count = shard
    path = folder / f".build-{number}-of-{count}.lock"
    lock = _take(path)
    if lock is None:
        raise _refusal(folder, _read(path), "writes the same files")
    try:
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        os.truncate(lock, 0)
        os.write(lock, json.dumps({"holder": holder, "shard": shard, "settings": settings}).encode())
        for other in sorted(folder.iterdir()):
            if other == path or not (other.name.startswith(".build-") and other.suffix == ".lock"):
                continue
            abandoned = _take(other)
            if abandoned is not None:  # its holder has ended
                other.unlink(missing_ok=True)
                os.close(abandoned)
                continue
            found = _read(other)
            differ = differing_settings(found["settings"], settings) if found["settings"] else []
            if differ:
                raise _refusal(folder, found, f"builds there with {', '.join(differ)}")
            if (number - found["shard"][0]) % gcd(count, found["shard"][1]) == 0:
                raise _refusal(folder, found, "writes some of the same files")
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _take(path: Path) -> int | None:
    """Open and lock a file; None if another process has locked it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.stat(path).st_ino == os.fstat(file).st_ino:
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except FileNotFoundError:  # removed by its holder since it was opened
            pass
        except OSError:  # a file system without locks
            return file
        os.close(file)


def _read(path: Path) -> dict[str, Any]:
    """What the holder of a lock says about itself."""
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        except (OSError, ValueError):  # it has just begun, or has just ended
            if time.monotonic() > end:
                return {"holder": "another process", "shard": [0, 1], "settings": {}}
            time.sleep(0.02)


def _refusal(folder: Path, found: Mapping[str, Any], what: str) -> SpatialBoostError:
    return SpatialBoostError(
        f"{folder}: {found['holder']} {what}; wait until it has ended, stop it, or choose another folder"
    )

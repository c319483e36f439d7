"""Whose folder it is: one process writes into the folder of a run at a time, and all with the same configuration."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG, LOCK = "config.json", ".lock"
_held: set[int] = set()  # open lock files of this process


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. The system releases it when the process ends, also when it is killed.

    Raises:
        SpatialBoostError: Another process holds it; the message says which one.
    """
    if fcntl is None or int(os.environ.get("RANK", 0)):
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    number = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(number, 200).decode(errors="replace").strip() or "another process"
        os.close(number)
        raise SpatialBoostError(
            f"{out} is in use by {holder}: wait until it has ended, or choose another `out`"
        ) from None
    except OSError:  # a network folder without locks
        os.close(number)
        yield
        return
    _held.add(number)
    try:
        os.ftruncate(number, 0)
        os.write(number, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        _held.discard(number)
        (out / LOCK).unlink(missing_ok=True)
        os.close(number)


def _close_in_child() -> None:
    """Workers that read data must not keep the lock of a process that is killed."""
    for number in _held:
        os.close(number)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def check_claim(out: Path, ours: Mapping[str, Any]) -> bool:
    """Check that the folder has no run of another configuration; returns whether it has a run of this one.

    A folder where nothing was trained yet may be taken over: a run that has ended in an error before its first
    checkpoint can be started again with a corrected configuration.
    """
    file = out / CONFIG
    if not file.exists() or (not any(out.glob("*/result.json")) and not any(out.glob("*/checkpoint-*"))):
        return False
    theirs = read_json(file)
    _check_rows_of_a_step(out, ours, theirs)
    ours, theirs = (_without_division(each) for each in (ours, theirs))
    differ = [key for key in ours if ours[key] != theirs.get(key, ours[key] if key == ENCODER else None)]
    if ENCODER in differ:
        raise SpatialBoostError(
            f"the encoder has other weights than when the run in {out} began: use the weights of that time, or choose "
            "another `out`. Random weights can be stored in a file and given as encoder.weights"
        )
    if differ:
        raise SpatialBoostError(
            f"{out} contains a run with another configuration ({', '.join(differ)} differ): choose another `out`, "
            "or delete that folder"
        )
    return True


ENCODER = "encoder_weights"  # key of a checksum of the encoder's weights
PROCESSES = "processes"  # key of the number of processes
DIVISION = ("batch_size", "accumulate")  # how a stage's rows of one step are divided


def _check_rows_of_a_step(out: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Another number of processes may go on with a run, if each step has as many rows as before."""
    for name, stage in ours.items():
        both = stage, theirs.get(name)
        if not all(isinstance(each, Mapping) and all(key in each for key in DIVISION) for each in both):
            continue
        if (out / name / "result.json").exists():  # finished, so it is only loaded
            continue
        counts = [each.get(PROCESSES, 1) for each in (ours, theirs)]
        now, before = (
            count * each["batch_size"] * each["accumulate"] for count, each in zip(counts, both, strict=True)
        )
        if now != before:
            raise SpatialBoostError(
                f"{out} contains a run whose {name} takes {before} rows a step, and this one takes {now}: processes "
                f"({counts[0]} now, {counts[1]} then) x batch_size ({stage['batch_size']}) x accumulate "
                f"({stage['accumulate']}). Choose batch_size and accumulate so that it is {before}, or another `out`"
            )


def _without_division(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the number of processes and what may change with it."""
    return {
        name: {key: value for key, value in each.items() if key not in DIVISION} if isinstance(each, Mapping) else each
        for name, each in config.items()
        if name != PROCESSES
    }


def write_claim(out: Path, ours: Mapping[str, Any]) -> None:
    """Write the configuration into the folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / CONFIG, ours)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that a run has written.

    Raises:
        SpatialBoostError: It is damaged.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpatialBoostError(
            f"{file} is damaged ({error}): delete the folder {file.parent}, and train again"
        ) from None
    if not isinstance(found, dict):
        raise SpatialBoostError(
            f"{file} is damaged (it contains {type(found).__name__}): delete the folder {file.parent}"
        )
    return found


def write_json(file: Path, value: Any) -> None:
    """Write to a temporary file, then rename it, so that a killed run leaves no incomplete file."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(file)

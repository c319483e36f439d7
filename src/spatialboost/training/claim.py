"""Whose folder it is: one process writes into the folder of a run at a time, and all with the same configuration."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.training.batches import advice, counted, same_global_batch

logger = logging.getLogger(__name__)

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
    if not _has_begun(out):
        return False
    theirs = read_json(out / CONFIG)
    given = {key: value for key, value in ours.items() if key != PROCESSES}
    earlier = {key: theirs.get(key, given[key] if key in (DATA, ENCODER) else None) for key in given}
    differ = dict(_differences(earlier, given))
    if ENCODER in theirs:
        differ.pop("encoder.weights", None)  # the file may be elsewhere now: its weights are compared
    if DATA in differ:
        raise SpatialBoostError(
            f"the data set has other files than when the run in {out} began, so its rows have other numbers: use the "
            "files of that time, or choose another `out`"
        )
    if ENCODER in differ:
        raise SpatialBoostError(
            f"the encoder has other weights than when the run in {out} began: use the weights of that time, or choose "
            "another `out`. Random weights can be stored in a file and given as encoder.weights"
        )
    if differ:
        raise SpatialBoostError(
            f"{out} contains a run with another configuration ({_told(differ)}): choose another `out`, or delete that "
            "folder"
        )
    return True


def keep_global_batches(out: Path, ours: Mapping[str, Any], stages: Mapping[str, Any]) -> None:
    """Set the `accumulate` of the stages so that a resumed run takes as many rows in a step as when it began.

    The number of processes may be another one. `batch_size` and `accumulate` may be others, too, if their product with
    the number of processes is the same.

    Raises:
        SpatialBoostError: There is no such `accumulate`; the message says which settings to use.
    """
    if not _has_begun(out):
        return
    theirs = read_json(out / CONFIG)
    now, before = ours[PROCESSES], theirs.get(PROCESSES, ours[PROCESSES])
    for name, stage in stages.items():
        if (out / name / "result.json").exists():  # finished, so it is only loaded
            continue
        earlier = theirs.get(name) or ours[name]
        wanted = earlier["batch_size"] * earlier["accumulate"] * before
        if stage.batch_size * stage.accumulate * now == wanted:
            continue
        unchanged = all(earlier[key] == ours[name][key] for key in CUT)
        try:
            fitting = same_global_batch(wanted, stage.batch_size, now)
        except SpatialBoostError as error:
            raise SpatialBoostError(f"{name}: {error}") from None
        if not unchanged:
            raise SpatialBoostError(
                f"{name}: the run began with {wanted} rows in a step: {advice(wanted, stage.batch_size, now)}"
            )
        logger.info("%s: accumulate is %d with %s, for %d rows in a step", name, fitting, counted(now), wanted)
        stage.accumulate = fitting


# Keys of a checksum of the encoder's weights, and of one of the data set's files
ENCODER, DATA = "encoder_weights", "data_files"
PROCESSES = "processes"  # key of the number of processes that the run began with
CUT = ("batch_size", "accumulate")  # keys of a stage that cut the rows of a step; these may change
SHOWN = 4  # differences that a message names


def _has_begun(out: Path) -> bool:
    return (out / CONFIG).exists() and (any(out.glob("*/result.json")) or any(out.glob("*/checkpoint-*")))


def _differences(theirs: Any, ours: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Key, such as ``stage3.lr``, and both values, for each value that differs."""
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        if theirs != ours:
            yield name, (theirs, ours)
        return
    cut = CUT if all(key in each for key in CUT for each in (theirs, ours)) else ()  # `keep_global_batches` does these
    for key in [*ours, *(each for each in theirs if each not in ours)]:
        if key not in cut:
            yield from _differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)


def _told(differ: Mapping[str, tuple[Any, Any]]) -> str:
    told = [f"{key} is {theirs!r:.80} there and {ours!r:.80} here" for key, (theirs, ours) in differ.items()]
    return "; ".join(told[:SHOWN]) + (f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else "")


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

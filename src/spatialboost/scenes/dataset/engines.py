"""Where the files of a data set are written: in this process, in several, or on a cluster by Ray."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.part import Parts, opened
from spatialboost.scenes.sources import Source
from spatialboost.scenes.threads import limited_threads

Engine = Literal["local", "ray"]
_LOOK_EVERY = 0.5  # seconds between two looks at how many items the processes have done


def write_parts(
    parts: Parts,
    numbers: Sequence[int],
    *,
    source: Source,
    processes: int,
    engine: Engine,
    advance: Callable[[int], Any],
) -> None:
    """Write some files of a data set. The files are the same bytes for every engine and number of processes.

    With Ray, ``processes`` is the number of workers that need no GPU. ``advance`` is called with the number of items
    that were done since its last call.

    Raises:
        SpatialBoostError: a process was ended from outside.
        ModuleNotFoundError: Ray is not installed.
    """
    if not numbers:
        return
    if engine == "ray":
        _write_with_ray(parts, numbers, source, processes, advance)
    elif min(processes, len(numbers)) > 1:
        _write_in_processes(parts, numbers, source, min(processes, len(numbers)), advance)
    else:
        for number in numbers:
            parts.write(number, source, lambda: advance(1))


# --- several processes


@dataclass(frozen=True)
class _Queue:
    """The files that several processes write."""

    parts: Parts  # the files
    numbers: Sequence[int]  # numbers of the files to write
    threads: int  # number of threads of each process
    taken: Any  # how many of the numbers are taken; shared by all processes
    done: Any  # how many items are done; shared as well

    def work(self, source: Source, on_item: Callable[[], object] = lambda: None) -> None:
        """Write files that no process has taken, until there are none."""

        def count() -> None:
            with self.done.get_lock():
                self.done.value += 1
            on_item()

        with limited_threads(self.threads):
            while (place := self._take()) < len(self.numbers):
                self.parts.write(self.numbers[place], source, count)

    def _take(self) -> int:
        with self.taken.get_lock():
            self.taken.value += 1
            return int(self.taken.value) - 1

    def close(self) -> None:
        """Let each process end after the file that it writes now."""
        self.taken.value = len(self.numbers)


def _write_in_processes(
    parts: Parts, numbers: Sequence[int], source: Source, processes: int, advance: Callable[[int], Any]
) -> None:
    """This process writes as well, so that its opened source is used, and while the others start."""
    # A forked process would inherit the locks of this process's threads in the state in which they are
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // processes)
    queue = _Queue(parts, numbers, threads, spawn.Value("q", 0), spawn.Value("q", 0))
    pool = ProcessPoolExecutor(processes - 1, mp_context=spawn, initializer=_begin, initargs=(queue,))
    told = 0

    def look(timeout: float = 0.0) -> set[Future[None]]:
        """Tell what is done, and raise what another process raised. Returns those that still work."""
        nonlocal told
        finished, working = wait(others, timeout=timeout, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
        now = queue.done.value
        advance(now - told)
        told = now
        return working

    try:
        others = {pool.submit(_work) for _ in range(processes - 1)}
        queue.work(source, look)
        while others:
            others = look(_LOOK_EVERY)
    except BrokenProcessPool:
        raise SpatialBoostError(
            "a process of the build was ended from outside, perhaps for lack of memory; run the same command again, "
            "with fewer processes: the files that are complete are kept"
        ) from None
    finally:
        queue.close()
        pool.shutdown(wait=True, cancel_futures=True)


_queue: _Queue
_source: Source


def _begin(queue: _Queue) -> None:
    """Prepare a process: it opens the source, and ends with the process that started it."""
    global _queue, _source
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _queue, _source = queue, opened(queue.parts.source)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work() -> None:
    _queue.work(_source)


# --- Ray


class _ExtractPart:
    """Runs the extractors on the items of a file, so that their results are in the cache. Ray calls it on a GPU."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.source = parts, opened(parts.source)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        for item in self.parts.items(int(row["number"])):
            try:
                self.source[item]
            except Exception:  # the same is met again, and named, when the file is written
                continue
        return row


class _WritePart:
    """Writes a file. Ray calls it on a processor."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self.source = parts, opened(parts.source)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["number"])
        self.parts.write(number, self.source, lambda: None)
        return {"number": number}


def _write_with_ray(
    parts: Parts, numbers: Sequence[int], source: Source, processes: int, advance: Callable[[int], Any]
) -> None:
    # Ray reports its use to a server otherwise, and writes its own progress over ours
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows: Any = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    workers, arguments = min(processes, len(numbers)), (parts,)
    gpus = min(int(ray.cluster_resources().get("GPU", 0)), len(numbers)) if _uses_gpu(source) else 0
    if gpus and getattr(source, "cached", False):  # else the same actors extract and write
        rows = rows.map(_ExtractPart, fn_constructor_args=arguments, num_gpus=1, concurrency=gpus)
        gpus = 0
    if gpus:
        rows = rows.map(_WritePart, fn_constructor_args=arguments, num_gpus=1, concurrency=gpus)
    else:
        rows = rows.map(_WritePart, fn_constructor_args=arguments, num_cpus=1, concurrency=workers)
    for row in rows.iter_rows():
        advance(len(parts.items(int(row["number"]))))


def _uses_gpu(source: Source) -> bool:
    return any(str(getattr(each, "device", "")).startswith("cuda") for each in getattr(source, "extractors", ()))

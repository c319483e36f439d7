"""Which rows each process reads in each step: a function of the seed and the step, for any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import Sampler

from spatialboost.errors import SpatialBoostError


class GlobalBatches(Sampler[list[int]]):
    """The batches of one process. In each epoch, every row is in one batch of one process.

    The order of an epoch is a random permutation that depends on the seed and the epoch alone. An optimiser step takes
    the next ``batch_size * accumulate * processes`` rows of it, the global batch; the last one of an epoch has the
    rest. So the number of a step tells which rows were read before, also after a resume with another number of
    processes. A global batch is cut into batches of `batch_size` rows, which are dealt to the processes in turn.

    In the last step of an epoch, there may be fewer batches than processes. A process without one gets one row that
    counts nothing, so that all processes have the same number of forward passes; see `shares`.

    Example:
        >>> parts = [GlobalBatches(10, 2, 1, rank=rank, processes=2) for rank in range(2)]
        >>> [list(part) for part in parts]
        [[[4, 1], [3, 9], [6, 2]], [[7, 5], [0, 8], [4]]]
        >>> [part.shares(2) for part in parts]  # of the third step: the row 4 has been there before and counts nothing
        [[2.0], [0.0]]
        >>> list(GlobalBatches(10, 2, 2))
        [[4, 1], [7, 5], [3, 9], [0, 8], [6, 2]]

    Args:
        count: Rows of the data set.
        batch_size: Rows of one forward pass of one process.
        accumulate: Forward passes of one process in one optimiser step.
        seed: Random seed.
        rank: Number of this process.
        processes: Number of processes.
        step: Gives the number of finished optimiser steps; it is asked when an epoch begins.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        accumulate: int,
        *,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
        step: Callable[[], int] = lambda: 0,
    ) -> None:
        self.count, self.batch_size, self.accumulate, self.seed = count, batch_size, accumulate, seed
        self.rank, self.processes, self.step = rank, processes, step
        self.global_batch = batch_size * accumulate * processes
        self.steps = math.ceil(count / self.global_batch)  # of an epoch

    def __len__(self) -> int:
        """Forward passes of this process in an epoch."""
        return (self.steps - 1) * self.accumulate + len(self.shares(self.steps - 1))

    def __iter__(self) -> Iterator[list[int]]:
        """The rows of each forward pass of this process in the current epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.step() // self.steps)
        order = torch.randperm(
            self.count, generator=generator
        )  # 8 bytes a row; a list of numbers would be 5 times that
        for number in range(len(self)):
            start = (number * self.processes + self.rank) * self.batch_size
            yield order[start : start + self.batch_size].tolist() or order[:1].tolist()

    def shares(self, step: int) -> list[float]:
        """The weight of each forward pass of this process in a step, 0 for one that counts nothing.

        A forward pass gives the mean loss of its rows, and the gradients of all processes are averaged. With these
        weights, the sum is the gradient of the mean loss of the rows of the global batch.
        """
        start = step % self.steps * self.global_batch
        rows = min(self.count - start, self.global_batch)
        passes = math.ceil(math.ceil(rows / self.batch_size) / self.processes)
        starts = [(number * self.processes + self.rank) * self.batch_size for number in range(passes)]
        own = [max(0, min(self.batch_size, rows - each)) for each in starts]
        return [each * self.processes / rows for each in own]

    def facts(self, step: int = 0) -> dict[str, int]:
        """What a checkpoint records, so that the rows that follow can be found again; see `check_facts`.

        Example:
            >>> GlobalBatches(10, 2, 2).facts(step=4)
            {'rows': 10, 'seed': 0, 'global_batch': 4, 'epoch': 1, 'read': 4}
        """
        epoch, steps = divmod(step, self.steps)
        read = min(self.count, steps * self.global_batch)  # rows of this epoch
        return {
            "rows": self.count,
            "seed": self.seed,
            "global_batch": self.global_batch,
            "epoch": epoch,
            "read": read,
        }

    def check_facts(self, found: Mapping[str, Any]) -> None:
        """Check that a training can go on from a checkpoint with exactly the rows that were not read.

        Raises:
            SpatialBoostError: The rows, their order or the global batch are others than in the checkpoint.
        """
        if found.get("rows", self.count) != self.count:
            raise SpatialBoostError(
                f"the checkpoint was made with {found['rows']} rows, and the data set has {self.count} now, so it is "
                "not known which rows were read: restore the files of that time (is one missing?), or choose another "
                "folder"
            )
        if found.get("seed", self.seed) != self.seed:
            raise SpatialBoostError(
                f"the checkpoint was made with seed {found['seed']}, now it is {self.seed}: give that seed, or choose "
                "another folder"
            )
        if found.get("global_batch", self.global_batch) != self.global_batch:
            wanted = found["global_batch"]
            raise SpatialBoostError(
                f"the checkpoint was made with {wanted} rows in a step, now there are {self.global_batch} "
                f"(batch_size {self.batch_size} x accumulate {self.accumulate} x {counted(self.processes)}): "
                + advice(wanted, self.batch_size, self.processes)
            )


def same_global_batch(wanted: int, batch_size: int, processes: int) -> int:
    """The `accumulate` with which this many processes take `wanted` rows in a step.

    Example:
        >>> same_global_batch(32, batch_size=8, processes=2)
        2

    Raises:
        SpatialBoostError: There is none; the message says which `batch_size` has one.
    """
    accumulate, rest = divmod(wanted, batch_size * processes)
    if rest or not accumulate:
        raise SpatialBoostError(
            f"the run began with {wanted} rows in a step, and batch_size {batch_size} with {counted(processes)} does "
            f"not divide them: {advice(wanted, batch_size, processes)}"
        )
    return accumulate


def advice(wanted: int, batch_size: int, processes: int) -> str:
    """Which settings give a global batch.

    Example:
        >>> advice(32, batch_size=12, processes=2)
        'set batch_size: 8 and accumulate: 2'
    """
    each, rest = divmod(wanted, processes)
    if rest:
        return f"use a number of processes that divides {wanted}"
    largest = max(size for size in range(1, min(batch_size, each) + 1) if each % size == 0)
    return f"set batch_size: {largest} and accumulate: {each // largest}"


def counted(processes: int) -> str:
    """The number of processes in words."""
    return "1 process" if processes == 1 else f"{processes} processes"

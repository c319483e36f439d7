from __future__ import annotations

from itertools import chain

import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.training.batches import GlobalBatches, advice, same_global_batch


def steps(count: int, batch_size: int, accumulate: int, processes: int, done: int = 0) -> list[list[int]]:
    """The rows of each step of an epoch, of all processes together, without those that count nothing."""
    found: list[list[int]] = []
    parts = [
        GlobalBatches(count, batch_size, accumulate, seed=3, rank=rank, processes=processes, step=lambda: done)
        for rank in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1  # else a process would wait for the others
    for part in parts:
        batches = list(part)
        assert len(batches) == len(part)
        for step in range(part.steps):
            found += [[]] * (step == len(found))
            shares = part.shares(step)
            own = batches[step * accumulate : step * accumulate + len(shares)]
            counted = [rows for rows, share in zip(own, shares, strict=True) if share]
            found[step] = found[step] + list(chain(*counted))
    return [sorted(rows) for rows in found]


@pytest.mark.parametrize("count", [1, 7, 16, 17, 23, 31, 32, 33])
@pytest.mark.parametrize("processes, accumulate", [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_steps_have_the_same_rows_for_any_number_of_processes(count, processes, accumulate):
    found = steps(count, 2, accumulate, processes)
    assert found == steps(count, 16, 1, 1)
    assert sorted(chain(*found)) == list(range(count))


@pytest.mark.parametrize("count", [9, 16, 19])
def test_shares_make_the_mean_of_the_rows(count):
    values = torch.arange(count, dtype=torch.float64) ** 2
    for step, rows in enumerate(steps(count, 2, 2, 2)):
        total = 0.0
        for rank in range(2):
            part = GlobalBatches(count, 2, 2, seed=3, rank=rank, processes=2)
            own, shares = list(part)[2 * step :], part.shares(step)
            total += sum(values[r].mean() * s for r, s in zip(own, shares, strict=False)) / 2
        assert torch.isclose(torch.as_tensor(total), values[rows].mean())


def test_each_epoch_has_its_own_order_and_a_step_tells_which():
    done = iter((0, 4, 5, 9, 10))
    part = GlobalBatches(20, 4, 1, step=lambda: next(done))
    epochs = [list(chain(*part)) for _ in range(5)]
    assert epochs[0] == epochs[1] != epochs[2] == epochs[3] != epochs[4]


def test_a_checkpoint_of_other_rows_is_refused():
    facts = GlobalBatches(20, 4, 2).facts()
    GlobalBatches(20, 2, 1, processes=4).check_facts(facts)
    for other, told in [
        (GlobalBatches(19, 4, 2), "made with 20 rows, and the data set has 19 now"),
        (GlobalBatches(20, 4, 2, seed=1), "made with seed 0, now it is 1"),
        (
            GlobalBatches(20, 4, 2, processes=2),
            "8 rows in a step, now there are 16.*set batch_size: 4 and accumulate: 1",
        ),
    ]:
        with pytest.raises(SpatialBoostError, match=told):
            other.check_facts(facts)


def test_what_fits_is_told():
    assert same_global_batch(32, 4, 2) == 4
    assert advice(32, 12, 2) == "set batch_size: 8 and accumulate: 2"
    with pytest.raises(SpatialBoostError, match="use a number of processes that divides 32"):
        same_global_batch(32, 4, 3)
    with pytest.raises(
        SpatialBoostError, match=r"batch_size 16 with 4 processes .*set batch_size: 8 and accumulate: 1"
    ):
        same_global_batch(32, 16, 4)

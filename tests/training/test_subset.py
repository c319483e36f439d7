from __future__ import annotations

import itertools

import numpy as np
import pyarrow.parquet
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.training.config import DataConfig
from spatialboost.training.subset import choose_rows
from training_rows import make_rows, write_parquet


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """40 rows: the first 24 have one image, the others two."""
    made = make_rows(40)
    for row in made[24:]:
        row["images"] = row["images"] * 2
    base = tmp_path_factory.mktemp("data")
    write_parquet(made[:30], base / "a")
    write_parquet(made[30:], base / "b")
    return open_rows([base / "a", base / "b"])


def chosen(rows, seed=0, **data):
    training, held_out = choose_rows(DataConfig(folders=["x"], held_out=4, **data), rows, seed)
    assert held_out == range(36, 40) and list(training) == sorted(training) and max(training) < 36
    assert all(type(number) is int for number in training[:3])
    return list(training)


def test_a_smaller_amount_is_a_part_of_a_larger_one_and_not_the_first_rows(rows):
    assert chosen(rows) == chosen(rows, limit=36) == chosen(rows, limit=99) == list(range(36))
    sizes = [chosen(rows, limit=limit) for limit in (5, 10, 20, 35)]
    assert [len(each) for each in sizes] == [5, 10, 20, 35]
    assert all(set(small) < set(large) for small, large in itertools.pairwise(sizes))
    assert sizes[1] != list(range(10)) and any(number >= 24 for number in sizes[2])  # of both sources
    assert chosen(rows, limit=10) == sizes[1] != chosen(rows, limit=10, seed=1)


@pytest.mark.parametrize(("share", "single"), [(0.5, 4), (1.0, 8), (0.0, 0), (0.25, 2)])
def test_the_share_of_rows_with_one_image(rows, share, single):
    found = chosen(rows, limit=8, single_view=share)
    assert len(found) == 8 and sum(number < 24 for number in found) == single
    assert set(chosen(rows, limit=4, single_view=share)) < set(found)


def test_without_a_limit_as_many_rows_as_the_share_permits(rows):
    found = chosen(rows, single_view=0.5)  # of 24 rows with one image and 12 with two
    assert len(found) == 24 and sum(number < 24 for number in found) == 12
    assert chosen(rows, single_view=1.0) == list(range(24))


def test_too_few_rows_are_one_line(rows):
    assert chosen(rows, limit=30, single_view=0.5) == chosen(rows, single_view=0.5)  # a limit is a largest number
    with pytest.raises(
        SpatialBoostError, match=r"single_view is 1, but of the rows to train on 0 have one image and 12"
    ):
        choose_rows(DataConfig(folders=["x"], held_out=4, single_view=1.0), rows.select(range(24, 40)), 0)
    with pytest.raises(SpatialBoostError, match=r"data.held_out is 40, but there are only 40 rows"):
        choose_rows(DataConfig(folders=["x"], held_out=40), rows, 0)


def test_lengths_are_those_of_the_lists_and_no_image_is_read(rows, monkeypatch):
    read, seen = pyarrow.parquet.ParquetFile.read, []
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile, "read", lambda self, columns, **o: seen.extend(columns) or read(self, columns, **o)
    )
    assert rows.lengths("images").tolist() == [1] * 24 + [2] * 16
    assert len(seen) == 2 and all(column.endswith(".path") for column in seen)
    assert rows.select([39, 0]).lengths("messages").tolist() == [4, 4]
    assert np.array_equal(rows.select(range(20, 30)).lengths("images"), [1] * 4 + [2] * 6)

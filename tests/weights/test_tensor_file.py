"""The writer makes files that safetensors reads; any flipped bit changes the checksum."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import spatialboost as sb
from spatialboost.weights.tensor_file import Entry, TensorWriter, checksum, is_finite, parse_size, split

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> dict[str, str]:
    writer = TensorWriter(path, {k: Entry(t.dtype, tuple(t.shape)) for k, t in tensors.items()}, metadata)
    for key, tensor in tensors.items():
        writer.write(key, tensor)
    writer.finish(metadata)
    writer.close()
    return writer.checksums


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), min_size=1, max_size=3)), min_size=1, max_size=6
    )
)
def test_safetensors_reads_what_is_written(tmp_path_factory, outlines):
    tensors = {f"t.{i}": torch.randn(shape).to(dtype) for i, (dtype, shape) in enumerate(outlines)}
    path = tmp_path_factory.mktemp("written") / "a.safetensors"
    checksums = write(path, tensors, {"some": "fact é"})
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(found[k].dtype == t.dtype and torch.equal(found[k], t) for k, t in tensors.items())
    assert {k: checksum(t) for k, t in found.items()} == checksums
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["some"] == "fact é"


def test_the_same_bytes_as_safetensors_would_write(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    write(tmp_path / "ours", tensors, {})
    save_file(tensors, tmp_path / "theirs")
    data = [(tmp_path / name).read_bytes() for name in ("ours", "theirs")]
    assert data[0][-68:] == data[1][-68:]  # 17 values of 4 bytes; headers differ by the checksums


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30_000), st.integers(0), st.integers(0, 7))
def test_every_flipped_bit_changes_the_checksum(size, at, bit):
    values = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    before = checksum(values)
    values[at % size] ^= 1 << bit
    assert checksum(values) != before


@pytest.mark.parametrize("length", [512, 4096, 16384])
def test_exchanged_pages_change_the_checksum(length):
    values = torch.randint(0, 256, (10 * length,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    swapped = values.clone()
    swapped[:length], swapped[3 * length : 4 * length] = values[3 * length : 4 * length], values[:length]
    zeroed = values.clone()
    zeroed[2 * length : 3 * length] = 0
    assert len({checksum(values), checksum(swapped), checksum(zeroed)}) == 3


def test_the_checksum_knows_dtype_and_shape():
    values = torch.arange(24, dtype=torch.int16).view(torch.bfloat16)
    same = [values, values.view(torch.float16), values.view(4, 6), values.view(6, 4)]
    assert len({checksum(tensor) for tensor in same}) == 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite(dtype):
    values = torch.full((2000,), torch.finfo(dtype).max, dtype=dtype)
    assert is_finite(values) and is_finite(values[:0])
    for bad in (float("inf"), -float("inf"), float("nan")):
        values[1234] = bad
        assert not is_finite(values)


def test_split_keeps_the_order_and_the_limit():
    entries = {str(i): Entry(torch.float32, (size,)) for i, size in enumerate([10, 10, 100, 5, 5, 5])}
    parts = split(entries, 80)
    assert [list(part) for part in parts] == [["0", "1"], ["2"], ["3", "4", "5"]]
    assert [list(part) for part in split(entries, 10**9)] == [list(entries)]


@pytest.mark.parametrize(
    ("text", "size"), [(7, 7), ("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2MiB", 2**21), ("1kb", 1000), ("12", 12)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "five", "5XB", "-1", 0, "GB", "1e9"])
def test_invalid_sizes(text):
    with pytest.raises(
        sb.SpatialBoostError, match="is not a size; expected a number of bytes, or a text such as '5GB'"
    ):
        parse_size(text)

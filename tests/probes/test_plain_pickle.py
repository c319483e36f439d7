"""What a pickle of plain values gives, and that nothing in a pickle is run."""

import os
import pickle
import pickletools

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.plain_pickle import read_plain_pickle


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_values_and_arrays_of_numbers_come_back(tmp_path, protocol: int) -> None:
    values = {
        "names": ["a", "b"],
        "bbx": (1.5, 2.0),
        "easy": np.array([3, 5], np.int64),
        "wide": np.arange(6, dtype=">i4").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "none": np.array([], np.uint8),
        "number": np.float32(0.5),
    }
    file = tmp_path / "truth.pkl"
    file.write_bytes(pickle.dumps(values, protocol=protocol))
    assert read_plain_pickle(file) == {
        "names": ["a", "b"],
        "bbx": [1.5, 2.0],
        "easy": [3, 5],
        "wide": [[0, 1, 2], [3, 4, 5]],
        "columns": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "none": [],
        "number": 0.5,
    }


class Program:
    """A pickle that runs a command when the usual reader opens it."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_program_is_not_run(tmp_path) -> None:
    file, mark = tmp_path / "truth.pkl", tmp_path / "was run"
    file.write_bytes(pickle.dumps({"gnd": [Program(str(mark))]}))
    with pytest.raises(SpatialBoostError, match=r"it names (posix|nt)\.mkdir; expected a pickle with dictionaries"):
        read_plain_pickle(file)
    assert not mark.exists()
    pickle.loads(file.read_bytes())  # it is one: the usual reader runs it
    assert mark.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"cnumpy\nndarray\n(I100000000000\ntR.",
        b"Pname\n.",
        b"\x80\x02]q\x00.garbage"[:4],
        b"",
    ],
)
def test_names_of_others_and_broken_files_are_errors_or_plain(tmp_path, code: bytes) -> None:
    file = tmp_path / "truth.pkl"
    file.write_bytes(code)
    try:
        assert read_plain_pickle(file) == []  # an array without numbers, of no memory
    except SpatialBoostError as error:
        assert str(file) in str(error)
        assert b"ndarray" not in code


def test_an_array_of_objects_gives_its_list_and_forged_bytes_are_refused(tmp_path) -> None:
    file = tmp_path / "truth.pkl"
    file.write_bytes(pickle.dumps(np.array(["a", 3], object)))
    assert read_plain_pickle(file) == ["a", 3]
    honest = pickle.dumps(np.array([1, 2, 3], np.int64), protocol=2)
    assert any(op.name == "BUILD" for op, _, _ in pickletools.genops(honest))
    file.write_bytes(honest.replace(b"i8", b"O8"))
    with pytest.raises(SpatialBoostError, match="expected whole numbers or floats"):
        read_plain_pickle(file)
    with pytest.raises(SpatialBoostError, match="cannot be read"):
        read_plain_pickle(tmp_path / "missing.pkl")

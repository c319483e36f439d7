"""Read a pickle of plain values (dictionaries, lists, texts, numbers, arrays of numbers) without running anything."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError

LARGEST = 2**28  # bytes of a file
_NUMBERS = re.compile(r"[iuf][1248]")


def read_plain_pickle(file: Path) -> Any:
    """The plain values of a pickle; arrays become lists.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "truth.pkl"
        >>> _ = file.write_bytes(pickle.dumps({"easy": np.array([3, 5]), "bbx": [0.5, 2.0]}))
        >>> read_plain_pickle(file)
        {'easy': [3, 5], 'bbx': [0.5, 2.0]}

    A pickle is a program: the usual reader imports and calls whatever the file names. This one calls nothing of the
    file's choice. The few names of numpy that an array of numbers needs are replaced by classes of this module, which
    only read its bytes; every other name is an error. A conversion to JSON by hand would be the less safe way, because
    it opens the file with the usual reader first.

    Raises:
        SpatialBoostError: the file cannot be read, or has anything but plain values.
    """
    expected = "expected a pickle with dictionaries, lists, texts, numbers and arrays of numbers only"
    try:
        if file.stat().st_size > LARGEST:
            raise SpatialBoostError(f"it has more than {LARGEST} bytes")
        with file.open("rb") as opened:
            return _as_plain(_PlainUnpickler(opened, encoding="latin1").load())
    except SpatialBoostError as error:
        raise SpatialBoostError(f"{file} is not opened: {error}; {expected}") from None
    except OSError as error:
        raise SpatialBoostError(f"{file} cannot be read ({error.strerror}); {expected}") from None
    except Exception as error:  # the reader of pickles raises nearly any kind of error on a broken file
        raise SpatialBoostError(f"{file} cannot be read ({type(error).__name__}: {error}); {expected}") from None


class _Kind:
    """In place of `numpy.dtype`: the kind of the numbers of an array."""

    def __init__(self, name: str = "", *rest: Any) -> None:
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = "<" if state[1] in ("|", "=") else str(state[1])

    def read(self, data: Any) -> np.ndarray:
        """The numbers of some bytes."""
        if not _NUMBERS.fullmatch(self.name) or self.order not in ("<", ">"):
            raise SpatialBoostError(f"an array of {self.order}{self.name}, expected whole numbers or floats")
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)  # Python 2 wrote bytes as text
        return np.frombuffer(raw, np.dtype(self.order + self.name))


class _Array:
    """In place of `numpy.ndarray`: its values as a list."""

    def __init__(self, *_: Any) -> None:
        self.values: Any = []

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_columns, data = state
        if isinstance(data, list):  # an array of objects
            self.values = data
        else:
            self.values = kind.read(data).reshape(shape, order="F" if in_columns else "C").tolist()


def _single_number(kind: _Kind, data: Any) -> Any:
    return kind.read(data)[0].item()


def _bytes_of_text(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _start_array(*_: Any) -> _Array:
    return _Array()


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _bytes_of_text,  # these two are how pickles that Python 2 can read have bytes
    ("__builtin__", "bytes"): _no_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _start_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _single_number for core in ("core", "_core")},
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name of numpy.

        Raises:
            SpatialBoostError: any other name; it is not imported.
        """
        if (module, name) not in _STAND_INS:
            raise SpatialBoostError(f"it names {module}.{name}")
        return _STAND_INS[module, name]


def _as_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_as_plain(key): _as_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_plain(each) for each in value]
    if isinstance(value, _Array):
        return _as_plain(value.values)
    if value is None or isinstance(value, (str, bytes, int, float)):
        return value
    raise SpatialBoostError(f"it has a {type(value).__name__}")

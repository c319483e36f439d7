"""Results of extractors on disk, found again by the content of the view and the name of the extractor."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.scenes.cues import CuesError, SceneObject
from spatialboost.scenes.extract.protocol import Addition, Extractor, PartialCues, TryAgainError

log = logging.getLogger(__name__)

_FORMAT = 1  # change it when files of before can no longer be read


class ExtractionCache:
    """A folder with what extractors added to views.

    Example:
        >>> import tempfile
        >>> cache = ExtractionCache(Path(tempfile.mkdtemp()))
        >>> key = cache.key("start", "an extractor")
        >>> cache.save(key, {"depth_noise": 0.05})
        >>> cache.load(key), cache.load(cache.key("start", "another extractor"))
        ({'depth_noise': 0.05}, None)

    A file has the name of its key. It appears only when it is complete, so a killed process leaves no broken file, and
    several processes can use the same folder. A file that cannot be read counts as missing. No file is ever unpickled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, before: str, step: str) -> str:
        """The key of a view after a step, from its key before the step and a text that identifies the step."""
        return hashlib.sha256(f"{before}\n{step}".encode()).hexdigest()

    def load(self, key: str) -> Addition | None:
        """What an extractor added to a view, or why the view cannot be used; None if the folder does not have it."""
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return _unpack(json.loads(bytes(arrays.pop("json"))), arrays)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s); it is made again", path, type(error).__name__)
            return None

    def save(self, key: str, addition: Addition | Exception) -> None:
        """Store what an extractor added. Of errors, only a ``CuesError`` is stored, and no `TryAgainError`."""
        if isinstance(addition, Exception) and (
            isinstance(addition, TryAgainError) or not isinstance(addition, CuesError)
        ):
            return
        values, arrays = _pack(addition)
        stream = io.BytesIO()
        arrays["json"] = np.frombuffer(json.dumps(values).encode(), np.uint8)
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{key}.{os.getpid()}.tmp")
        try:
            beside.write_bytes(stream.getvalue())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"


def identity_of(extractor: Extractor) -> str:
    """A text that is the same exactly for extractors that give the same results."""
    made_by = getattr(extractor, "provenance", {})
    return json.dumps([_FORMAT, extractor.kind, extractor.name, made_by], sort_keys=True, default=str)


def content_of(views: Sequence[PartialCues]) -> str:
    """A hash of everything that is known about the views of an item."""
    digest = hashlib.sha256()
    for view in views:
        for name, value in sorted(vars(view).items()):
            digest.update(name.encode())
            if name == "objects":
                for thing in value:
                    for word, text in sorted(vars(thing).items()):
                        digest.update(word.encode())
                        _add(digest, text)
            else:
                _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    else:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode())


def _pack(addition: Mapping[str, Any] | Exception) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Plain values for JSON, and arrays; masks are packed to bits."""
    if isinstance(addition, Exception):
        return {"error": str(addition)}, {}
    values, arrays = {}, {}
    for name, value in addition.items():
        if name == "objects":
            things = []
            for number, thing in enumerate(value):
                arrays[f"mask {number}"] = np.packbits(thing.mask_HW)
                words = {word: text for word, text in vars(thing).items() if word != "mask_HW"}
                things.append({**words, "shape": thing.mask_HW.shape})
            values["objects"] = things
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            values[name] = value
    return {"fields": values}, arrays


def _unpack(found: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Addition:
    if "error" in found:
        return CuesError(found["error"])
    values = dict(found["fields"])
    if "objects" in values:
        things = []
        for number, words in enumerate(values["objects"]):
            height, width = words.pop("shape")
            bits = np.unpackbits(arrays.pop(f"mask {number}"), count=height * width)
            words = {word: tuple(text) if isinstance(text, list) else text for word, text in words.items()}
            things.append(SceneObject(mask_HW=bits.astype(bool).reshape(height, width), **words))
        values["objects"] = tuple(things)
    return {**values, **arrays}

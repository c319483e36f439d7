"""Names and masks of objects from a user's own files: label images with names, or a file in the form of COCO."""

from __future__ import annotations

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError, SceneObject
from spatialboost.scenes.paths import is_wanted
from spatialboost.scenes.readers.decode import read_labels
from spatialboost.scenes.readers.text import read_json, read_text
from spatialboost.scenes.sizes import nearest_pixels

log = logging.getLogger(__name__)

# Shape legend: H, W = image height and width in pixels.

_MASKS = "masks"
_NAME_FILES = ("names.json", "names.csv")
_COCO = "annotations.json"
_LONGEST = 60  # characters of a name
SURFACES = frozenset({"wall", "floor", "ceiling"})  # labels of public sets that are no objects to ask about
_NAMES_EXPECTED = (
    'expected {"1": "red box", ...} for all frames or {"FRAME": {"1": "red box", ...}, ...}; in CSV lines '
    "value,name or frame,value,name"
)


class Annotations(Protocol):
    """Objects of the frames of a folder."""

    def objects(self, frame: str, size: tuple[int, int], source: str) -> Sequence[SceneObject]:
        """The objects of a frame with masks of ``(height, width)``."""


def open_annotations(folder: Path) -> Annotations | None:
    """Open the annotations of a folder: ``masks/`` with ``names.json`` or ``names.csv``, or ``annotations.json``.

    Raises:
        SpatialBoostError: a file is missing or has another form.
    """
    names = [folder / name for name in _NAME_FILES if (folder / name).exists()]
    if names:
        if not (folder / _MASKS).is_dir():
            raise SpatialBoostError(
                f"{names[0]}: {folder} has no folder {_MASKS}/; expected {_MASKS}/FRAME.png for each frame"
            )
        return LabelImages(folder / _MASKS, names[0])
    if (folder / _COCO).exists():
        return CocoFile(folder / _COCO)
    return None


class LabelImages:
    """A label image ``masks/FRAME.png`` of 8 or 16 bit for each frame, and the name of each value but 0, no object."""

    def __init__(self, folder: Path, names: Path) -> None:
        self.files = {file.stem: file for file in folder.iterdir() if is_wanted(file) and file.suffix.lower() == ".png"}
        self.folder, self.file = folder, names
        self.shared, self.own = _read_csv(names) if names.suffix == ".csv" else _read_json(names)

    def objects(self, frame: str, size: tuple[int, int], source: str) -> Sequence[SceneObject]:
        """The objects of a frame; none if it has no label image."""
        if frame not in self.files:
            return ()
        labels_HW = read_labels(self.files[frame], source)
        return label_objects(labels_HW, {**self.shared, **self.own.get(frame, {})}, size, source)


class CocoFile:
    """A file in the form of COCO: ``images``, ``categories``, and ``annotations`` with polygons or run lengths.

    An annotation may have a ``name`` (or ``caption``) of its own, which has precedence over that of its category.
    """

    def __init__(self, file: Path) -> None:
        expected = "expected images, categories and annotations as in COCO's instances_*.json"
        content = read_json(file, expected)
        try:
            names = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
            images = {
                entry["id"]: (Path(entry["file_name"]).stem, (int(entry["height"]), int(entry["width"])))
                for entry in content["images"]
            }
            self.found: dict[str, list[tuple[str, Any, tuple[int, int]]]] = defaultdict(list)
            for entry in content["annotations"]:
                name = entry.get("name") or entry.get("caption") or names.get(entry.get("category_id"))
                stem, size = images[entry["image_id"]]
                self.found[stem].append((str(name or ""), entry["segmentation"], size))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpatialBoostError(
                f"{file} is not in the form of COCO ({type(error).__name__}: {error}); {expected}"
            ) from error
        self.file = file

    def objects(self, frame: str, size: tuple[int, int], source: str) -> Sequence[SceneObject]:
        """The objects of a frame; none if the file has none for it."""
        masks = []
        for number, (name, segmentation, own_size) in enumerate(self.found.get(frame, ()), 1):
            try:
                mask_HW = draw_segmentation(segmentation, own_size)
            except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
                raise CuesError(
                    f"{source}: annotation {number} in {self.file.name} ({name}) has no valid segmentation ({error}); "
                    "expected polygons [[x, y, x, y, ...]] or run lengths"
                ) from error
            masks.append((name, mask_HW))
        return to_objects(masks, size, source)


def label_objects(
    labels_HW: np.ndarray, names: Mapping[int, str], size: tuple[int, int], source: str, *, same_in_all: bool = False
) -> Sequence[SceneObject]:
    """The objects of a label image: one for each value but 0 that has a name.

    With `same_in_all`, a value is one thing in all frames; it is then the object's identity.
    """
    found = [int(value) for value in np.unique(labels_HW) if value]
    nameless = [value for value in found if value not in names]
    if nameless:
        log.warning("%s: values %s of its label image have no name; these objects are left out", source, nameless[:5])
    known = [value for value in found if value in names]
    identities = [str(value) for value in known] if same_in_all else None
    return to_objects(((names[value], labels_HW == value) for value in known), size, source, identities)


def to_objects(
    masks: Iterable[tuple[str, np.ndarray]],
    size: tuple[int, int],
    source: str,
    identities: Sequence[str] | None = None,
) -> Sequence[SceneObject]:
    """Objects of names and masks. Of two masks that overlap, the smaller one keeps the pixels that both have.

    Objects whose name no question can use and objects without a pixel are left out, with a warning.
    `identities` says which thing each mask is, if that is known.
    """
    kept: list[tuple[str, np.ndarray, str | None]] = []
    for number, (name, mask_HW) in enumerate(masks):
        name = " ".join(name.replace("_", " ").split())
        if not _is_usable(name):
            log.warning(
                "%s: the object name %r is left out; expected up to %d letters and blanks", source, name[:80], _LONGEST
            )
            continue
        resized_HW = mask_HW[nearest_pixels(mask_HW.shape, size)]
        kept.append((name, resized_HW, None if identities is None else identities[number]))
    free_HW = np.ones(size, bool)
    finished: dict[int, SceneObject] = {}
    for number in sorted(range(len(kept)), key=lambda number: int(kept[number][1].sum())):
        name, mask_HW, identity = kept[number]
        visible_HW = mask_HW & free_HW
        free_HW &= ~mask_HW
        if visible_HW.any():
            finished[number] = SceneObject(name, visible_HW, identity=identity)
        else:
            log.warning("%s: the mask of %r has no pixel of its own; it is left out", source, name)
    return tuple(finished[number] for number in sorted(finished))


def draw_segmentation(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """A segmentation of COCO as bool ``(H, W)``: polygons, run lengths, or run lengths as compressed text.

    Example:
        >>> draw_segmentation([[0, 0, 2, 0, 2, 1, 0, 1]], (2, 4)).sum(1).tolist()
        [3, 3]
        >>> draw_segmentation({"size": [2, 3], "counts": [2, 2, 2]}, (2, 3)).tolist()
        [[False, True, False], [False, True, False]]

    Raises:
        ValueError: it has another form, or does not have as many pixels as the image.
    """
    if isinstance(segmentation, Mapping):
        height, width = (int(edge) for edge in segmentation["size"])
        counts = segmentation["counts"]
        runs = decode_runs(counts) if isinstance(counts, str) else [int(count) for count in counts]
        if (height, width) != size or min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"runs of {sum(runs)} pixels for {height}x{width}, and an image of {size[0]}x{size[1]}")
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return values.reshape(width, height).T  # columns follow each other
    image = Image.new("1", size[::-1])
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} numbers")
        if not np.isfinite(np.asarray(polygon, np.float64)).all():
            raise ValueError("a polygon with a number that is not finite")
        ImageDraw.Draw(image).polygon([float(number) for number in polygon], fill=1)
    return np.asarray(image)


def decode_runs(text: str) -> list[int]:
    """The run lengths of COCO's compressed text.

    Each number has groups of five bits, the lowest first, each as a character from ``chr(48)`` on; the sixth bit says
    that a group follows, and the highest bit of the last group is the sign. From the fourth number on, the difference
    to the number two places before is stored (`maskApi.c` of cocoapi).

    Example:
        >>> decode_runs("52203")
        [5, 2, 2, 2, 5]
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"the character {character!r} in compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs


def _is_usable(name: str) -> bool:
    """Whether a question can contain a name: words, and no mark-up or control characters."""
    return 0 < len(name) <= _LONGEST and all(letter.isalnum() or letter in " -'.,()/&" for letter in name)


Names = tuple[dict[int, str], dict[str, dict[int, str]]]  # of all frames; of single frames


def _read_json(file: Path) -> Names:
    content = read_json(file, _NAMES_EXPECTED)
    shared: dict[int, str] = {}
    own: dict[str, dict[int, str]] = {}
    try:
        for key, value in content.items():
            if isinstance(value, Mapping):
                own[key] = {int(number): str(name) for number, name in value.items()}
            else:
                shared[int(key)] = str(value)
    except (AttributeError, ValueError, TypeError) as error:
        raise SpatialBoostError(f"{file} has another form ({error}); {_NAMES_EXPECTED}") from error
    return shared, own


def _read_csv(file: Path) -> Names:
    shared: dict[int, str] = {}
    own: dict[str, dict[int, str]] = defaultdict(dict)
    for number, row in enumerate(csv.reader(io.StringIO(read_text(file, _NAMES_EXPECTED))), 1):
        words = [word.strip() for word in row]
        if not any(words) or words[0].startswith("#") or (number == 1 and words[-2:-1] == ["value"]):
            continue
        if len(words) not in (2, 3) or not words[-2].isdecimal():
            raise SpatialBoostError(f"{file}, line {number} is {row}; {_NAMES_EXPECTED}")
        names = shared if len(words) == 2 else own[words[0]]
        names[int(words[-2])] = words[-1]
    return shared, dict(own)

"""Image sets for retrieval in the layouts in which they are handed out: a database, queries, and what is relevant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph
from spatialboost.probes.image_folder import SUFFIXES
from spatialboost.probes.plain_pickle import read_plain_pickle
from spatialboost.scenes.paths import is_hidden, is_wanted, user_path
from spatialboost.scenes.readers.decode import read_image
from spatialboost.scenes.readers.text import read_json

UNKNOWN = -1  # class of a query that the database does not have


@dataclass(frozen=True)
class NumberedImage:
    """An image and its number in its list: images that cannot be read leave gaps.

    Attributes:
        image_HW3: uint8 ``(H, W, 3)``, RGB.
        number: its place in the list of the set.
    """

    image_HW3: np.ndarray
    number: int


class Ranking(ABC):
    """What is relevant for each query, for one metric.

    Attributes:
        key: the metric.
        backwards: whether the images of the database are the queries, and the queries the database.
    """

    key: str
    backwards: bool = False

    @abstractmethod
    def of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the relevant images of a query, and of those that are ignored."""


@dataclass(frozen=True)
class Listed(Ranking):
    """The relevant and the ignored images of each query are listed."""

    key: str
    relevant: Sequence[np.ndarray]
    ignored: Sequence[np.ndarray] | None = None
    backwards: bool = False

    def of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """The lists of a query."""
        return self.relevant[query], np.array([], int) if self.ignored is None else self.ignored[query]


@dataclass(frozen=True)
class SameClass(Ranking):
    """The other images of a query's class are relevant; the query itself is ignored."""

    labels: np.ndarray
    key: str = "map"

    def of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of the query's class without the query."""
        same = np.flatnonzero(self.labels == self.labels[query])
        return same[same != query], np.array([query])


@dataclass(frozen=True)
class Rules:
    """How a set is measured.

    Attributes:
        name: name of the set, for the settings.
        rankings: for mean average precision; empty for a set that is measured by GAP.
        trapezoid: see `spatialboost.probes.ranking.average_precision`.
        together: whether there is also one mean over the queries of all rankings.
        labels: classes of the database and of the queries, for GAP; the class of some queries is unknown (-1).
        tuning: queries that choose the classifier's settings, for GAP; they are not measured.
    """

    name: str
    rankings: Sequence[Ranking] = ()
    trapezoid: bool = False
    together: bool = False
    labels: tuple[np.ndarray, np.ndarray] | None = None
    tuning: range = range(0)


@dataclass(frozen=True)
class ImageList(Sequence[NumberedImage]):
    """Image files of a set.

    Attributes:
        paths: the files.
        rules: how the set is measured; of the queries only.
        boxes: left, top, right and bottom edge in pixels of what is used of each image; None uses the whole images.
        upright: whether the EXIF orientation is applied. The public sets are measured as their pixels are stored.
        left_out: the reason for each image that was left out before.
    """

    paths: Sequence[Path]
    rules: Rules | None = None
    boxes: Sequence[Sequence[float]] | None = None
    upright: bool = False
    left_out: Sequence[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The paths of the files as text, for reports."""
        return [str(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        path = self.paths[index]
        image = open_photograph(path) if self.upright else read_image(path, str(path))
        return NumberedImage(image if self.boxes is None else _cut(image, self.boxes[index], path), index)


@dataclass(frozen=True)
class RetrievalSet:
    """A set: its queries, and the database in which they are looked up; None if the queries are the database."""

    queries: ImageList
    database: ImageList | None


def open_retrieval(folder: str | Path, *, mini: bool = False) -> RetrievalSet:
    """Open a set; its layout is found by its files.

    - Oxford and Paris revisited (``roxford5k``, ``rparis6k``): ``jpg/`` and ``gnd_roxford5k.pkl``. From
      http://cmp.felk.cvut.cz/revisitop. The pickle is read as plain values, see `read_plain_pickle`.
    - Met: ``ground_truth/MET_database.json``, ``ground_truth/testset.json`` and ``images/``. With
      ``ground_truth/valset.json``, its queries choose the classifier's settings. From http://cmp.felk.cvut.cz/met.
    - AmsterTime: ``old/0000.jpg`` and ``new/0000.png``. From https://doi.org/10.4121/19580806.
    - any other: ``CLASS/NAME.jpg``.

    Args:
        folder: the folder of the set.
        mini: the small database of Met, ``mini_MET_database.json``.

    Raises:
        SpatialBoostError: the folder has none of these layouts, or a file of it has another form.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise SpatialBoostError(
            f"{folder} is not a folder; expected that of Oxford, Paris, Met, AmsterTime, or classes"
        )
    truths = sorted(folder.glob("gnd_*.pkl"))
    if truths or (folder / "jpg").is_dir():
        return _open_revisited(folder, truths)
    for where in (folder / "ground_truth", folder):
        if (where / "testset.json").is_file() or (where / "MET_database.json").is_file():
            return _open_met(folder, where, mini)
    if (folder / "old").is_dir() and (folder / "new").is_dir():
        return _open_amstertime(folder)
    return _open_classes(folder)


def _open_revisited(folder: Path, truths: Sequence[Path]) -> RetrievalSet:
    if len(truths) != 1:
        raise SpatialBoostError(
            f"{folder} has {len(truths)} files gnd_*.pkl; expected one, such as gnd_roxford5k.pkl from "
            "http://cmp.felk.cvut.cz/revisitop, beside jpg/"
        )
    if not (folder / "jpg").is_dir():
        raise SpatialBoostError(f"{folder} has no folder jpg/; expected the images of the set in it")
    content, expected = read_plain_pickle(truths[0]), "imlist, qimlist and gnd with bbx, easy, hard and junk"
    try:
        names, queries = ([str(name) for name in content[key]] for key in ("imlist", "qimlist"))
        lists = {key: [_numbers(each[key]) for each in content["gnd"]] for key in ("easy", "hard", "junk")}
        boxes = [[float(edge) for edge in np.ravel(each["bbx"])] for each in content["gnd"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SpatialBoostError(
            f"{truths[0]} has another form ({type(error).__name__}: {error}); expected {expected}"
        ) from None
    found = np.concatenate([each for key in lists for each in lists[key]] or [np.array([], int)])
    wrong = len(boxes) != len(queries) or any(len(box) != 4 for box in boxes) or not np.isfinite(boxes).all()
    if wrong or not queries or (len(found) and not 0 <= found.min() <= found.max() < len(names)):
        raise SpatialBoostError(
            f"{truths[0]} does not fit together: {len(names)} images, {len(queries)} queries, {len(boxes)} entries in "
            f"gnd; expected {expected}, one entry for each query, with numbers of images and boxes of four numbers"
        )
    easy, hard, junk = lists["easy"], lists["hard"], lists["junk"]
    rules = Rules(
        truths[0].stem.removeprefix("gnd_"),
        [
            Listed("map_easy", easy, _joined(junk, hard)),
            Listed("map_medium", _joined(easy, hard), junk),
            Listed("map_hard", hard, _joined(junk, easy)),
        ],
        trapezoid=True,
    )
    images = folder / "jpg"
    return RetrievalSet(
        ImageList([images / f"{name}.jpg" for name in queries], rules, boxes),
        ImageList([images / f"{name}.jpg" for name in names]),
    )


def _open_met(folder: Path, where: Path, mini: bool) -> RetrievalSet:
    images = folder / "images" if (folder / "images").is_dir() else folder
    database, labels = _met_list(where / f"{'mini_' if mini else ''}MET_database.json", images, "id")
    queries, known = _met_list(where / "testset.json", images, "MET_id")
    tuning: list[Path] = []
    if (where / "valset.json").is_file():
        tuning, tuning_known = _met_list(where / "valset.json", images, "MET_id")
        known = np.concatenate([tuning_known, known])
    if not (known[len(tuning) :] != UNKNOWN).any():
        raise SpatialBoostError(f"{where / 'testset.json'} has no query with MET_id, so that there is nothing to find")
    rules = Rules("Met" + (" (mini)" if mini else ""), labels=(labels, known), tuning=range(len(tuning)))
    return RetrievalSet(ImageList([*tuning, *queries], rules), ImageList(database))


def _met_list(file: Path, images: Path, key: str) -> tuple[list[Path], np.ndarray]:
    """The images of a list of Met and their classes; those without a class have -1."""
    expected = f'expected a list of {{"path": "MET/1/0.jpg", "{key}": 1}}, as the Met dataset has it'
    try:
        entries = read_json(file, expected)
        paths = [images / str(entry["path"]) for entry in entries]
        labels = [int(entry[key]) if key == "id" else int(entry.get(key, UNKNOWN)) for entry in entries]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, SpatialBoostError):
            raise
        raise SpatialBoostError(f"{file} has another form ({type(error).__name__}: {error}); {expected}") from None
    if not paths:
        raise SpatialBoostError(f"{file} has no image; {expected}")
    return paths, np.array(labels)


def _open_amstertime(folder: Path) -> RetrievalSet:
    old, new = ({path.stem: path for path in _image_files(folder / name)} for name in ("old", "new"))
    both = sorted(old.keys() & new.keys())
    if len(both) < 2:
        raise SpatialBoostError(
            f"{folder}: old/ has {len(old)} images and new/ {len(new)}, {len(both)} of the same name; expected pairs "
            "of images with the same name, such as old/0000.jpg and new/0000.png"
        )
    pairs = [np.array([number]) for number in range(len(both))]
    alone = [f"{files[name]}: it has no image of its name in {folder / other}"
             for files, other in ((old, "new"), (new, "old")) for name in sorted(files.keys() - set(both))]  # fmt: skip
    both_ways = [Listed("map_old_new", pairs), Listed("map_new_old", pairs, backwards=True)]
    rules = Rules("AmsterTime", both_ways, together=True)
    return RetrievalSet(
        ImageList([old[name] for name in both], rules, left_out=alone), ImageList([new[name] for name in both])
    )


def _open_classes(folder: Path) -> RetrievalSet:
    names = sorted(child.name for child in folder.iterdir() if child.is_dir() and not is_hidden(child))
    files = [_image_files(folder / name) for name in names]
    paths = [path for each in files for path in each]
    full = sum(map(bool, files))
    if full < 2:
        raise SpatialBoostError(
            f"{folder} has {full} class folders with images, so that every image would be relevant; expected at least "
            "2 classes, CLASS/NAME.jpg, or the folder of Oxford or Paris revisited, Met or AmsterTime"
        )
    labels = np.repeat(np.arange(len(names)), [len(each) for each in files])
    if not (np.bincount(labels) > 1).any():
        raise SpatialBoostError(f"{folder}: no class has two images; expected at least one that has")
    return RetrievalSet(ImageList(paths, Rules("classes", [SameClass(labels)]), upright=True), None)


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and is_wanted(path))


def _numbers(values: Any) -> np.ndarray:
    return np.array([int(value) for value in np.ravel(values)], int)


def _joined(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.concatenate(pair) for pair in zip(first, second, strict=True)]


def _cut(image_HW3: np.ndarray, box: Sequence[float], path: Path) -> np.ndarray:
    """The part of an image in a box.

    Raises:
        SpatialBoostError: it is outside of the image.
    """
    left, top, right, bottom = (max(0, round(edge)) for edge in box)
    part = image_HW3[top:bottom, left:right]
    if not part.size:
        raise SpatialBoostError(f"{path}: the box {list(box)} is outside of the image of {image_HW3.shape[:2]} pixels")
    return part

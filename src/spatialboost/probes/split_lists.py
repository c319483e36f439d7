"""Lists of the views of a published split: KITTI's Eigen split, the lists of BTS, and the split file of NYUv2."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.views import Part

if TYPE_CHECKING:
    from spatialboost.scenes.sources import Source

_SIDES = {"l": "image_02", "r": "image_03"}


def listed_views(views: Source, file: Path, split: str) -> Part:
    """The views that a list names, in its order; names without a view are listed as left out.

    A line of a list begins with the path of an image, such as ``2011_09_26/DRIVE/image_02/data/0000000069.png`` (what
    follows is not used), or has folder, number and side, such as ``2011_09_26/DRIVE 69 l``. A path and the name of a
    view are the same if the shorter one is the end of the longer one; folders named ``data`` do not count. A file that
    ends in ``.mat`` is the ``splits.mat`` of NYUv2, with the numbers of the labelled frames.

    Args:
        views: a source with names.
        file: the list.
        split: ``"train"`` or ``"test"``.

    Raises:
        SpatialBoostError: the list cannot be read, or names none of the views.
    """
    names: Any = getattr(views, "names", None)
    if names is None:
        raise SpatialBoostError(
            f"{file} names views, but these views have no names: give an RGB-D folder or NAME:FOLDER"
        )
    by_end: dict[str, list[tuple[tuple[str, ...], int]]] = defaultdict(list)
    for index, name in enumerate(names):
        parts = _parts(str(name))
        by_end[parts[-1]].append((parts, index))
    wanted = _read_splits(file, split) if file.suffix == ".mat" else _read_list(file)
    found, left_out = [], []
    for entry in wanted:
        places = [index for parts, index in by_end[entry[-1]] if _are_one(parts, entry)]
        found += places[:1]
        left_out += [] if places else [f"{'/'.join(entry)}: {file.name} names it, but there is no such view"]
    if not found:
        raise SpatialBoostError(
            f"none of the {len(wanted)} names of {file} is among the {len(names)} views; the first is "
            f"{'/'.join(wanted[0])!r}, and that of the views {str(names[0])!r}"
        )
    return Part(views, found, left_out)


def _are_one(parts: tuple[str, ...], entry: tuple[str, ...]) -> bool:
    shared = min(len(parts), len(entry))
    # a number alone does not say of which recording it is, unless the list has nothing but numbers
    return parts[-shared:] == entry[-shared:] and (shared > 1 or len(entry) == 1)


def _parts(name: str) -> tuple[str, ...]:
    path = Path(name.strip("/"))
    whole = path.with_suffix("") if path.suffix.lower() in (".png", ".jpg", ".jpeg") else path
    return tuple(part for part in whole.parts if part != "data") or (name,)


def _read_list(file: Path) -> list[tuple[str, ...]]:
    expected = "expected lines that begin with the path of an image, or with folder, number and side (l or r)"
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SpatialBoostError(f"{file} cannot be read ({error}); {expected}") from None
    if not lines:
        raise SpatialBoostError(f"{file} is empty; {expected}")
    return [
        (*_parts(words[0]), _SIDES[words[2]], words[1].zfill(10))
        if len(words) == 3 and words[1].isdecimal() and words[2] in _SIDES
        else _parts(words[0])
        for words in lines
    ]


def _read_splits(file: Path, split: str) -> list[tuple[str, ...]]:
    """The frames of a split, which are counted from 1 in the file and from 0 in the names of `nyu-labeled`."""
    from scipy.io import loadmat

    key = f"{split}Ndxs"
    try:
        numbers = loadmat(file, variable_names=[key])[key].ravel().tolist()
        names: list[tuple[str, ...]] = [(str(int(number) - 1),) for number in numbers]
    except Exception as error:  # a broken file raises many kinds of errors
        raise SpatialBoostError(
            f"{file} cannot be read ({type(error).__name__}: {str(error)[:80]}); expected NYUv2's splits.mat with {key}"
        ) from None
    if not names:
        raise SpatialBoostError(f"{file} has no frames in {key}; expected NYUv2's splits.mat")
    return names

"""The catalogue: which models there are, with their names, true sizes, authors and licences."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.furnished.files import MAX_BYTES, ArchiveFiles, FolderFiles, inside, parent, unpack
from spatialboost.scenes.paths import user_path

log = logging.getLogger(__name__)

# Where Debian's package sweethome3d-furniture puts its files
DEFAULT_PATH = Path("/usr/share/sweethome3d/furniture")
_PROPERTIES = "PluginFurnitureCatalog.properties"
_SUFFIXES = (".obj", ".glb", ".gltf", ".dae", ".3ds", ".ply", ".stl", ".off")
_MAX_METRES = 60.0  # a model that is larger in any direction has a wrong unit


@dataclass(frozen=True)
class Piece:
    """One model of the catalogue."""

    name: str  # as the catalogue writes it, such as "Corner sofa"
    category: str  # as the catalogue writes it, such as "Living room"; may be empty
    # width, height, depth in metres. None = the size of the model itself, whose unit is the metre.
    size: tuple[float, float, float] | None
    elevation: float  # height of its bottom above the floor where it usually hangs, metres; 0 = it stands
    opening: bool  # whether it is a door or a window, which needs a hole in its wall
    rotation_33: np.ndarray  # turns the model's axes (x right, y up, z to the front) before it is scaled
    creator: str  # who made the model; may be empty
    licence: str  # under which licence it is; may be empty
    file: str  # where it comes from: archive or folder, and path inside it
    # returns the bytes of a file that is named relative to the model's own folder
    read: Callable[[str], bytes] = field(repr=False, compare=False)

    @property
    def model(self) -> str:
        """The file's name without folders."""
        return PurePosixPath(self.file).name


@dataclass(frozen=True)
class Catalogue:
    """All models that can be used."""

    pieces: tuple[Piece, ...]  # the models, in the order of the files
    skipped: dict[str, str]  # name of each entry that cannot be used -> reason
    hash: str  # of the content of all files; the same models have the same hash wherever they lie


def read_catalogue(path: Path | str) -> Catalogue:
    """Read all catalogues of a folder: ``.sh3f`` files, and models (``.obj``, ``.glb``, ...) beside them.

    Example:
        >>> catalogue = read_catalogue("/usr/share/sweethome3d/furniture")  # doctest: +SKIP
        >>> len(catalogue.pieces)  # doctest: +SKIP
        820

    Nothing is unpacked, and no model is opened yet. An entry that cannot be used (a path that leaves the archive, a
    missing model, no size) is skipped and named in ``skipped``.

    Raises:
        SpatialBoostError: the path does not exist or has no model that can be used.
    """
    path = user_path(path)
    if not path.exists():
        raise SpatialBoostError(
            f"{path} does not exist; expected a folder with .sh3f files or with models (.obj, .glb). Debian's package "
            "sweethome3d-furniture has 820 models: install it, or give another folder with --path"
        )
    files = [path] if path.is_file() else sorted(path.glob("*.sh3f"))
    pieces: list[Piece] = []
    skipped: dict[str, str] = {}
    parts: list[str] = []
    for file in files:
        if file.name.startswith("."):
            continue
        try:
            pieces += _read_archive(file, skipped, parts)
        except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError) as error:
            skipped[file.name] = f"{file}: the archive cannot be read ({error})"
    if path.is_dir():
        pieces += _read_folder(path, skipped, parts)
    if skipped:
        name, reason = next(iter(skipped.items()))
        log.warning("skipped %d models of %s, such as %s: %s", len(skipped), path, name, reason)
    if not pieces:
        found = next(iter(skipped.values()), "no .sh3f file and no .obj, .glb, .gltf, .dae or .3ds file")
        raise SpatialBoostError(f"{path} has no model that can be used: {found}")
    return Catalogue(tuple(pieces), skipped, hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:12])


def list_authors(pieces: tuple[Piece, ...]) -> list[dict[str, str | int]]:
    """Creators, licences and how many models are by each, as the licences ask; the most frequent first.

    Example:
        >>> list_authors(())
        []
    """
    counted = Counter((piece.creator, piece.licence) for piece in pieces)
    return [
        {"creator": creator, "licence": licence, "models": count}
        for (creator, licence), count in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))
    ]


def _read_archive(file: Path, skipped: dict[str, str], parts: list[str]) -> Iterator[Piece]:
    """The entries of one ``.sh3f`` file, which is a zip with a list of properties."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if _PROPERTIES not in members:
            raise ValueError(f"it has no {_PROPERTIES}; expected a furniture library of Sweet Home 3D")
        text = unpack(archive, _PROPERTIES).decode("latin-1")
    parts += [f"{info.filename} {info.CRC:08x} {info.file_size}" for info in members.values()]
    general, entries = parse_properties(text)
    for number, entry in sorted(entries.items()):
        name = entry.get("name", f"entry {number}")
        try:
            yield _piece_of_entry(file, members, general, entry)
        except ValueError as error:
            skipped[f"{file.name} {number} ({name})"] = str(error)


def parse_properties(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    r"""Read Java properties: the general ones, and those of each numbered entry (``name#3=Chair``).

    Example:
        >>> parse_properties("license=CC0\nname#1=Bo\\u00eete\n! a comment\nwidth#1 : 40.5")
        ({'license': 'CC0'}, {1: {'name': 'Boîte', 'width': '40.5'}})
    """
    general: dict[str, str] = {}
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    for line in re.sub(r"\\\r?\n[ \t]*", "", text).splitlines():
        match = re.match(r"\s*([A-Za-z][\w.]*)(?:#(\d{1,9}))?\s*[=:]\s*(.*?)\s*$", line)
        if match is None:
            continue
        value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), match[3])
        value = re.sub(r"\\(.)", r"\1", value)
        if match[2] is None:
            general[match[1]] = value
        else:
            entries[int(match[2])][match[1]] = value
    return general, dict(entries)


def _piece_of_entry(
    file: Path, members: dict[str, zipfile.ZipInfo], general: dict[str, str], entry: dict[str, str]
) -> Piece:
    """Check one entry.

    Raises:
        ValueError: it cannot be used.
    """
    path = inside(entry.get("model", "").lstrip("/"))
    if not path or path not in members:
        raise ValueError(f"its model {path!r} is not in {file.name}")

    return Piece(
        name=entry.get("name", "").strip() or PurePosixPath(path).stem,
        category=entry.get("category", "").strip(),
        size=_parse_size(entry),
        elevation=max(0.0, _number(entry, "elevation", 0.0)),
        opening=entry.get("doorOrWindow", "").strip().lower() == "true",
        rotation_33=parse_rotation(entry.get("modelRotation", "")),
        creator=entry.get("creator", general.get("provider", "")).strip(),
        licence=entry.get("license", general.get("license", "")).strip(),
        file=f"{file.name}/{path}",
        read=ArchiveFiles(file, parent(path)),
    )


def _read_folder(path: Path, skipped: dict[str, str], parts: list[str]) -> Iterator[Piece]:
    """The models of a folder and its subfolders.

    ``chair.json`` beside ``chair.glb`` may say ``name``, ``category``, ``width``, ``depth``, ``height``, ``elevation``
    (all in centimetres), ``doorOrWindow``, ``modelRotation``, ``creator`` and ``license``, as in a ``.sh3f`` file.
    Without sizes the model's own unit is the metre. What is skipped, and path and checksum of what is used, are added.
    """
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() not in _SUFFIXES or any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        name = file.relative_to(path).as_posix()
        try:
            yield _piece_of_file(path, file, name)
        except (OSError, ValueError) as error:
            skipped[name] = str(error)
            continue
        for used in (file, file.with_suffix(".json"), file.with_suffix(".mtl")):
            if used.is_file():
                parts.append(f"{used.relative_to(path).as_posix()} {hashlib.sha256(used.read_bytes()).hexdigest()}")


def _piece_of_file(root: Path, file: Path, name: str) -> Piece:
    if not 0 < file.stat().st_size <= MAX_BYTES:
        raise ValueError(f"it has {file.stat().st_size} bytes; expected 1 to {MAX_BYTES}")
    facts_path = file.with_suffix(".json")
    facts: dict[str, str] = {}
    if facts_path.is_file():
        try:
            found = json.loads(facts_path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{facts_path.name} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{facts_path.name} is a {type(found).__name__}; expected an object with a name")
        facts = {key: _text(value) for key, value in found.items()}
    sized = any(key in facts for key in ("width", "height", "depth"))

    return Piece(
        name=facts.get("name", "").strip() or re.sub(r"[\W_]+", " ", file.stem).strip() or "thing",
        category=facts.get("category", "").strip(),
        size=_parse_size(facts) if sized else None,
        elevation=max(0.0, float(facts.get("elevation") or 0.0) / 100.0),
        opening=facts.get("doorOrWindow", "").lower() == "true",
        rotation_33=parse_rotation(facts.get("modelRotation", "")),
        creator=facts.get("creator", "").strip(),
        licence=facts.get("license", facts.get("licence", "")).strip(),
        file=name,
        read=FolderFiles(root, parent(name)),
    )


def _text(value: object) -> str:
    """A JSON value as the text that a properties file would have."""
    if isinstance(value, list):
        return " ".join(_text(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _parse_size(entry: dict[str, str]) -> tuple[float, float, float]:
    """Width, height and depth in metres, of the catalogue's centimetres.

    Raises:
        ValueError: one is missing, not a number, not above zero, or too large.
    """
    size = tuple(_number(entry, key) for key in ("width", "height", "depth"))
    if not all(0 < side <= _MAX_METRES for side in size):
        shown = " x ".join(f"{side:g}" for side in size)
        raise ValueError(f"its size is {shown} m; expected lengths above 0 and up to {_MAX_METRES:g} m, written in cm")
    return size  # type: ignore[return-value]


def parse_rotation(text: str) -> np.ndarray:
    """Nine numbers, row by row, of a rotation; the identity if the text is empty.

    Raises:
        ValueError: it is not a rotation.
    """
    if not text.strip():
        return np.eye(3)
    try:
        rotation_33 = np.array([float(word) for word in text.split()]).reshape(3, 3)
    except ValueError:
        raise ValueError(f"its modelRotation is {text!r}; expected nine numbers") from None
    # The numbers are written with few digits: take the nearest rotation.
    if not np.isfinite(rotation_33).all() or np.abs(rotation_33 @ rotation_33.T - np.eye(3)).max() > 0.05:
        raise ValueError(f"its modelRotation is {text!r}; expected the nine numbers of a rotation")
    left_33, _, right_33 = np.linalg.svd(rotation_33)
    return left_33 @ right_33


def _number(entry: dict[str, str], key: str, default: float | None = None) -> float:
    """A length in metres, of one in centimetres."""
    text = entry.get(key, "")
    if not text and default is not None:
        return default
    try:
        value = float(text) / 100.0
    except ValueError:
        raise ValueError(f"its {key} is {text!r}; expected centimetres") from None
    if not np.isfinite(value):
        raise ValueError(f"its {key} is {text!r}; expected centimetres")
    return value

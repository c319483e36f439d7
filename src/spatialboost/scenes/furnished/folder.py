"""A user's own models: a folder of mesh files, each with a small JSON file or with its name as the name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from spatialboost.scenes.furnished.catalogue import Piece, parse_rotation, parse_size
from spatialboost.scenes.furnished.files import MAX_BYTES, FolderFiles, parent

SUFFIXES = (".obj", ".glb", ".gltf", ".dae", ".3ds", ".ply", ".stl", ".off")


def read_folder(path: Path, skipped: dict[str, str], parts: list[str]) -> Iterator[Piece]:
    """The models of a folder and its subfolders.

    ``chair.json`` beside ``chair.glb`` may say ``name``, ``category``, ``width``, ``depth``, ``height``, ``elevation``
    (all in centimetres), ``doorOrWindow``, ``modelRotation``, ``creator`` and ``license``, as in a ``.sh3f`` file.
    Without sizes the model's own unit is the metre. What is skipped, and path and checksum of what is used, are added.
    """
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        name = file.relative_to(path).as_posix()
        try:
            yield _make_piece(path, file, name)
        except (OSError, ValueError) as error:
            skipped[name] = str(error)
            continue
        for used in (file, file.with_suffix(".json"), file.with_suffix(".mtl")):
            if used.is_file():
                parts.append(f"{used.relative_to(path).as_posix()} {hashlib.sha256(used.read_bytes()).hexdigest()}")


def _make_piece(root: Path, file: Path, name: str) -> Piece:
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
        size=parse_size(facts) if sized else None,
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

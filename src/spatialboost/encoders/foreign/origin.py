"""Where a model comes from: its files at one commit, and the licence of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialboost.encoders.foreign.source import Source
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions, translated

CARD_LIMIT = 4 << 20  # bytes
_PIECE = 1 << 22


@dataclass(frozen=True)
class Origin:
    """A folder of this machine or a repository, before its weights are read.

    Attributes:
        name: As the user gave it.
        options: For the loaders of this package; the revision is the commit that was found.
        config: The checked config.json.
        revision: The commit; of a folder, the start of a SHA-256 hash of its config and weights.
        licence: What its model card says, "" if it says nothing.
    """

    name: str
    options: HubOptions
    config: dict[str, Any]
    revision: str
    licence: str


def find_origin(name: str, revision: str | None = None) -> Origin:
    """Read the config and the model card of a model of transformers. From the Hub, only these two files are fetched.

    Args:
        name: A folder, or `user/name` on the Hub.
        revision: Branch, tag or commit on the Hub.

    Raises:
        SpatialBoostError: There is no such folder or repository, or it has no config.
    """
    source = Source(name, HubOptions(revision=revision))
    config = source.json("config.json", required=True) or {}
    card = source.get("README.md")
    licence = "" if card is None else _licence_of(card)
    revision = source.options.revision or "main" if source.folder is None else _hash(source.folder)
    return Origin(name, source.options, config, revision, licence)


@contextmanager
def explain_model_errors(name: str) -> Iterator[None]:
    """Raise a `SpatialBoostError` of one line if a model cannot be fetched, built or loaded.

    A library raises any kind of exception for configs and weights that it does not expect, so each of them counts.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with translated(f"cannot get {name!r}"):
            try:
                yield
            except OSError as error:  # transformers raises an OSError; the Hub's own error is its cause
                raise (error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else error) from None
    except SpatialBoostError as error:
        line = " ".join(str(error).split())
        raise SpatialBoostError(line if name in line else f"cannot get {name!r}: {line}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise SpatialBoostError(f"cannot build {name!r}: {type(error).__name__}: {reason}") from error


def _licence_of(card: Path) -> str:
    """The licence in the header of a model card."""
    from huggingface_hub import ModelCard

    try:
        with card.open("rb") as file:
            text = file.read(CARD_LIMIT).decode("utf-8")
        facts = ModelCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # the header is no YAML, or YAML of another form
        return ""
    licence = facts.get("license")
    licence = facts.get("license_name", licence) if licence == "other" else licence
    return licence if isinstance(licence, str) else ""


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return f"sha256:{digest.hexdigest()[:16]}"

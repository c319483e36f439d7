"""What a run was made of: versions of the software, and the data set with the facts that its build recorded."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.training.claim import read_json, write_json

if TYPE_CHECKING:
    from spatialboost.scenes.dataset.reader import Rows
    from spatialboost.training.config import TrainConfig

logger = logging.getLogger(__name__)

FILE = "run.json"
PACKAGES = ("spatialboost", "torch", "transformers", "timm", "accelerate", "datasets", "peft", "xformers")


def data_digest(rows: Rows) -> str:
    """16 hexadecimal digits over names and sizes of the files of a data set, in order."""
    files = [f"{Path(file).name} {Path(file).stat().st_size}" for file in rows.files]
    return hashlib.sha256(f"{len(rows)} {files}".encode()).hexdigest()[:16]


def write_provenance(out: Path, config: TrainConfig, rows: Rows) -> None:
    """Write ``run.json`` into the folder of a run: the whole configuration, versions, and the manifests of the data.

    If an earlier process has written it, it is kept, and versions that have changed since are logged.
    """
    now = versions()
    if (out / FILE).is_file():
        before = read_json(out / FILE).get("versions", {})
        changed = [
            f"{name} {before.get(name)} is {found} now" for name, found in now.items() if before.get(name) != found
        ]
        if changed:
            logger.warning("this run was begun with other versions: %s", ", ".join(changed))
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / FILE,
        {"config": config.model_dump(mode="json"), "versions": now, "rows": len(rows), "data": data_facts(rows)},
    )


def data_facts(rows: Rows) -> list[dict[str, Any]]:
    """For each folder: number and size of its files, and of each manifest the hash and what it says of its origin."""
    found = []
    for folder in dict.fromkeys(Path(file).parent for file in rows.files):
        files = [Path(file) for file in rows.files if Path(file).parent == folder]
        manifests = [_manifest(file) for file in sorted(folder.glob("manifest*.json"))]
        size = sum(file.stat().st_size for file in files)
        found.append({"folder": str(folder), "files": len(files), "bytes": size, "manifests": manifests})
    return found


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _manifest(file: Path) -> dict[str, Any]:
    """The hash of a manifest; settings, versions and provenance of the build, if it can be read."""
    content = file.read_bytes()
    facts = {"file": file.name, "sha256": hashlib.sha256(content).hexdigest()}
    try:
        said = json.loads(content)
        return {**facts, **{key: said[key] for key in ("written", "settings", "versions", "provenance") if key in said}}
    except (ValueError, TypeError, RecursionError):
        logger.warning("%s is not JSON; only its hash is recorded", file)
        return facts

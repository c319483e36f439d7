"""Results of probes as their JSON files have them: found in folders, checked, and shortened for a config and a card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError

RESULT_LIMIT = 64 << 20  # bytes of a probe's result; one usually has a few hundred thousand
KEPT = ("probe", "settings", "metrics", "summary", "gain", "paired")  # the single runs are left out
Results = str | os.PathLike[str] | Mapping[str, Any]


def read_results(results: Results | Sequence[Results] | None) -> list[dict[str, Any]]:
    """Name, settings, summary and paired test of each probe result, for a config and a card.

    Of the settings, the options of the command (which have paths of this machine) and the samples of the encoder's
    weights are left out, and the list of items that could not be read is a number.

    Args:
        results: The JSON file of a probe, a folder with such files, the content of one, or several of these.

    Raises:
        SpatialBoostError: One of them is not the result of a probe, or a folder has none.
    """
    if results is None:
        return []
    several = [results] if isinstance(results, str | os.PathLike | Mapping) else results
    return [_shortened(found) for each in several for found in _of(each)]


def find_results(folder: Path) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """The results in a folder and in the folders within it, by file, and why other JSON files are none."""
    found, others = {}, []
    for path in sorted(folder.rglob("*.json")):
        try:
            found[path] = read_result(path)
        except SpatialBoostError as error:
            others.append(str(error))
    return found, others


def read_result(file: Path) -> dict[str, Any]:
    """The content of the JSON file of a probe.

    Raises:
        SpatialBoostError: It cannot be read, or is something else.
    """
    try:
        content = json.loads(file.read_bytes()) if file.stat().st_size <= RESULT_LIMIT else None
    except (OSError, ValueError, RecursionError) as error:
        raise SpatialBoostError(f"{file} cannot be read ({error}). Give a probe's JSON file.") from error
    return _checked(content, file)


def _of(result: Results) -> list[dict[str, Any]]:
    if isinstance(result, Mapping):
        return [_checked(result, result)]
    path = Path(result)
    if not path.is_dir():
        return [read_result(path)]
    found, others = find_results(path)
    if not found:
        raise SpatialBoostError(
            f"{path} has {len(others)} JSON files, and none is the result of a probe. Give a folder to "
            "which `spatialboost probe TASK --out FOLDER` has written."
        )
    return list(found.values())


def _checked(content: Any, source: Any) -> dict[str, Any]:
    summary = content.get("summary") if isinstance(content, Mapping) else None
    if not isinstance(summary, Mapping) or not all(isinstance(row, Mapping) for row in summary.values()):
        raise SpatialBoostError(
            f"{str(source)[:200]!r} is not the result of a probe: it has no `summary`. Give a probe's JSON file."
        )
    return dict(content)


def _shortened(content: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: content.get(key) for key in KEPT if key in content or key in ("probe", "settings", "summary")}
    if isinstance(settings := kept["settings"], Mapping):
        kept["settings"] = {key: _short(key, value) for key, value in settings.items() if key != "options"}
    try:
        return json.loads(json.dumps(kept, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise SpatialBoostError(
            f"`results` cannot be written as JSON: {error}. Give strings, finite numbers, lists and dicts."
        ) from error


def _short(key: str, value: Any) -> Any:
    if key == "left out" and isinstance(value, list):
        return len(value)
    if key == "encoders" and isinstance(value, Mapping):
        return {
            name: {k: v for k, v in about.items() if k != "encoder"} if isinstance(about, Mapping) else about
            for name, about in value.items()
        }
    return value

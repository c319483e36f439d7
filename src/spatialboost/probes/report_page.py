"""One HTML page for the results of many probes, from the JSON files that they wrote."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.page import fill_template
from spatialboost.probes.measures import Spread
from spatialboost.scenes.dataset.drawing import as_uri
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.weights.results import find_results, read_result

logger = logging.getLogger(__name__)

BASE, BOOSTED = "base", "boosted"


@dataclass(frozen=True)
class ReportPage:
    """A page that was written.

    Attributes:
        file: the HTML file.
        results: number of results on it.
        passed_over: why other JSON files in the folders are not on it.
    """

    file: Path
    results: int
    passed_over: Sequence[str]


def write_report(sources: Iterable[str | Path], file: str | Path) -> ReportPage:
    """Write one page with a summary of all results, base against boosted, and a section for each of them.

    Example:
        >>> write_report(["probes/depth", "probes/knn"], "report.html")  # doctest: +SKIP

    The pictures beside the JSON files are on the page itself, so it can be sent as one file and opened without a
    network. Everything that comes from a file is escaped.

    Args:
        sources: JSON files of probes, or folders in which they are, at any depth.
        file: the page; an older one is replaced.

    Raises:
        SpatialBoostError: a source does not exist, or there is no result.
    """
    found, passed_over = _read(Path(source) for source in sources)
    if not found:
        raise SpatialBoostError(
            f"there is no result of a probe in the folders given ({len(passed_over)} other JSON files); expected files "
            "that `spatialboost probe TASK --out FOLDER` has written"
        )
    sections, rows = [], []
    for path, content in found.items():
        try:
            section = _section(path, content, found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            passed_over.append(f"{path} was written by another version ({type(error).__name__}); run the probe again")
            continue
        sections.append(section)
        rows.append(section["row"])
    if not sections:
        raise SpatialBoostError(passed_over[-1])
    shown = {"title": "Probes: base against boosted", "rows": rows, "sections": sections, "passed_over": passed_over}
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, fill_template("spatialboost.probes", "report.html.j2", shown).encode("utf-8", "replace"))
    for why in passed_over:
        logger.warning("passed over: %s", why)
    return ReportPage(file, len(sections), passed_over)


def _read(sources: Iterable[Path]) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    found: dict[Path, dict[str, Any]] = {}
    others: list[str] = []
    for source in sources:
        if source.is_dir():
            inside, problems = find_results(source)
            found |= inside
            others += problems
        else:
            found[source] = read_result(source)
    return found, others


def _section(path: Path, content: Mapping[str, Any], found: Iterable[Path]) -> dict[str, Any]:
    """What the page shows of one result."""
    metrics, summary, settings = content["metrics"], content["summary"], content["settings"]
    names = [content["probe"], *((path.parent.name,) if sum(each.stem == path.stem for each in found) > 1 else ())]
    spreads = {
        name: {key: str(Spread(**value)) if (value := row.get(key)) else "" for key in metrics}
        for name, row in summary.items()
    }
    gains = {key: str(Spread(**value)) for key, value in content["gain"].items()}
    plain = {key: _text(key, value) for key, value in settings.items() if not isinstance(value, Mapping)}
    picture = path.with_suffix(".png")
    section = {
        "title": ", ".join(names),
        "metrics": {key: _titled(metric) for key, metric in metrics.items()},
        "summary": spreads,
        "gains": gains,
        "settings": plain,
        "picture": as_uri(picture.read_bytes()) if picture.is_file() else None,
        "details": json.dumps({key: value for key, value in settings.items() if isinstance(value, Mapping)}, indent=2),
        "file": str(path),
    }
    return {**section, "row": _row(content, section)}


def _row(content: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """The first metric of one result, for the table of all."""
    key = next(iter(content["metrics"]))
    metric, summary, spreads = content["metrics"][key], content["summary"], section["summary"]
    row: dict[str, Any] = {
        "title": section["title"],
        "data": section["settings"].get("data", ""),
        "metric": section["metrics"][key],
        "others": {name: values[key] for name, values in spreads.items() if name not in (BASE, BOOSTED)},
        "base": spreads.get(BASE, {}).get(key, ""),
        "boosted": spreads.get(BOOSTED, {}).get(key, ""),
        "gain": section["gains"].get(key, ""),
        "percent": "",
        "test": content["paired"].get(BOOSTED),
        "verdict": "",
    }
    if row["gain"]:
        base, gain = summary[BASE][key]["mean"], content["gain"][key]["mean"]
        row["percent"] = f"{100 * gain / abs(base):+.1f} %" if base else ""
        row["verdict"] = "better" if (gain > 0) == metric["higher_is_better"] else "worse"
        row["verdict"] = row["verdict"] if gain else "same"
        if (test := row["test"]) and test["low"] <= 0 <= test["high"]:
            row["verdict"] = "unsure"
    return row


def _titled(metric: Mapping[str, Any]) -> str:
    unit = f" [{metric['unit']}]" if metric["unit"] else ""
    return f"{metric['label']}{unit} ({'higher' if metric['higher_is_better'] else 'lower'} is better)"


def _text(key: str, value: Any) -> str:
    """A setting in one line."""
    if key == "left out":
        return str(len(value))
    if isinstance(value, list):
        return ", ".join(_text("", each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)

"""The model card of a delta, made from its config alone.

The front matter is made by `huggingface_hub`. In the rest, every value from outside (names, training facts, settings of
probes) is escaped, so that it is shown as text: no line break ends a table row, and nothing becomes HTML, an image, or
a link whose text is not its address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spatialboost.weights.licence import licence_address

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

LIBRARY = "spatialboost"
TASK = "image-feature-extraction"
TAGS = ("spatialboost", "vision", "3d", "depth")
BOOSTED = "boosted"  # the row of a probe's summary that is about this delta

# The identifiers in https://huggingface.co/docs/hub/repositories-licenses that encoders use. The Hub refuses a card
# with an unknown licence, so any other licence is written as `other` with its name.
HUB_LICENSES = frozenset(
    [
        *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense", "mpl-2.0", "openrail"),
        *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
        *("gpl-3.0", "agpl-3.0", "lgpl-3.0", "apple-amlr", "apple-ascl", "other", "unknown"),
    ]
)

USAGE = """\
Attn+ and gates of a dual-channel encoder (SpatialBoost, arXiv 2603.22057). The weights of the base model are not in
this repository: they are loaded from where they are published, under their own licence, which covers the delta too.

```python
import spatialboost as sb

encoder = sb.load_pretrained(encoder, FOLDER_OR_REPO)  # onto the base model that you have built
encoder = sb.from_pretrained(FOLDER_OR_REPO)           # or build the base model as well
```
"""


def model_card(config: Mapping[str, Any]) -> str:
    """A README.md for the Hub: front matter, what the delta is, how to load it, training facts, results of probes."""
    base = config["base_model"]
    name = base.get("name") or "unknown"
    facts = {
        "base": f"{name} ({base.get('library')})",
        "licence of the base": base.get("license") or "not recorded",
        **({"text of that licence": address} if (address := licence_address(base.get("license"))) else {}),
        "boosted blocks": f"{len(config['layers'])} of {config['depth']}: {', '.join(map(str, config['layers']))}",
        "width": config["width"],
        "parameters": f"{config['parameters']:,} ({config['dtype']})",
        "mean gate per block": ", ".join(map(str, config["mean_gates"])),
    }
    parts = [
        f"---\n{_front_matter(config)}\n---\n",
        f"# Spatial channel for {_as_text(name)}\n",
        USAGE,
        _table(["", ""], facts.items()),
        "## Training\n",
        _table(["", ""], (config["training"] or {"training": "not recorded"}).items()),
        *_overview(config.get("results") or []),
        *(_probe(result) for result in config.get("results") or []),
    ]
    return "\n".join(parts)


# --- front matter


def _front_matter(config: Mapping[str, Any]) -> str:
    """YAML with the fields that the Hub shows and searches: task, base model, licence, tags, figures of probes."""
    from huggingface_hub import ModelCardData

    base = config["base_model"]
    results = [figure for result in config.get("results") or [] for figure in _figures(result)]
    hub_id = _on_one_line(base.get("hub_id") or "") or None  # the Hub links this model
    fields: dict[str, Any] = {"library_name": LIBRARY, "pipeline_tag": TASK, "tags": list(TAGS)}
    if hub_id:
        fields |= {"base_model": hub_id, "base_model_relation": "adapter"}
    fields |= _licence(base.get("license"))
    if results:
        fields |= {"model_name": _on_one_line(f"Spatial channel for {base.get('name')}"), "eval_results": results}
    return ModelCardData(**fields).to_yaml(line_break="\n")


def _licence(name: str | None) -> dict[str, Any]:
    if not name:
        return {}
    identifier = name.strip().lower()
    if identifier in HUB_LICENSES:
        return {"license": identifier}
    named = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", identifier).strip("-") or "unnamed"}
    return named | ({"license_link": address} if (address := licence_address(identifier)) else {})


def _figures(result: Mapping[str, Any]) -> Iterator[EvalResult]:
    """The means of a probe for the boosted encoder, in the form of the Hub's `model-index`."""
    from huggingface_hub import EvalResult

    data = _mapping(result.get("settings")).get("data")
    probe, dataset = _on_one_line(str(result.get("probe") or "unnamed")), _on_one_line(str(data or "not recorded"))
    for metric, value in result["summary"].get(BOOSTED, {}).items():
        mean = value.get("mean") if isinstance(value, Mapping) else value
        if _is_figure(mean):
            yield EvalResult(
                task_type=TASK,
                task_name=f"{probe} probe",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_config=probe,  # keeps the figures of several probes apart
                metric_type=_on_one_line(str(metric)),
                metric_value=mean,
            )


# --- text and tables


OVERVIEW = ["probe", "data", "metric", "base", "boosted", "boosted - base", "on the same items (95 % interval)", "p"]


def _overview(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Base against boosted in the first metric of each probe, with the paired test over the test items."""
    rows = [row for result in results if (row := _compared(result))]
    if rows:
        yield "## Probes: base against boosted\n"
        yield _table(OVERVIEW, rows)


def _compared(result: Mapping[str, Any]) -> list[str]:
    """A row of the overview; empty if base or boosted was not measured."""
    summary = result["summary"]
    if not {"base", BOOSTED} <= summary.keys():
        return []
    test = _mapping(_mapping(result.get("paired")).get(BOOSTED))
    metric = next((key for key in summary[BOOSTED] if key == test.get("metric")), next(iter(summary[BOOSTED]), ""))
    about = _mapping(_mapping(result.get("metrics")).get(metric))
    title = f"{about.get('label') or metric}{f' [{unit}]' if (unit := about.get('unit')) else ''}"
    better = {"True": " (higher is better)", "False": " (lower is better)"}.get(str(about.get("higher_is_better")), "")
    means = [_spread(row.get(metric)) for row in (summary["base"], summary[BOOSTED], _mapping(result.get("gain")))]
    items = ""
    if all(_is_figure(test.get(key)) for key in ("mean", "low", "high", "num")):
        items = f"{test['mean']:+.4g} ({test['low']:+.4g} to {test['high']:+.4g}), {test['num']} items"
    p = test.get("p")
    data = _mapping(result.get("settings")).get("data")
    return [
        str(result.get("probe") or "unnamed"),
        "" if data is None else str(data),
        title + better,
        *means,
        items,
        f"{p:.2g}" if _is_figure(p) else "",
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _probe(result: Mapping[str, Any]) -> str:
    """A table of a probe's means and spreads by encoder, and the settings that are needed to repeat it."""
    summary = result["summary"]
    metrics = list(dict.fromkeys(metric for row in summary.values() for metric in row))
    rows = [(str(name), *(_spread(row.get(metric)) for metric in metrics)) for name, row in summary.items()]
    settings = _mapping(result.get("settings"))
    plain = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    title = f"## Probe: {_as_text(result.get('probe') or 'unnamed')}\n"
    parts = [title, _table(["", *map(str, metrics)], rows)]
    return "\n".join([*parts, _table(["setting", "value"], plain.items())] if plain else parts)


def _spread(value: Any) -> str:
    """`mean +- standard deviation` of an entry of a probe's summary."""
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    mean, std = value.get("mean"), value.get("std")
    text = f"{mean:.4g}" if _is_figure(mean) else str(mean)
    return f"{text} +- {std:.2g}" if std and _is_figure(std) else text


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # larger integers cannot be formatted


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[Any]) -> str:
    return "|" + "".join(f" {text} |" if (text := _as_text(cell)) else " |" for cell in cells)


def _as_text(value: Any) -> str:
    """A value on one line of Markdown that shows exactly its text (JSON for anything but a string)."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = re.sub(r"[\\`*\[\]~$#]", r"\\\g<0>", _on_one_line(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # inside a word, _ has no meaning
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")


def _on_one_line(text: str) -> str:
    """The text without line breaks, control characters, marks of writing direction and lone surrogates."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())

"""The model card of a delta, written from its config and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

TAGS = ("spatialboost", "vision", "3d", "depth")


def model_card(config: Mapping[str, Any]) -> str:
    """A README.md for the Hub: front matter, what it is, how to load it, how it was trained, what it gained."""
    base = config["base_model"]
    name = base.get("name") or "unknown"
    facts = {
        "base": f"{name} ({base.get('library')})",
        "licence of the base": base.get("license") or "not recorded",
        "boosted blocks": f"{len(config['layers'])} of {config['depth']}: {', '.join(map(str, config['layers']))}",
        "width": config["width"],
        "parameters": f"{config['parameters']:,} ({config['dtype']})",
        "mean gate per block": ", ".join(map(str, config["mean_gates"])),
    }
    training = config["training"] or {"training": "not recorded"}
    return "\n".join(
        [
            *_front_matter(base),
            "",
            f"# Spatial channel for {_cell(name)}",
            "",
            "Attn+ and gates of a dual-channel encoder (SpatialBoost, arXiv 2603.22057). The base model's weights are "
            "not in this",
            "repository: they are fetched from where they are, under their own licence, which holds for these as well.",
            "",
            "```python",
            "import spatialboost as sb",
            "",
            "encoder = sb.load_pretrained(encoder, FOLDER_OR_REPO)  # onto the base model that you have",
            "encoder = sb.from_pretrained(FOLDER_OR_REPO)           # or base and all",
            "```",
            "",
            *_table(facts),
            "",
            "## Training",
            "",
            *_table(training),
            "",
            *(line for result in config.get("results") or [] for line in _probe(result)),
        ]
    )


def _front_matter(base: Mapping[str, Any]) -> list[str]:
    lines = ["---", "library_name: spatialboost", "pipeline_tag: image-feature-extraction", "tags:"]
    lines += [f"- {tag}" for tag in TAGS]
    if hub_id := base.get("hub_id"):  # an id of the Hub, which it links
        lines += [f"base_model: {json.dumps(hub_id)}", "base_model_relation: adapter"]
    if licence := base.get("license"):
        lines.append(f"license: {json.dumps(licence)}")
    return [*lines, "---"]


def _probe(result: Mapping[str, Any]) -> list[str]:
    """A probe's means by encoder, and every setting that somebody else needs to repeat it."""
    summary = result["summary"]
    metrics = list(dict.fromkeys(metric for row in summary.values() for metric in row))
    table = [[str(name), *(_spread(row.get(metric)) for metric in metrics)] for name, row in summary.items()]
    settings = {key: value for key, value in (result.get("settings") or {}).items() if not isinstance(value, Mapping)}
    return [
        f"## Probe: {_cell(result.get('probe') or 'unnamed')}",
        "",
        *_rows([["", *map(str, metrics)], *table]),
        "",
        "; ".join(f"{_cell(str(key))}: {_cell(value)}" for key, value in settings.items()),
        "",
    ]


def _spread(value: Any) -> str:
    """`mean +- standard deviation`, as a probe's summary holds it."""
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    mean, std = value.get("mean"), value.get("std")
    return (f"{mean:.4g}" if isinstance(mean, int | float) else str(mean)) + (f" +- {std:.2g}" if std else "")


def _table(facts: Mapping[str, Any]) -> list[str]:
    return _rows([["", ""], *([key, value] for key, value in facts.items())])


def _rows(rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(_cell(value) for value in row)} |".replace("|  |", "| |") for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

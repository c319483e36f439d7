"""The model card of a delta, written from its config and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def model_card(config: Mapping[str, Any]) -> str:
    """A README.md for the Hub: front matter, what it is, how to load it, how it was trained."""
    base = config["base_model"]
    name, licence = base.get("name") or "unknown", base.get("license")
    front = ["---", "library_name: spatialboost", "tags:", "- spatialboost", "- vision", "- 3d"]
    if isinstance(name, str) and name.count("/") == 1:  # an id of the Hub, which it links
        front.append(f"base_model: {json.dumps(name)}")
    if licence:
        front.append(f"license: {json.dumps(licence)}")
    facts = {
        "base": f"{name} ({base.get('library')})",
        "licence of the base": licence or "not recorded",
        "boosted blocks": f"{len(config['layers'])} of {config['depth']}: {', '.join(map(str, config['layers']))}",
        "width": config["width"],
        "parameters": f"{config['parameters']:,} ({config['dtype']})",
        "mean gate per block": ", ".join(map(str, config["mean_gates"])),
    }
    training = config["training"] or {"training": "not recorded"}
    return "\n".join(
        [
            *front,
            "---",
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
        ]
    )


def _table(facts: Mapping[str, Any]) -> list[str]:
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()]
    return ["| | |", "|---|---|", *rows]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

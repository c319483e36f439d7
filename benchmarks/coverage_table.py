"""The table of `coverage.py`."""

from __future__ import annotations

from collections import Counter
from typing import Any

LIBRARIES = ("timm", "transformers")


def table(rows: list[dict[str, Any]], machine: dict[str, str]) -> str:
    """Totals, the reason for each model that is not boosted, and what is boosted by class of attention."""
    lines = [
        "| library | models | without self-attention | with | boosted | refused | failed | coverage |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for library in LIBRARIES:
        count = Counter(r["verdict"] for r in rows if r["library"] == library)
        total, without = sum(count.values()), count["no self-attention"]
        if total:
            share = count["boosted"] / max(1, total - without)
            cells = [total, without, total - without, count["boosted"], count["refused"], count["failed"]]
            lines.append(f"| {library} | {' | '.join(map(str, cells))} | {share:.1%} |")
    lines += ["", "Versions: " + ", ".join(f"{k} {v}" for k, v in machine.items()) + ".", ""]
    if bad := [r for r in rows if r["verdict"] in ("refused", "failed")]:
        lines += ["| library | model | verdict | reason |", "|---|---|---|---|"]
        lines += [f"| {r['library']} | {r['name']} | {r['verdict']} | {_cell(r['reason'])} |" for r in bad]
        lines += [""]
    lines += ["| library | boosted classes | models | e.g. |", "|---|---|---:|---|"]
    kinds: dict[tuple[str, str], list[str]] = {}
    for r in rows:
        if r["verdict"] == "boosted":
            kinds.setdefault((r["library"], ", ".join(r["classes"])), []).append(r["name"])
    lines += [f"| {library} | {cls} | {len(names)} | {names[0]} |" for (library, cls), names in sorted(kinds.items())]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())

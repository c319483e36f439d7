"""The tables of `benchmarks/coverage.py`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

LIBRARIES = ("timm", "transformers")
VERDICTS = ("not examined", "no self-attention", "boosted", "refused", "failed")

Record = dict[str, Any]


def table(records: Iterable[Record], machine: dict[str, str]) -> str:
    """Totals, the reason for each model that is not boosted, and the boosted models by class of attention."""
    rows = list(records)
    of = {verdict: [r for r in rows if r["verdict"] == verdict] for verdict in VERDICTS}
    return "\n".join(
        [
            *_totals(rows),
            "",
            "Made with " + ", ".join(f"{k} {v}" for k, v in machine.items()) + ".",
            *_reasons("Not boosted", of["refused"] + of["failed"]),
            *_reasons("Not examined", of["not examined"]),
            *_reasons("Other attention alone", [r for r in of["no self-attention"] if r["reason"].startswith("only ")]),
            *_classes(of["boosted"]),
            *_passed_over(of["boosted"]),
            "",
        ]
    )


def _totals(rows: list[Record]) -> list[str]:
    heads = ["library", "entries", *VERDICTS[:2], "with self-attention", *VERDICTS[2:], "boosted of those with"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for library in LIBRARIES:
        count = Counter(r["verdict"] for r in rows if r["library"] == library)
        if total := sum(count.values()):
            having = total - count["not examined"] - count["no self-attention"]
            cells = [total, *(count[v] for v in VERDICTS[:2]), having, *(count[v] for v in VERDICTS[2:])]
            lines.append(f"| {library} | {' | '.join(map(str, cells))} | {count['boosted'] / max(1, having):.1%} |")
    return lines


def _reasons(title: str, rows: list[Record]) -> list[str]:
    """A table of models by library, verdict and reason."""
    names: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for r in rows:
        names[r["library"], r["verdict"], r["reason"]].append(r["name"])
    lines = ["", f"## {title}", "", "| library | models | verdict | reason |", "|---|---|---|---|"]
    lines += [f"| {k} | {', '.join(n)} | {verdict} | {_cell(why)} |" for (k, verdict, why), n in names.items()]
    return lines if rows else []


def _classes(rows: list[Record]) -> list[str]:
    lines = ["", "## Boosted, by class of attention", "", "A model counts once for each class that it has.", ""]
    for library in LIBRARIES:
        count = Counter(c for r in rows if r["library"] == library for c in r["classes"])
        if count:
            lines += [f"* {library}: " + ", ".join(f"`{c}` {n}" for c, n in count.most_common()) + "."]
    return lines


def _passed_over(rows: list[Record]) -> list[str]:
    """The layers of boosted models that are not boosted, by reason; in a record the reason follows the class."""
    count = Counter(reason for r in rows for reason in {p.partition(": ")[2] for p in r["passed_over"]})
    lines = ["", "## Passed over in boosted models", "", "| reason | models |", "|---|---:|"]
    return lines + [f"| {_cell(reason)} | {n} |" for reason, n in count.most_common()] if count else []


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())

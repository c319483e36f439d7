"""The result of an evaluation: scores by category, with and without the images, as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.evaluation.baseline import Difference

if TYPE_CHECKING:
    from rich.table import Table

RESULT = "result.json"


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of a model on a benchmark.

    Attributes:
        benchmark: Title of the benchmark.
        overall: Name of the mean by which models are compared.
        settings: Model, frames, length of replies and the like, with the versions of the packages.
        counts: Number of questions of each category.
        means: Way to answer -> mean -> value from 0 to 1. The ways are ``image``, ``text`` (the same question without
            the images), ``constant`` (the best constant answer) and ``chance`` (a uniform choice, where the answer is
            a letter).
        differences: ``text`` and ``constant``: the difference of ``image`` to it, for each mean.
        unread: Way to answer -> number of replies from which no answer could be read.
        skipped: Question -> why it was not asked.
        notes: What a reader of the scores has to know.
    """

    benchmark: str
    overall: str
    settings: Mapping[str, Any]
    counts: Mapping[str, int]
    means: Mapping[str, Mapping[str, float]]
    differences: Mapping[str, Mapping[str, Difference]]
    unread: Mapping[str, int]
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def save(self, folder: Path) -> Path:
        """Write ``result.json``; returns its path."""
        file = folder / RESULT
        file.write_text(json.dumps(asdict(self), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return file

    def table(self) -> Table:
        """A rich table, in percent: each mean with and without the images, their difference, and the baselines."""
        from rich.table import Table
        from rich.text import Text

        title = Text(f"{self.benchmark}: {self.settings.get('model')}, in percent")
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)  # without lines it fits 80 columns
        table.add_column("mean", overflow="fold")
        with_text = "text" in self.means
        heads = [
            "questions",
            "image",
            *(["text", "difference (95 %)"] if with_text else []),
            "constant",
            "chance",
        ]
        for head in heads:
            table.add_column(head, justify="right", no_wrap=head.startswith("difference"))
        for name, value in self.means["image"].items():
            count = self.counts.get(name)
            cells = ["" if count is None else str(count), f"{100 * value:.1f}"]
            if with_text:
                cells += [f"{100 * self.means['text'][name]:.1f}", str(self.differences["text"][name])]
            for way in ("constant", "chance"):
                found = self.means[way].get(name)
                cells.append("" if found is None else f"{100 * found:.1f}")
            table.add_row(Text(name), *map(Text, cells))
        return table

    def lines(self) -> list[str]:
        """What is said below the table."""
        asked = sum(self.counts.values())
        unread = ", ".join(f"{count} of {asked} from {way}" for way, count in self.unread.items() if count)
        return [
            *([f"replies without an answer that can be read: {unread}"] if unread else []),
            *([f"not asked: {len(self.skipped)} questions, named in {RESULT}"] if self.skipped else []),
            *self.notes,
        ]

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        return Group(self.table(), *(Text(line) for line in self.lines()))

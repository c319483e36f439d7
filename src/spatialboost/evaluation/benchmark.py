"""The base class of benchmarks, and how their means are made of the scores of single questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation.question import Question
from spatialboost.evaluation.tables import TableRow, find_tables, read_rows

Cells = Mapping[tuple[str, ...], tuple[Any, Any]]  # cell -> sum of scores and number of questions, numbers or arrays
MOST_GUESSES = 64  # constant answers that are tried for the numbers of a cell


@dataclass
class Reading:
    """The questions of a benchmark that can be asked.

    Attributes:
        questions: The questions, in the order of the files.
        skipped: Place or id -> why a question cannot be asked.
        files: The tables that were read.
    """

    questions: list[Question] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


class Benchmark(ABC):
    """A benchmark: how its files are read, how it asks, and how it scores replies.

    A new benchmark is one file with a subclass, and one line in `spatialboost.evaluation.registry.BENCHMARKS`.

    Attributes:
        title: Its name as its authors write it.
        source: Where it is described.
        tables: Names of its tables in the folder that is handed out; the first pattern that matches counts.
        columns: Columns that a table must have.
        max_new_tokens: Length of a reply, as in lmms-eval's task or in the benchmark's own code.
        overall: The metric by which models are compared; a key of `means`.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    tables: ClassVar[Sequence[str]]
    columns: ClassVar[Sequence[str]]
    max_new_tokens: ClassVar[int]
    overall: ClassVar[str] = "overall"

    @abstractmethod
    def question(self, row: TableRow) -> Question:
        """The question of a row.

        Raises:
            SpatialBoostError: The row cannot be asked; it is then skipped, counted and named.
        """

    @abstractmethod
    def answer(self, question: Question, reply: str) -> str | float | None:
        """The answer that is read out of a reply; None or "" if there is none."""

    @abstractmethod
    def score(self, question: Question, reply: str) -> float:
        """The score of a reply, from 0 to 1."""

    @abstractmethod
    def means(self, cells: Cells) -> dict[str, Any]:
        """The means that the benchmark reports, from the sums of its cells."""

    def read(self, data: str | Path) -> Reading:
        """The questions in a folder, or in one table of it.

        Raises:
            SpatialBoostError: The folder is none of this benchmark, or none of its questions can be asked.
        """
        reading = Reading(files=find_tables(data, self.tables, self.title))
        folder = reading.files[0].parent if user_path(data).is_file() else user_path(data)
        seen: set[str] = set()
        for file in reading.files:
            for row in read_rows(file, folder, self.columns):
                try:
                    question = self.question(row)
                except (SpatialBoostError, TypeError, ValueError, KeyError, AttributeError) as error:
                    reason = str(error) if isinstance(error, SpatialBoostError) else f"its values are wrong: {error}"
                    reading.skipped[row.place] = " ".join(reason.split())[:300]
                    continue
                if question.id in seen:  # it counts as often as it is there, as in lmms-eval
                    question = replace(question, id=f"{question.id} ({row.place})")
                seen.add(question.id)
                reading.questions.append(question)
        if not reading.questions:
            first = next(iter(reading.skipped.items()), ("no row", "the table is empty"))
            raise SpatialBoostError(
                f"none of the {len(reading.skipped)} questions of {self.title} in {data} can be asked; the first, "
                f"{first[0]}: {first[1]}. docs/evaluation.md says which files belong into the folder"
            )
        return reading

    def chance(self, question: Question) -> float | None:
        """The expected score of a uniform choice; None where the answer is no letter."""
        return 1 / len(question.letters) if question.letters else None

    def guesses(self, questions: Sequence[Question]) -> list[str]:
        """Constant replies that are tried for the questions of one cell: its own true answers."""
        truths = sorted({question.truth for question in questions}, key=_by_number)
        places = np.linspace(0, len(truths) - 1, min(MOST_GUESSES, len(truths))).round().astype(int)
        return [truths[place] for place in places]


def sums(questions: Sequence[Question], scores: Sequence[float]) -> dict[tuple[str, ...], tuple[float, int]]:
    """Sum of scores and number of questions of each cell, sorted by its name.

    Example:
        >>> both = [Question("1", ("depth",), "", "A"), Question("2", ("depth",), "", "B")]
        >>> sums(both, [1.0, 0.0])
        {('depth',): (1.0, 2)}
    """
    found: dict[tuple[str, ...], list[float]] = {}
    for question, score in zip(questions, scores, strict=True):
        found.setdefault(question.cell, []).append(score)
    return {cell: (float(np.sum(found[cell])), len(found[cell])) for cell in sorted(found)}


def pooled(cells: Cells, chosen: Iterable[tuple[str, ...]] | None = None) -> Any:
    """Mean over all questions of some cells; None takes all."""
    parts = [cells[cell] for cell in (cells if chosen is None else chosen)]
    total = sum(part[0] for part in parts)
    count = sum(part[1] for part in parts)
    with np.errstate(invalid="ignore"):  # a resample may have no question of a cell
        return np.divide(total, count) if isinstance(count, np.ndarray) else total / count


def by_category(cells: Cells) -> dict[str, Any]:
    """Mean over the questions of each category."""
    names = dict.fromkeys(cell[0] for cell in cells)
    return {name: pooled(cells, [cell for cell in cells if cell[0] == name]) for name in names}


def mean(values: Sequence[Any]) -> Any:
    """Mean of means."""
    return sum(values) / len(values)


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text

"""CV-Bench: counting, relation, depth order and distance in single images, as multiple choice."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from spatialboost.evaluation.benchmark import Benchmark, Cells, by_category, mean, pooled
from spatialboost.evaluation.question import Question, check_truth
from spatialboost.evaluation.replies import leading_letter
from spatialboost.evaluation.sets.blink import NOTE
from spatialboost.evaluation.tables import TableRow, as_list, existing

FLAT = ("ADE20K", "COCO")  # sources of the questions in 2D
SOLID = "Omni3D"  # source of those in 3D


class CVBench(Benchmark):
    """CV-Bench.

    ``overall`` is the benchmark's own: half the mean of the two sources in 2D, half the source in 3D. ``accuracy`` is
    over all questions, as lmms-eval reports it.
    """

    title, source = "CV-Bench", "arXiv 2406.16860, appendix C"
    tables = ("test_*.parquet", "test.parquet", "test_*.jsonl", "test.jsonl")
    columns = ("idx", "task", "source", "prompt", "choices", "answer")
    max_new_tokens = 1024

    def question(self, row: TableRow) -> Question:
        """The question of a row; the image is in the table, or in ``img/`` by its file name."""
        values = row.values
        letters = string.ascii_uppercase[: len(as_list(values["choices"]))]
        images: Any = row.pictures.get("image") or _file(row.folder, str(values["filename"]))
        return Question(
            id=f"{values.get('type', '')}-{values['idx']}",
            cell=(str(values["task"]), str(values["source"])),
            prompt=NOTE.format(", ".join(letters)) + "\n" + values["prompt"],
            truth=check_truth(str(values["answer"]).strip("()"), letters),
            letters=letters,
            images=images,
            scene=str(values.get("source_filename") or ""),
        )

    def answer(self, question: Question, reply: str) -> str | float | None:
        """The letter at the beginning, if it is one of the choices."""
        letter = leading_letter(reply)
        return letter if letter in question.letters else None

    def score(self, question: Question, reply: str) -> float:
        """Whether the letter at the beginning is right."""
        return float(leading_letter(reply) == question.truth)

    def means(self, cells: Cells) -> dict[str, Any]:
        """Without questions of a dimension, the overall mean is that of the other one."""
        of = {name: [cell for cell in cells if cell[1] == name] for name in (*FLAT, SOLID)}
        flat = [pooled(cells, of[name]) for name in FLAT if of[name]]
        halves = {"2D": [mean(flat)] if flat else [], "3D": [pooled(cells, of[SOLID])] if of[SOLID] else []}
        both = [value for half in halves.values() for value in half]
        found = {name: half[0] for name, half in halves.items() if half}
        overall = {"overall": mean(both)} if both else {"overall": pooled(cells)}
        return {**overall, "accuracy": pooled(cells), **found, **by_category(cells)}


def _file(folder: Path, name: str) -> list[Path]:
    """The image of a table without images: build_img.py of the benchmark writes it."""
    inside = folder / "img" / name
    return existing(folder, [f"img/{name}" if inside.is_file() else name])

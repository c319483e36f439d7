"""BLINK: perception as multiple choice. The multi-view subtask, and those of relative depth and spatial relation."""

from __future__ import annotations

import string
from typing import Any

from spatialboost.evaluation.benchmark import Benchmark, Cells, by_category, mean, pooled
from spatialboost.evaluation.question import Question, check_truth
from spatialboost.evaluation.replies import stated_letter
from spatialboost.evaluation.tables import TableRow, as_list

NOTE = "Note: You only need to respond with {} without providing any additional information.\n"
PICTURES = tuple(f"image_{number}" for number in range(1, 5))


class Blink(Benchmark):
    """BLINK; all subtasks whose folders are there.

    ``accuracy`` is over all questions, as lmms-eval reports it; ``overall`` is the mean of the subtasks, as the
    benchmark's own code reports it.
    """

    title, source = "BLINK", "arXiv 2404.12390"
    tables = ("*/val-*.parquet", "val-*.parquet")
    columns = ("idx", "sub_task", "prompt", "choices", "answer", "image_1")
    max_new_tokens = 1024

    def question(self, row: TableRow) -> Question:
        """The question of a row; the prompt in the file says what to answer."""
        values = row.values
        letters = string.ascii_uppercase[: len(as_list(values["choices"]))]
        images = [image for name in PICTURES for image in row.pictures.get(name, ())]
        return Question(
            id=str(values["idx"]),
            cell=(str(values["sub_task"]),),
            prompt=NOTE.format(", ".join(letters)) + values["prompt"],
            truth=check_truth(str(values["answer"]).strip("()"), letters),
            letters=letters,
            images=images,
        )

    def answer(self, question: Question, reply: str) -> str | float | None:
        """The letter that the reply states."""
        return stated_letter(reply, question.letters)

    def score(self, question: Question, reply: str) -> float:
        """Whether the letter is right."""
        return float(stated_letter(reply, question.letters) == question.truth)

    def means(self, cells: Cells) -> dict[str, Any]:
        """Mean of the subtasks, mean over all questions, and each subtask."""
        found = by_category(cells)
        return {"overall": mean(list(found.values())), "accuracy": pooled(cells), **found}

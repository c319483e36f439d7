"""All-Angles Bench: questions about several views of one scene, as multiple choice."""

from __future__ import annotations

from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation.benchmark import Benchmark, Cells, by_category, pooled
from spatialboost.evaluation.question import Question, check_truth
from spatialboost.evaluation.replies import only_choice
from spatialboost.evaluation.tables import TableRow, as_list, existing


class AllAngles(Benchmark):
    """All-Angles Bench; the overall score is over all questions."""

    title, source = "All-Angles Bench", "arXiv 2504.15280"
    tables = ("data.json", "bench_tsv/*.tsv", "*.tsv")
    columns = ("index", "category", "image_path", "question", "A", "B", "C", "answer")
    max_new_tokens = 512

    def question(self, row: TableRow) -> Question:
        """The question of a row; the images are its views, in order."""
        values = row.values
        choices = {letter: str(values[letter]) for letter in "ABCDEF" if values.get(letter) not in (None, "")}
        lines = "".join(f"{letter}. {text}\n" for letter, text in choices.items())
        names = as_list(values["image_path"])
        if not names:
            raise SpatialBoostError("it has no image")
        return Question(
            id=str(values["index"]),
            cell=(str(values["category"]),),
            prompt=f"Question: {values['question']}\nOptions:\n{lines}Please select the correct answer from the "
            "options above. \n",
            truth=check_truth(str(values["answer"]).strip(), "".join(choices)),
            letters="".join(choices),
            choices=tuple(choices.values()),
            images=existing(row.folder, names),
            scene=str(values.get("folder") or ""),
        )

    def answer(self, question: Question, reply: str) -> str | float | None:
        """The only choice that the reply names."""
        return only_choice(reply, dict(zip(question.letters, question.choices, strict=True)))

    def score(self, question: Question, reply: str) -> float:
        """Whether that choice is right."""
        return float(self.answer(question, reply) == question.truth)

    def means(self, cells: Cells) -> dict[str, Any]:
        """Mean over all questions, and each category."""
        return {"overall": pooled(cells), **by_category(cells)}

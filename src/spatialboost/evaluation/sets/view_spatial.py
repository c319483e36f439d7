"""ViewSpatial-Bench: where things are, as the camera or as a person in the image sees it, as multiple choice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation.benchmark import Benchmark, Cells, by_category, pooled
from spatialboost.evaluation.question import Question, check_truth
from spatialboost.evaluation.replies import lone_letter
from spatialboost.evaluation.tables import TableRow, as_list, existing

HERE = "ViewSpatial-Bench/"  # how the paths in the file begin: the folder itself
ASK = "Reply only to the corresponding option.\nAnswer:"


class ViewSpatial(Benchmark):
    """ViewSpatial-Bench; the overall score is over all questions."""

    title, source = "ViewSpatial-Bench", "arXiv 2505.21500"
    tables = ("ViewSpatial-Bench.json", "*.parquet", "*/test-*.parquet")
    columns = ("question_type", "question", "choices", "answer")
    max_new_tokens = 100

    def question(self, row: TableRow) -> Question:
        """The question of a row. The file has no ids: it is the number of the row."""
        values = row.values
        choices = str(values["choices"])
        letters = "".join(re.findall(r"^([A-Z])\.", choices, re.MULTILINE))
        truth = lone_letter(str(values["answer"]))
        images: list[Any] = row.pictures.get("images", [])
        names = [str(name) for name in as_list(values.get("image_path"))]
        if not images:
            images = _files(row.folder, names)
        if not images:
            raise SpatialBoostError("it has no image")
        return Question(
            id=row.place,
            cell=(str(values["question_type"]),),
            prompt=f"Question: {values['question']}\nChoices: {choices}\n{ASK}",
            truth=check_truth(truth, letters),
            letters=letters,
            images=images,
            scene=str(Path(names[0]).parent if names and "scene" in names[0] else "".join(names)),
        )

    def answer(self, question: Question, reply: str) -> str | float | None:
        """The first letter that stands alone in the last line."""
        letter = lone_letter(reply.split("\n")[-1])
        return letter if letter and letter in question.letters else None

    def score(self, question: Question, reply: str) -> float:
        """Whether that letter is right."""
        return float(lone_letter(reply.split("\n")[-1]) == question.truth)

    def means(self, cells: Cells) -> dict[str, Any]:
        """Mean over all questions, and each question type."""
        return {"overall": pooled(cells), **by_category(cells)}


def _files(folder: Path, names: list[str]) -> list[Path]:
    """The images; the paths begin with the name of the folder, whatever it is called here."""
    inner = [name.removeprefix(HERE) for name in names]
    try:
        return existing(folder, inner)
    except SpatialBoostError:
        if (folder / HERE).is_dir():
            return existing(folder, names)
        archives = sorted(file.name for file in folder.glob("*.zip"))
        if not archives:
            raise
        raise SpatialBoostError(f"its file {inner[0]} is not in {folder}: unpack {', '.join(archives)} there") from None

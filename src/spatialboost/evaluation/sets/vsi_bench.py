"""VSI-Bench: spatial questions about videos of rooms, with a choice or a number as the answer."""

from __future__ import annotations

import string
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation.benchmark import Benchmark, Cells, mean, pooled
from spatialboost.evaluation.question import Question, check_truth
from spatialboost.evaluation.replies import first_number, first_word, mean_relative_accuracy
from spatialboost.evaluation.tables import TableRow, as_list, existing

DIRECTION = "object_rel_direction"
DIRECTIONS = tuple(f"{DIRECTION}_{level}" for level in ("easy", "medium", "hard"))
CHOICES = (*DIRECTIONS, "object_rel_distance", "route_planning", "obj_appearance_order")
NUMBERS = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")

BEFORE = "These are frames of a video."
ASK_LETTER = "Answer with the option's letter from the given choices directly."
ASK_NUMBER = "Please answer the question using a single word or phrase."


class VSIBench(Benchmark):
    """VSI-Bench.

    The overall score is the mean of eight categories. The three levels of relative direction are first averaged to one.
    """

    title, source = "VSI-Bench", "arXiv 2412.14171"
    tables = ("test-*.parquet", "test.jsonl", "test.parquet")
    columns = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth", "options")
    max_new_tokens = 16

    def question(self, row: TableRow) -> Question:
        """The question of a row; its video is ``DATASET/SCENE.mp4``, or a folder of frames of that name."""
        values = row.values
        kind, truth = values["question_type"], str(values["ground_truth"]).strip()
        scene = f"{values['dataset']}/{values['scene_name']}"
        common: dict[str, Any] = {"id": str(values["id"]), "video": _video(row, scene), "scene": scene}
        if kind in NUMBERS:
            if first_number(truth) != float(truth) or not float(truth) > 0:
                raise SpatialBoostError(f"its answer is {truth!r}; expected a number above 0")
            prompt = "\n".join([BEFORE, values["question"], ASK_NUMBER])
            return Question(cell=(kind,), prompt=prompt, truth=truth, **common)
        if kind not in CHOICES:
            raise SpatialBoostError(f"its question_type is {kind!r}; known are {', '.join((*CHOICES, *NUMBERS))}")
        options = as_list(values["options"])
        letters = string.ascii_uppercase[: len(options)]
        prompt = "\n".join([BEFORE, values["question"], "Options:\n" + "\n".join(options), ASK_LETTER])
        cell = (DIRECTION, kind) if kind in DIRECTIONS else (kind,)
        return Question(cell=cell, prompt=prompt, truth=check_truth(truth, letters), letters=letters, **common)

    def answer(self, question: Question, reply: str) -> str | float | None:
        """The first word, or the first number."""
        if not question.letters:
            return first_number(reply)
        word = first_word(reply).upper()
        return word if len(word) == 1 and word in question.letters else None

    def score(self, question: Question, reply: str) -> float:
        """Whether the letter is right, or the mean relative accuracy of the number."""
        if question.letters:
            return float(first_word(reply).lower() == question.truth.lower())
        found = first_number(reply)
        return 0.0 if found is None else mean_relative_accuracy(found, float(question.truth))

    def means(self, cells: Cells) -> dict[str, Any]:
        """Categories of which no question was asked are left out of the overall mean."""
        found = {cell[0]: pooled(cells, [cell]) for cell in cells if cell[0] != DIRECTION}
        levels = [pooled(cells, [cell]) for level in DIRECTIONS if (cell := (DIRECTION, level)) in cells]
        if levels:
            found[DIRECTION] = mean(levels)
        return {"overall": mean(list(found.values())), **found}


def _video(row: TableRow, scene: str) -> Any:
    if (row.folder / scene).is_dir():
        return row.folder / scene
    try:
        return existing(row.folder, [f"{scene}.mp4"])[0]
    except SpatialBoostError as error:
        archive = row.folder / f"{scene.partition('/')[0]}.zip"
        hint = f": unpack {archive.name} there" if archive.is_file() else ""
        raise SpatialBoostError(f"{error}{hint}") from None

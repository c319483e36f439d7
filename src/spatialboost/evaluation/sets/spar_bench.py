"""SPAR-Bench: depth, distance, relation and view change in one or several images; choices, numbers and motions."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation.benchmark import Benchmark, Cells, mean, pooled
from spatialboost.evaluation.question import Question
from spatialboost.evaluation.replies import mean_relative_accuracy
from spatialboost.evaluation.sets.vsi_bench import ASK_LETTER, ASK_NUMBER
from spatialboost.evaluation.tables import TableRow

NUMBERS = tuple(f"{what}_prediction_{of}" for what in ("depth", "distance") for of in ("oc", "oo", "oc_mv", "oo_mv"))
MOTION = "view_change_infer"
MATCHES = ("position_matching", "camera_motion_infer")
CHOICES = (
    *MATCHES,
    *(f"obj_spatial_relation_{of}" for of in ("oo", "oc_mv", "oo_mv")),
    *(f"spatial_imagination_{of}" for of in ("oc", "oo", "oc_mv", "oo_mv")),
    *("distance_infer_center_oo", "distance_infer_center_oo_mv"),
)
# The authors' list of the middle level also has the motion, but their code leaves it out of the level's mean, by a name
# that it cuts wrongly; lmms-eval's does the same, so published means of this level are without it
LEVELS = {"low": NUMBERS, "middle": MATCHES, "high": tuple(sorted(set(CHOICES) - set(MATCHES)))}
LETTERS = "ABCD"
SCALE = (
    "The values represent the bounding box coordinates normalized to a 0-1000 scale, with the top-left corner as the "
    "origin of the image."
)
OPPOSITES = (
    *(("move_right", "move_left"), ("move_up", "move_down"), ("move_forward", "move_backward")),
    *(("rotate_right", "rotate_left"), ("rotate_up", "rotate_down")),
)
_NUMBER = re.compile(r"(?<!\^)\d+\.\d+|(?<!\^)\d+")


class SparBench(Benchmark):
    """SPAR-Bench; the overall score is the mean of the tasks, and each of three levels the mean of its tasks.

    Two mistakes of lmms-eval 0.7.3 are not repeated. It counts an empty reply as right in every multiple choice, since
    the empty text is part of any answer. And every number scores 0 there, since its file does not import a name that
    it uses. All else is equal, and numbers score as in the code of the authors.
    """

    title, source = "SPAR-Bench", "arXiv 2503.22976"
    tables = ("data/test-*.parquet", "test-*.parquet", "*.parquet")
    columns = ("id", "image", "question", "answer", "task")
    max_new_tokens = 100

    def question(self, row: TableRow) -> Question:
        """The question of a row; the choices are in its text."""
        values = row.values
        task, text, truth = values["task"], values["question"], str(values["answer"]).strip()
        letters = ""
        if task in CHOICES:
            letters, note = _letters(text), SCALE if task in MATCHES else ""
            if truth[:1] not in letters:
                raise SpatialBoostError(f"its answer is {truth!r}, but its choices are {', '.join(letters)}")
            prompt = f"\n{text}\n{note}\n{ASK_LETTER}"
        elif task in NUMBERS:
            float(truth)
            prompt = f"\n{text}\n{ASK_NUMBER}"
        elif task == MOTION:
            _motions(truth)
            prompt = f"\n{text}\n\n"
        else:
            raise SpatialBoostError(f"its task is {task!r}; known are {', '.join((*CHOICES, *NUMBERS, MOTION))}")
        images = row.pictures.get("image", [])
        if not images:
            raise SpatialBoostError("it has no image")
        return Question(str(values["id"]), (task,), prompt, truth, letters=letters, images=images)

    def answer(self, question: Question, reply: str) -> str | float | None:
        """The reply, its first number (its last one for several views), or its motions."""
        if question.letters:
            return reply[:1].upper() if reply[:1].upper() in question.letters else None
        if question.category == MOTION:
            return reply if _change(question, reply) is not None else None
        numbers = _NUMBER.findall(reply)
        return float(numbers[-1 if question.category.endswith("_mv") else 0]) if numbers else None

    def score(self, question: Question, reply: str) -> float:
        """Whether the letter is right, the mean relative accuracy of the number, or of five motions."""
        if question.letters:
            said, truth = reply.lower(), question.truth.lower()
            return float(bool(said) and (said in truth or said[0] == truth))
        if question.category == MOTION:
            return _change(question, reply) or 0.0
        found: Any = self.answer(question, reply)
        return 0.0 if found is None else mean_relative_accuracy(found, float(question.truth))

    def means(self, cells: Cells) -> dict[str, Any]:
        """Levels of which no question was asked are left out."""
        found = {cell[0]: pooled(cells, [cell]) for cell in cells}
        levels = {
            level: np.mean([found[task] for task in found if task in tasks], axis=0)
            for level, tasks in LEVELS.items()
            if set(tasks) & set(found)
        }
        return {"overall": mean(list(found.values())), **levels, **found}


def _letters(text: str) -> str:
    """The letters of the choices in the text of a question; four, if the text does not show them."""
    found = dict.fromkeys(re.findall(r"(?:^|[\s(])([A-F])[.:)]\s", f"{text} "))
    letters = "".join(found)
    return letters if len(letters) > 1 and LETTERS.startswith(letters[:1]) else LETTERS


def _motions(text: str) -> dict[str, float]:
    return {name: float(size) for name, size in (part.split(":") for part in text.split(","))}


def _change(question: Question, reply: str) -> float | None:
    """Mean relative accuracy over five pairs of opposite motions; None if the reply does not list motions.

    The error is relative to the reply, not to the truth, as in the benchmark's own code.
    """
    try:
        said, true = _motions(reply), _motions(question.truth)
    except ValueError:
        return None
    pairs = [[each.get(a, 0) - each.get(b, 0) for each in (said, true)] for a, b in OPPOSITES]
    return float(np.mean([mean_relative_accuracy(true_size, said_size) for said_size, true_size in pairs]))

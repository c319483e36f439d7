"""What a score is compared with: a uniform choice, the best constant answer, and the model without the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spatialboost.evaluation.benchmark import Benchmark, sums
from spatialboost.evaluation.question import Question

RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """A mean of one way to answer minus that of another one, on the same questions.

    Attributes:
        value: The difference.
        low: Lower end of its 95 % bootstrap interval; None if the questions are about one scene only.
        high: Its upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None:
            return f"{100 * self.value:+.1f}"
        return f"{100 * self.value:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"  # type: ignore[operator]


def chance(benchmark: Benchmark, questions: Sequence[Question]) -> list[float | None]:
    """The expected score of a uniform choice, for each question."""
    return [benchmark.chance(question) for question in questions]


def constant_answers(benchmark: Benchmark, questions: Sequence[Question]) -> dict[tuple[str, ...], str]:
    """The constant reply to all questions of a cell that scores best, for each cell.

    It is chosen by the true answers of these very questions, so it is the most that a model can reach that ignores the
    question's text. Of letters it is the most frequent one.
    """
    found = {}
    for cell in sorted({question.cell for question in questions}):
        asked = [question for question in questions if question.cell == cell]
        scores = {
            guess: np.mean([benchmark.score(question, guess) for question in asked])
            for guess in benchmark.guesses(asked)
        }
        found[cell] = max(scores, key=lambda guess: scores[guess])
    return found


def differences(
    benchmark: Benchmark, questions: Sequence[Question], ours: Sequence[float], theirs: Sequence[float]
) -> dict[str, Difference]:
    """The difference of every mean of a benchmark, with a bootstrap over scenes.

    Questions about one scene depend on each other, so whole scenes are drawn. Where a benchmark does not tell the
    scene, each question counts as one. The draws have a fixed seed.

    Args:
        benchmark: Its means are compared.
        questions: What was asked.
        ours: The score of each question.
        theirs: The scores that are subtracted.
    """
    means = [benchmark.means(sums(questions, scores)) for scores in (ours, theirs)]
    plain = {name: float(means[0][name] - means[1][name]) for name in means[0]}
    scenes = {name: number for number, name in enumerate(dict.fromkeys(map(_scene, questions)))}
    if len(scenes) < 2:
        return {name: Difference(value) for name, value in plain.items()}
    cells = {cell: number for number, cell in enumerate(sorted({question.cell for question in questions}))}
    places = np.array([[scenes[_scene(each)], cells[each.cell]] for each in questions]).T
    tables = np.zeros((3, len(scenes), len(cells)))  # our scores, their scores, number of questions
    for table, values in zip(tables, (ours, theirs, np.ones(len(questions))), strict=True):
        np.add.at(table, (places[0], places[1]), np.asarray(values))
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), size=RESAMPLES).astype(float)
    drawn = weights @ tables  # (3, resamples, cells)
    sides = [
        benchmark.means({cell: (drawn[side, :, number], drawn[2, :, number]) for cell, number in cells.items()})
        for side in (0, 1)
    ]
    found = {}
    for name, value in plain.items():
        gap = np.asarray(sides[0][name] - sides[1][name], float)
        gap = gap[np.isfinite(gap)]  # without the draws that have no question of a category
        low, high = np.quantile(gap, (0.025, 0.975)).tolist() if len(gap) else (None, None)
        found[name] = Difference(value, low, high)
    return found


def _scene(question: Question) -> str:
    return question.scene or f"question {question.id}"

"""The check of which way the camera moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spatialboost.scenes.questions.checks.across import (
    MOVES,
    check_images,
    check_options,
    is_clearly_largest,
    measure_pose,
    step_of,
)
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView


class CameraDirectionCheck(Check):
    """The word in the answer is the direction of the largest part of the camera's step."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compute the step again from the poses."""
        yield from check_images(question, turn["images"], facts["images"])
        step = step_of(facts, turn["images"][1])
        if max(abs(a - b) for a, b in zip(step, turn["step"], strict=True)) > 2e-6:
            yield f"the recorded step is {turn['step']}, recomputed {step}"
        axis = max(range(3), key=lambda i: abs(step[i]))
        word = MOVES[axis][step[axis] > 0]
        if not is_clearly_largest(step, axis, 0.05, 1.8):
            yield f"the step {step} has no clear direction"
        yield from check_options(question, word, MOVES)
        if answer != f"The camera moved {word}." or turn["verdict"] != word:
            yield f"the answer is {answer!r} ({turn['verdict']}), but the camera moved {word}"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Compare with the poses of the views."""
        step_3 = measure_pose(views, turn["images"][1])[:3, 3]
        if not np.allclose(step_3, turn["step"], atol=1e-5):
            yield f"the step between the poses of the views is {step_3.round(4).tolist()}, but meta has {turn['step']}"

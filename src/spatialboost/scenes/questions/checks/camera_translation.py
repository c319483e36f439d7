"""The check of how far the camera moved."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spatialboost.scenes.questions.checks.across import MOVES, check_images, measure_pose, step_of
from spatialboost.scenes.questions.checks.lengths import LENGTH, ROUNDING, check_length
from spatialboost.scenes.questions.checks.protocol import Check, MeasuredView

_PART = re.compile(rf"({LENGTH.pattern}) (to the left|to the right|up|down|backwards|forwards)")


class CameraTranslationCheck(Check):
    """The parts of the step and its length are right, and no large part is missing."""

    level = 2

    def check(self, question: str, answer: str, turn: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
        """Compute the step again from the poses."""
        yield from check_images(question, turn["images"], facts["images"])
        step = step_of(facts, turn["images"][1])
        if max(abs(a - b) for a, b in zip(step, turn["step"], strict=True)) > 2 * ROUNDING:
            yield f"the recorded step is {turn['step']}, recomputed {step}"
        length = math.hypot(*step)
        parts = [(found[0], found[3]) for found in _PART.findall(answer)]
        stated = re.fullmatch(rf"The camera moved (.+)\. Answer: ({LENGTH.pattern})\.", answer)
        texts = [f"{metres} {way}" for metres, way in parts]
        joined = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""
        if not stated or stated[1] != joined:
            yield f"the answer {answer!r} does not state a step in the expected form"
            return
        yield from check_length(stated[2], length)
        missing = dict(enumerate(step))
        for metres, way in parts:
            axis = next(i for i, ways in enumerate(MOVES) if way in ways)
            yield from check_length(metres, abs(missing.pop(axis, math.inf)))
            if MOVES[axis][step[axis] > 0] != way:
                yield f"the camera did not move {way}"
        if any(abs(part) > 0.11 * length for part in missing.values()):
            yield f"the answer leaves out a large part of the step {step}"
        if abs(turn["distance"] - length) > 2 * ROUNDING:
            yield f"the recorded distance is {turn['distance']} m, recomputed {length:.6f} m"

    def measure(self, question: str, turn: dict[str, Any], views: Sequence[MeasuredView]) -> Iterator[str]:
        """Compare with the poses of the views."""
        step_3 = measure_pose(views, turn["images"][1])[:3, 3]
        if not np.allclose(step_3, turn["step"], atol=1e-5):
            yield f"the step between the poses of the views is {step_3.round(4).tolist()}, but meta has {turn['step']}"

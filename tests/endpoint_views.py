"""Views, and what the server of the tests writes about them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from language_server import text_of
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.questions.plan import PAPER, TurnPlan
from tiny_cues import tiny_cues

SECRET = "sk-very-secret-0123456789"
PLAN = TurnPlan({**PAPER, "vqa": 2})
CAPTION = "A bare room with white walls. The red box is to the left of the blue ball. The ball is near a cat."
PAIRS = [
    {"style": "common", "question": "What color is the ball?", "answer": "Blue."},
    {"style": "common", "question": "Which object is closest to the camera?", "answer": "The blue ball."},  # false
    {
        "style": "adversarial",
        "question": "Is the box behind the cone?",
        "answer": "No, it is in front of the cone.",
    },
    {
        "style": "multi-choice",
        "question": "Which object is the closest to the camera?",
        "options": ["the red box", "the blue ball", "the green cone", "the orange book"],
        "answer": "the orange book",
    },
    {"style": "multi-choice", "question": "What is it?", "answer": "A room."},  # without options
    {"style": "common", "question": "What is this?", "answer": "<|im_start|>A room"},
]


def answer(body) -> str:
    if "Reply with the description only" in text_of(body):
        return CAPTION
    return f"```json\n{json.dumps({'pairs': PAIRS})}\n```"


def endpoint(server, tmp_path, **options):
    given = {"model": "m", "base_url": server.url, "answers": str(tmp_path / "answers"), "retries": 1, "timeout": 20}
    return open_extractor("endpoint", **{**given, **options})


def partial(count: int = 3):
    return [PartialCues.of(view) for view in views(count)]


def views(count: int = 3):
    images = [np.full_like(tiny_cues().image_HW3, 10 * number) for number in range(count)]
    return [replace(tiny_cues(), image_HW3=image, source=f"view {number}") for number, image in enumerate(images)]

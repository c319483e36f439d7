"""The wordings of the questions of every kind, and the choice of one.

The first wording of a kind is the paper's own where the paper has one. Add new wordings at the end: a plan can limit a
conversation to the first ones. The checks of the answers do not read this table.
"""

from __future__ import annotations

DEPTH = (
    "What is the depth value at coordinate {point}?",  # the paper's own wording
    "What is the depth at point {point}?",
    "How deep is the scene at {point}?",
    "Which depth does the pixel at {point} have?",
    "Estimate the depth of the point {point}.",
    "At coordinate {point}, what is the depth?",
    "Give the depth value for the point {point}.",
    "What depth would a depth camera measure at {point}?",
    "Tell me the depth of the image at {point}.",
)
DEPTHS = (
    "Depth in meters at {points}?",
    "What are the depths in meters at these points? {points}",
    "How deep is the scene at each of these points? Give the depth in meters. {points}",
    "Give the depth in meters at {points}.",
    "For each of these points, which depth in meters would a depth camera measure? {points}",
)
_POINTS = "Point 1 : {point1} Point 2 : {point2}"
CLOSER = (
    f"Which point is close to a viewer? {_POINTS}",  # the paper's own wording
    f"Which point is closer to the viewer? {_POINTS}",
    f"Which of the two points is nearer to the camera? {_POINTS}",
    f"Which one is closer? {_POINTS}",
    f"Compare the depth of two points. Which one is closer to the camera? {_POINTS}",
    "Is Point 1 : {point1} or Point 2 : {point2} closer to the viewer?",
    "Between Point 1 : {point1} and Point 2 : {point2}, which is nearer?",
    f"Tell me which point lies closer to the camera. {_POINTS}",
    f"Which of these points has the nearer surface? {_POINTS}",
)
LEFT_RIGHT = (
    "Is the {a} on the {word} side of the {b}?",
    "Is the {a} to the {word} of the {b}?",
    "Does the {a} appear to the {word} of the {b}?",
    "Seen from the camera, is the {a} to the {word} of the {b}?",
    "Is it true that the {a} is to the {word} of the {b}?",
    "Can the {a} be found to the {word} of the {b}?",
    "From the viewer's position, does the {a} lie to the {word} of the {b}?",
    "Would you say that the {a} is further {word} than the {b}?",
    "Is the {a} placed {word} of the {b}?",
)
_PLACED = (
    "Is the {a} located {word} the {b}?",
    "Is the {a} {word} the {b}?",
    "Does the {a} lie {word} the {b}?",
    "Is the position of the {a} {word} the {b}?",
    "Is it true that the {a} is {word} the {b}?",
    "Can the {a} be found {word} the {b}?",
    "Would you say that the {a} is {word} the {b}?",
)
ABOVE_BELOW = (
    *_PLACED,
    "Compared by height, is the {a} {word} the {b}?",
    "In this scene, is the center of the {a} {word} that of the {b}?",
)
FRONT_BEHIND = (
    *_PLACED,
    "Seen from the camera, is the {a} {word} the {b}?",
    "From the viewer's position, does the {a} stand {word} the {b}?",
)
LARGER_SMALLER = (
    "Is the {a} {word} than the {b}?",
    "Does the {a} look {word} than the {b}?",
    "Is the size of the {a} {word} than that of the {b}?",
    "Is it true that the {a} is {word} than the {b}?",
    "Would you say that the {a} is {word} than the {b}?",
    "In reality, is the {a} {word} than the {b}?",
    "Does the {a} have a {word} visible extent than the {b}?",
    "Compared by size, is the {a} {word} than the {b}?",
)
DISTANCE = (
    "How far is the {a} from the {b}?",
    "What is the distance between the {a} and the {b}?",
    "How far apart are the {a} and the {b}?",
    "Estimate the distance from the {a} to the {b}.",
    "What distance separates the {a} from the {b}?",
    "Give the distance between the {a} and the {b}.",
    "From center to center, how far is the {a} from the {b}?",
    "Tell me how far the {a} and the {b} are from each other.",
)
CAPTION = (
    "Explain this scene.",
    "Describe this scene.",
    "What does this scene show?",
    "Give a short description of the scene.",
    "What can be seen in this scene?",
    "Summarize the scene.",
    "Tell me what is in this scene.",
    "Which objects does this scene contain?",
)
_CHOICE = "the {a} or the {b}"


def _choices(word: str, verb: str) -> tuple[str, ...]:
    return (
        f"Which of them is {word}, {_CHOICE}?",
        f"Which one is {word}, {_CHOICE}?",
        f"Of these objects, which is {word}: {_CHOICE}?",
        f"What is {word}, {_CHOICE}?",
        f"Is it {_CHOICE} that is {word}?",
        f"Which {verb} {word}, {_CHOICE}?",
        f"Choose the one that is {word}: {_CHOICE}.",
        f"Tell me which is {word}, {_CHOICE}.",
    )


# By what is asked: the answer is one of two objects that the caption names.
CAPTION_QUESTION = {
    "closer": _choices("closer to the viewer", "stands"),
    "farther": _choices("farther from the viewer", "stands"),
    "higher": _choices("higher up", "is placed"),
    "lower": _choices("lower down", "is placed"),
    "larger": _choices("larger", "looks"),
    "smaller": _choices("smaller", "looks"),
}
# Before a question about metres, if the plan asks for it. An angle is "61.2 degrees"; if the angles of several images
# differ, "61.2 degrees in image 1 and 70.0 degrees in image 2".
FIELD_OF_VIEW = (
    "The camera's horizontal field of view is {angle}.",
    "The horizontal field of view of the camera is {angle}.",
    "From left to right, the camera sees {angle}.",
    "Horizontal field of view: {angle}.",
    "The camera has a horizontal field of view of {angle}.",
    "Seen from the camera, the left and the right edge of the image are {angle} apart.",
    "The lens covers {angle} horizontally.",
    "Between its left and its right edge, the image spans {angle}.",
)
# By style and form. The check of these kinds reads the text, so a new wording must have a form that the check knows.
VQA: dict[str, dict[str, tuple[str, ...]]] = {
    "common": {
        "which": (
            "Which is {word}, the {a} or the {b}?",
            "Which object is {word}, the {a} or the {b}?",
            "Which one is {word}: the {a} or the {b}?",
        ),
        "where": (
            "Where is the {a} relative to the {b}?",
            "Where is the {a}, seen from the {b}?",
            "Where is the {a} located compared with the {b}?",
        ),
    },
    "adversarial": {
        "premise": (
            "The {a} is {word} the {b}. Is that right?",
            "The {a} is {word} the {b}, isn't it?",
            "Is it true that the {a} is {word} the {b}?",
            "The {a} is {word} the {b}. Is this correct?",
        ),
        "there": (
            "Is there a {thing} in the image?",
            "Is there a {thing}?",
            "Is there a {thing} visible in this picture?",
        ),
    },
    "multi-choice": {
        "extreme": (
            "Which of these is {word}? {options}",
            "Which object is {word}? {options}",
            "Which of these objects is {word}? Choose A, B, C or D. {options}",
        ),
        "corner": (
            "Where is the {a} relative to the {b}? {options}",
            "Where is the {a}, seen from the {b}? Choose one. {options}",
        ),
        "length": (
            "How far is the {a} from the {b}? {options}",
            "What is the distance between the {a} and the {b}? Choose one. {options}",
        ),
    },
}
SCENE_VQA: dict[str, dict[str, tuple[str, ...]]] = {
    "common": {
        "which": (
            "Which is {word} its camera, the {a} or the {b}?",
            "Which object is {word} its camera, the {a} or the {b}?",
        ),
    },
    "adversarial": {
        "premise": (
            "The {a} is {word} its camera than the {b}. Is that right?",
            "Is it true that the {a} is {word} its camera than the {b}?",
            "The {a} is {word} its camera than the {b}, isn't it?",
        ),
    },
    "multi-choice": {
        "extreme": (
            "Which of these is the {word} its camera? {options}",
            "Which of these objects is the {word} its camera? Choose A, B, C or D. {options}",
        ),
    },
}

"""What a language model states about geometry is read and compared with the layout."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from spatialboost.scenes.questions.checks.generated import (
    FALSE,
    FORM,
    MARKUP,
    UNREADABLE,
    check_pair,
    check_text,
    true_sentences,
)
from spatialboost.scenes.questions.layout import compare_objects, measure_distance, measure_layout
from spatialboost.scenes.rooms import Rooms
from tiny_cues import tiny_cues, tiny_scene


def facts_of(view) -> dict:
    layout = measure_layout(view)
    objects = [fact.to_json() for fact in layout.objects]
    return {"objects": objects, "scene_box": list(layout.box_m), "depth_noise": view.depth_noise, "size": view.size}


# The layout: the orange book is closest (0.41 m), then the red box (1.21 m), the blue ball (2.02 m) and the green cone
# (3.14 m). The box and the book are on the left, the cone is on the right.
FACTS = [facts_of(tiny_cues())]

TRUE = """
The red box is to the left of the blue ball.
The red box is left of the blue ball and in front of the green cone.
The red box is on the left, and the green cone is to the right of it.
The orange book isn't behind the green cone.
The ball lies below the box, while the cone is behind the ball.
Behind the red box is the blue ball.
To the left of the green cone, there is a red box.
There is a red box in front of the green cone.
The red box and the orange book are to the left of the green cone.
The orange book is closer to the camera than the red box.
The green cone is farther away than the blue ball.
The orange book is the closest object to the viewer.
The nearest object is the orange book.
The cone is the largest of them.
The red box is larger than the orange book.
The green cone is taller than the blue ball and wider than the orange book.
The red box is on the left side of the image.
In the image, the red box is in the top left corner.
The green cone is not on the left.
The red box is 1.2 meters away from the camera.
The red box is about 4 feet away.
The depth of the green cone is 3.1 m.
The distance between the red box and the blue ball is 1.0 meters.
The red box and the blue ball are roughly 1 m apart.
The box is red. It is left of the blue ball, 1.2 m away, and in front of the green cone.
From left to right, the scene shows a red box, a blue ball and a green cone.
From front to back: the orange book, the red box, the blue ball, and the green cone.
There are four objects.
There is one ball.
A wooden floor and white walls.
A cat sleeps on a carpet.
There is no lamp.
""".strip().splitlines()

FALSE_TEXTS = """
The red box is to the right of the blue ball.
The red box is left of the blue ball and behind the green cone.
The red box is not in front of the green cone.
The blue ball is above the red box.
Behind the blue ball is the red box.
The green cone is closer than the blue ball.
The blue ball is the closest object.
The orange book is larger than the red box.
The red box is on the right side of the image.
The green cone is 2.0 meters away.
The red box is 1.5 meters from the blue ball.
From left to right, there are a green cone, a blue ball and a red box.
There are five objects.
There are two boxes.
There is no red box.
The book is behind the ball. It is red.
""".strip().splitlines()

UNREADABLE_TEXTS = """
The shadow of the red box is left of the ball.
It is not true that the red box is left of the ball.
The red box is left of the ball or behind it.
If you look closely, the red box is left of the ball.
The red box might be left of the ball.
A lamp stands next to the red box.
The sofa is to the left of the red box.
The red box is near the blue ball.
The red box is slightly left of the ball.
The red box is between the ball and the cone.
The red box is as large as the ball.
The red box is left of the ball's shadow.
It is on the left.
The red box is left of the blue ball, and the green cone is to the right of it.
The red box is left of the ball, unlike the cone.
Several chairs stand around a table.
The red box's top is above the ball.
In the foreground, there is a book.
A large window.
The box looks small.
The red box is left.
The purple ball is left of the green cone.
None of the objects is left of the box.
The red box is not the object to the left of the ball.
""".strip().splitlines()


@pytest.mark.parametrize("text", TRUE)
def test_what_is_true_passes(text):
    assert list(check_text(text, FACTS)) == []


@pytest.mark.parametrize("text", FALSE_TEXTS)
def test_what_is_false_is_found(text):
    assert list(check_text(text, FACTS)) == [FALSE]


@pytest.mark.parametrize("text", UNREADABLE_TEXTS)
def test_what_may_be_geometry_but_is_not_understood_is_found(text):
    assert list(check_text(text, FACTS)) == [UNREADABLE]


PAIRS = [
    # question, answer, style, problem
    ("Is the red box left of the blue ball?", "Yes.", "common", None),
    ("Is the red box left of the blue ball?", "No.", "common", FALSE),
    ("Is the red box left of the blue ball?", "Yes, but it is behind the green cone.", "common", FALSE),
    ("Does the green cone look larger than the red box?", "Yes, the green cone is larger.", "common", UNREADABLE),
    ("Is the ball in front of the cone?", "It is hard to say.", "common", UNREADABLE),
    ("Is the ball near the cone?", "Yes.", "common", UNREADABLE),
    ("Which object is closest to the camera?", "The orange book.", "common", None),
    ("Which object is closest to the camera?", "The orange book is the closest object.", "common", None),
    ("Which object is closest to the camera?", "The blue ball.", "common", FALSE),
    ("Which object is closest to the camera?", "A lamp.", "common", UNREADABLE),
    ("Which is closer to the viewer, the red box or the blue ball?", "The red box.", "common", None),
    ("Which is closer to the viewer, the red box or the blue ball?", "The blue ball.", "common", FALSE),
    ("Which is closer to the viewer, the red box or the blue ball?", "The orange book.", "common", UNREADABLE),
    ("What is behind the red box?", "The green cone.", "common", None),
    ("What is behind the green cone?", "The red box.", "common", FALSE),
    ("How far is the red box from the blue ball?", "1.0 meters.", "common", None),
    ("How far is the red box from the blue ball?", "It is 2 meters away.", "common", FALSE),
    ("How far away is the green cone?", "About 3 meters.", "common", None),
    ("What is the depth of the green cone?", "1 m", "common", FALSE),
    ("How many objects are in the image?", "There are four.", "common", None),
    ("How many boxes are there?", "Two.", "common", FALSE),
    ("How many people walk to the left?", "Two.", "common", UNREADABLE),
    ("Where is the red box relative to the green cone?", "To the left and in front of it.", "common", None),
    ("Where is the red box relative to the green cone?", "Behind it.", "common", FALSE),
    ("Where is the red box?", "On the left side of the image.", "common", None),
    ("Where is the red box?", "On the right.", "common", FALSE),
    ("What color is the box to the left of the green cone?", "Red.", "common", None),
    ("What color is the box to the right of the green cone?", "Red.", "common", FALSE),
    ("What color is the lamp to the right of the green cone?", "Red.", "common", UNREADABLE),
    ("What is the floor made of?", "Wood.", "common", None),
    ("Is there a purple elephant?", "No, there is no purple elephant.", "adversarial", None),
    ("Is there a red box?", "No.", "adversarial", FALSE),
    ("The red box is behind the green cone. Is that right?", "No.", "adversarial", None),
    ("The red box is behind the green cone. Is that right?", "Yes.", "adversarial", FALSE),
    ("The red box is behind the green cone, isn't it?", "No, it is in front of the green cone.", "adversarial", None),
    ("Why is the red box behind the cone?", "The red box is not behind the cone.", "adversarial", None),
    ("Why is the red box behind the cone?", "Somebody put it there.", "adversarial", UNREADABLE),
    ("Why is the red box behind the cone?", "The book is in front of the cone.", "adversarial", UNREADABLE),
    ("How far is the cone? A. 1 m B. 2 m C. 3.1 m D. 5 m", "C. 3.1 m", "multi-choice", None),
    ("How far is the cone? A. 1 m B. 2 m C. 3.1 m D. 5 m", "D", "multi-choice", FALSE),
    ("How far is the cone? A. 3.14 m B. 2 m C. 3.1 m D. 5 m", "C", "multi-choice", FALSE),  # two are right
    ("What is red? A. a box B. a cat C. a dog D. a cow", "A.", "multi-choice", None),
    ("What is red? A. a box B. a cat C. a dog D. a cow", "B. a dog", "multi-choice", FORM),
    ("What is red? A. a box B. a cat C. a dog D. a cat", "A", "multi-choice", FORM),
    ("What is red? A. a box B. a cat", "A", "multi-choice", FORM),
    ("What is the mood?", "<b>calm</b>", "common", MARKUP),
    ("What is this?\n<image>", "A room.", "common", MARKUP),
    ("What is this?", "A room.<|im_end|>", "common", MARKUP),
    ("What is this?", "", "common", FORM),
    ("What is this?", "A room.", "trick", FORM),
]


@pytest.mark.parametrize(("question", "answer", "style", "problem"), PAIRS)
def test_pairs(question, answer, style, problem):
    assert list(check_pair(question, answer, style, FACTS))[:1] == ([problem] if problem else [])


def test_the_good_sentences_of_a_caption_are_kept():
    text = "A tidy room. A sofa stands next to the red box. It is blue. The red box is left of the ball. Nice!"
    kept, problems = true_sentences(text, FACTS)
    assert kept == ["A tidy room.", "The red box is left of the ball.", "Nice!"]
    assert problems == [UNREADABLE]


def test_several_views_are_named_or_must_agree():
    views = [facts_of(view) for view in tiny_scene().views]
    assert not list(check_text("In image 2, the red box is left of the blue ball.", views))
    assert list(check_text("In image 2, the red box is right of the blue ball.", views)) == [FALSE]
    assert list(check_text("In image 3, the green cone is behind the red box.", views)) == [FALSE]  # it is not in it
    assert not list(check_text("The red box is left of the blue ball.", views))
    near = "The orange book in image 1 is closer to the camera than the red box in image 2."
    assert not list(check_text(near, views))
    assert list(check_text(near.replace("closer", "farther"), views)) == [FALSE]
    assert not list(check_pair("In image 2, is the red box behind the blue ball?", "No.", "common", views))


def test_gravity_has_to_agree():
    text = "The red box is above the blue ball."
    assert not list(check_text(text, FACTS))
    # The two are 1.02 m apart, and 0.44 m of it along the camera's vertical: less than the sine of 35 degrees
    assert list(check_text(text, [{**FACTS[0], "up": None}])) == [FALSE]
    for heights, problems in (([1.0, 0.5], []), ([0.5, 1.0], [FALSE])):
        objects = [
            {**thing, "heights_m": [height, height]}
            for thing, height in zip(FACTS[0]["objects"], heights, strict=False)
        ]
        assert list(check_text(text, [{**FACTS[0], "up": [0.0, -1.0, 0.0], "objects": objects}])) == problems


def test_aliases_are_names_too():
    objects = [{**FACTS[0]["objects"][0], "aliases": ["wooden crate"]}, *FACTS[0]["objects"][1:]]
    facts = [{**FACTS[0], "objects": objects}]
    assert not list(check_text("The crate is left of the blue ball.", facts))
    assert list(check_text("The wooden crate is right of the blue ball.", facts)) == [FALSE]


SENTENCES = {
    "left_right": ("The {a} is to the left of the {b}.", "The {a} is right of the {b}."),
    "above_below": ("You can see the {a} above the {b}.", "The {a} is located below the {b}."),
    "front_behind": ("In the room, the {a} stands in front of the {b}.", "Behind the {b}, there is the {a}."),
    "larger_smaller": ("The {a} seems larger than the {b}.", "The {a} is smaller than the {b}."),
}


def test_no_false_statement_about_rooms_passes_and_most_true_ones_do():
    """Against the measurements that the kinds of question use, which share no code with this check."""
    passed = wrong = clear = 0
    for view in Rooms(12, size=64):
        layout, facts = measure_layout(view), [facts_of(view)]
        for a, b in permutations(layout.objects, 2):
            for kind, texts in SENTENCES.items():
                holds = compare_objects(kind, a, b, layout.box_m, 0.0)
                if not holds:
                    continue
                true, false = (text.format(a=a.description, b=b.description) for text in texts[:: int(holds)])
                clear += 1
                passed += not list(check_text(true, facts))
                wrong += not list(check_text(false, facts))
            metres = measure_distance(a, b, 0.0)
            if metres is not None:
                text = f"The {a.description} is {{:.2f}} meters from the {b.description}."
                assert not list(check_text(text.format(metres), facts))
                assert list(check_text(text.format(metres + 0.05), facts)) == [FALSE]
    assert (wrong, clear > 500) == (0, True)
    assert passed > 0.95 * clear


@pytest.mark.parametrize("seed", range(3))
def test_random_words_never_break_it(seed):
    rng = np.random.default_rng(seed)
    text = """the red box ball is not left of above , . and it which 2 m from no yes closest @0 @? :1 [ ( ? A. B.
    image 2 in does how far where options right behind"""
    words = text.split()
    for _ in range(150):
        line = " ".join(rng.choice(words, rng.integers(1, 14)))
        assert all(isinstance(problem, str) for problem in check_text(line, FACTS))
        assert all(isinstance(problem, str) for problem in check_pair(line, line, "common", FACTS))

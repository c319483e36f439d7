"""The text-only baseline finds what questions tell, and nothing where they tell nothing."""

from __future__ import annotations

import numpy as np

from spatialboost.scenes.dataset.text_only import measure_text_only
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms.render import render_rooms


def talks(kind: str, turns) -> list:
    return [
        (
            [{"role": "user", "content": f"<image>\n{question}"}, {"role": "assistant", "content": answer}],
            {"source": str(number), "turns": [{"kind": kind, **facts}]},
        )
        for number, (question, answer, facts) in enumerate(turns)
    ]


def questions(rng, names, truth):
    """Questions whether A is above B; the truth is a function of the two names."""
    for _ in range(400):
        a, b = rng.choice(names, 2, replace=False)
        word = str(rng.choice(["above", "below"]))
        above = truth(a, b)
        yield f"Is the {a} {word} the {b}?", f"Answer: {'Yes' if above == (word == 'above') else 'No'}.", {}


def test_names_that_tell_are_found_and_names_that_do_not_are_not():
    rng = np.random.default_rng(0)
    names = ["lamp", "picture", "carpet", "shoe", "cup", "clock"]
    told = measure_text_only(talks("above_below", questions(rng, names, lambda a, b: a < b)))["above_below"]
    assert (told.asked, told.prior < 0.55) == (400, True)
    assert told.text_only > 0.9
    blind = measure_text_only(talks("above_below", questions(rng, names, lambda a, b: rng.random() < 0.5)))
    assert abs(blind["above_below"].text_only - 0.5) < 0.1


def test_coordinates_that_tell_a_length_are_found():
    rng = np.random.default_rng(0)
    heights = rng.uniform(0.1, 0.9, 400).round(2)
    turns = [
        (f"What is the depth at point (0.50, {y:.2f})?", f"The depth is {5 - 4 * y:.3f} meters.", {}) for y in heights
    ]
    told = measure_text_only(talks("depth", turns))["depth"]
    assert told.prior < 0.5
    assert told.text_only > 0.8


def test_a_choice_counts_as_the_first_or_the_second_name():
    rng = np.random.default_rng(0)
    turns = []
    for number in range(200):
        names = [f"thing {chr(97 + number % 26)}", "other thing"]
        pick = int(rng.random() < 0.5)
        question = f"Which is closer, the {names[0]} or the {names[1]}?"
        turns.append((question, f"The {names[pick]}.", {"names": names}))
    found = measure_text_only(talks("caption_question", turns))["caption_question"]
    assert 0.5 <= found.prior < 0.6
    assert abs(found.text_only - 0.5) < 0.12


def test_free_text_and_few_turns_have_no_baseline():
    rows = talks("caption", [("Describe this scene.", f"There are {i} things.", {}) for i in range(50)])
    assert measure_text_only(rows)["caption"].text_only is None
    assert measure_text_only(rows[:3])["caption"].text_only is None
    assert measure_text_only([]) == {}


def test_questions_about_rooms_cannot_be_answered_without_the_image():
    plan = TurnPlan({"closer": 8, "front_behind": 1, "larger_smaller": 1, "above_below": 1})
    views = render_rooms(range(9000, 9120), size=48)
    rows = [build_conversation(view, seed=seed, plan=plan) for seed, view in enumerate(views)]
    table = measure_text_only((row.messages, row.meta) for row in rows)
    closer = table["closer"]
    assert closer.asked > 900
    assert closer.text_only - closer.prior < 0.04  # it was 0.12 before the partners of points were matched
    for kind in ("front_behind", "larger_smaller", "above_below"):
        assert table[kind].text_only < 0.62  # three standard deviations of 150 fair coins


def test_the_row_of_a_point_tells_little_of_its_depth_in_rooms():
    views = render_rooms(range(9000, 9080), size=48)
    told = {}
    for wordings in (None, 2):  # two wordings: points as the first version drew them
        plan = TurnPlan({"depth": 12}, wordings=wordings)
        turns = [
            turn for i, view in enumerate(views) for turn in build_conversation(view, seed=i, plan=plan).meta["turns"]
        ]
        rows, depths = [turn["points"][0][1] for turn in turns], [turn["depths"][0] for turn in turns]
        told[wordings] = abs(float(np.corrcoef(rows, np.log(depths))[0, 1]))
    assert told[None] < 0.2 < 0.3 < told[2]


def test_each_form_of_a_kind_has_its_own_baseline():
    rows = talks("vqa", [("Which is larger, the box or the ball?", "The box.", {"form": form}) for form in "ab" * 20])
    assert set(measure_text_only(rows)) == {"vqa a", "vqa b"}

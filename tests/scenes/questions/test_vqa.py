"""Common, adversarial and multi-choice questions: from templates, and from texts that an extractor wrote."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.kinds import KINDS, scoring_of
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.questions.scoring import read_length
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.scene import Scene
from tiny_cues import tiny_cues, tiny_scene

SIX = TurnPlan({"vqa": 6})
GOOD = {"question": "What color is the ball?", "answer": "Blue.", "style": "common"}
FALSE = {"question": "Is the red box behind the green cone?", "answer": "Yes.", "style": "adversarial"}


def pairs_of(talk) -> list[tuple[dict, str, str]]:
    texts = [message["content"].removeprefix("<image>\n") for message in talk.messages]
    return list(zip(talk.meta["turns"], texts[0::2], texts[1::2], strict=True))


@pytest.fixture(scope="module")
def asked() -> list[tuple[dict, str, str]]:
    """All templated turns about some rooms, each checked."""
    found = []
    for number, room in enumerate(Rooms(40, size=48)):
        for seed in range(12 * number, 12 * number + 12):
            talk = build_conversation(room, seed=seed, plan=SIX)
            assert check_conversation(talk.messages, talk.meta) == []
            assert seed % 6 or check_against_cues(talk.messages, talk.meta, room) == []
            found += pairs_of(talk)
    return found


def test_templates_are_balanced(asked):
    styles = Counter(turn["style"] for turn, _, _ in asked)
    assert all(0.2 < count / len(asked) < 0.45 for count in styles.values())  # multi-choice needs more objects
    yes = Counter(turn["verdict"] for turn, _, _ in asked if turn["style"] == "adversarial")
    assert abs(yes["Yes"] / yes.total() - 0.5) < 0.02
    letters = Counter(turn["verdict"] for turn, _, _ in asked if turn["style"] == "multi-choice")
    assert sorted(letters) == list("ABCD")
    assert all(abs(count / letters.total() - 0.25) < 0.04 for count in letters.values())
    assert set(Counter(turn["form"] for turn, _, _ in asked)) == {
        form for forms in KINDS["vqa"].forms.values() for form in forms
    }
    assert {turn["template"] for turn, _, _ in asked} == set(range(len(KINDS["vqa"].wordings)))


def test_no_rank_of_the_true_length_is_usual(asked):
    ranks: Counter[int] = Counter()
    for turn, question, _ in asked:
        if turn["form"] == "length":
            lengths = [read_length(option) for option in re.findall(r"[A-D]\. (\S+ \w+)", question)]
            ranks[sorted(lengths).index(lengths["ABCD".index(turn["verdict"])])] += 1
    assert all(0.18 < count / ranks.total() < 0.32 for count in ranks.values())


def test_answers_are_scored_by_their_verdict(asked):
    for turn, _, answer in asked[:50]:
        scoring = scoring_of("vqa")
        assert scoring.right(answer, answer)
        if turn["style"] != "common":
            assert scoring.right(f"I think so. Answer: {turn['verdict']}.", answer)
            assert not scoring.right("Answer: Z.", answer)


def test_absent_things_are_nowhere_in_the_room(asked):
    there = [(turn, question) for turn, question, _ in asked if turn["form"] == "there"]
    assert len(there) > 100
    room = Rooms(1, size=64)[0]
    for colour, shape in (thing.split() for thing in room.facts["absent"]):
        assert not any({colour, shape} <= set(thing.description.split()) for thing in room.objects)
    plain = build_conversation(tiny_cues(), seed=0, plan=SIX)  # this view does not say what is absent
    assert all(turn["form"] != "there" for turn, _, _ in pairs_of(plain))


def test_names_do_not_tell_the_answer():
    names = {"red box": "box on the left", "blue ball": "ball on the right"}
    cues = tiny_cues()
    objects = [replace(thing, description=names.get(thing.description, "")) for thing in cues.objects]
    for seed in range(20):
        talk = build_conversation(replace(cues, objects=objects), seed=seed, plan=TurnPlan({"vqa": 2}))
        assert check_conversation(talk.messages, talk.meta) == []
        assert all(" left of" not in question and "Where" not in question for _, question, _ in pairs_of(talk))


ODD_NAMES = """tv, television
person's hand
chair (2)
left shoe
table top
No. 5 box
A. box
chair A. B.
chair 2
chair 3
RED BOX
box
box on a box
second chair from the left
grey object on the right
a
it
is
no
yes
which
thing
meter
camera
image 2
dog in image 1
door and window
not a box
cup.
cup: blue
lamp, standing
"quoted"
what?"""


def test_questions_with_odd_names_are_right_or_not_asked():
    asked, odd = 0, ODD_NAMES.split("\n")
    for seed in range(60):
        names = np.random.default_rng(seed).choice(odd, 4, replace=False)
        views = []
        for view in tiny_scene(2).views:
            named = zip(view.objects, names.tolist(), strict=False)
            views.append(replace(view, objects=[replace(thing, description=name) for thing, name in named]))
        for item, plan in ((views[0], SIX), (Scene(views), TurnPlan({"scene_vqa": 3}))):
            try:
                talk = build_conversation(item, seed=seed, plan=plan)
            except CuesError:
                continue
            asked += len(talk.meta["turns"])
            assert check_conversation(talk.messages, talk.meta) == []
    assert asked > 100


def test_generated_pairs_come_first_once_and_only_if_they_are_true():
    cues = replace(tiny_cues(), facts={"vqa": [FALSE, GOOD, {**GOOD, "question": "What color is the box?"}]})
    for seed in range(5):
        talk = build_conversation(cues, seed=seed, plan=TurnPlan({"vqa": 4}))
        generated = [question for turn, question, _ in pairs_of(talk) if turn.get("generated")]
        assert sorted(generated) == ["What color is the ball?", "What color is the box?"]
        assert check_conversation(talk.messages, talk.meta) == []
    meta = {**talk.meta, "turns": [{"kind": "vqa", "style": "adversarial", "generated": True, "template": 0}]}
    messages = [
        {"role": "user", "content": f"<image>\n{FALSE['question']}"},
        {"role": "assistant", "content": FALSE["answer"]},
    ]
    assert "states something about geometry" in check_conversation(messages, meta)[0]


def test_views_without_objects_can_have_generated_texts():
    cues = replace(tiny_cues(), objects=(), facts={"vqa": [GOOD], "caption": "A bare white room."})
    talk = build_conversation(cues, seed=0, plan=TurnPlan({"vqa": 2, "caption": 1}))
    assert [message["content"] for message in talk.messages[1::2]] == ["A bare white room.", "Blue."]
    assert "vqa" in talk.meta["left_out"]
    assert check_against_cues(talk.messages, talk.meta, cues) == []


@pytest.mark.parametrize("caption", ["The red box is behind the green cone.", "Look at <image>.", "", 3, ["a"]])
def test_a_caption_that_cannot_be_used_gives_way_to_the_template(caption):
    cues = replace(tiny_cues(), facts={"caption": caption})
    plain = build_conversation(tiny_cues(), seed=0)
    assert build_conversation(cues, seed=0).messages == plain.messages


def test_scenes_have_questions_about_one_view_and_about_several():
    scene = tiny_scene()
    first = replace(scene.views[0], facts={"scene_vqa": [{**GOOD, "question": "Which room do the images show?"}]})
    scene = Scene([first, *scene.views[1:]])
    talk = build_conversation(scene, seed=0, plan=TurnPlan({"vqa": 3, "scene_vqa": 4}))
    assert check_against_cues(talk.messages, talk.meta, scene) == []
    kinds = Counter(turn["kind"] for turn in talk.meta["turns"])
    assert kinds == {"vqa": 3, "scene_vqa": 4}
    questions = [message["content"] for message in talk.messages[0::2]]
    assert "Which room do the images show?" in questions
    assert sum(question.count(" in image ") >= 2 for question in questions) >= 3


def test_templates_about_several_views_are_true_in_rooms():
    letters: Counter[str] = Counter()
    for scene in Rooms(12, size=48, views=3):
        for seed in range(4):
            talk = build_conversation(scene, seed=seed, plan=TurnPlan({"scene_vqa": 4}))
            assert check_against_cues(talk.messages, talk.meta, scene) == []
            letters.update(turn["verdict"] for turn in talk.meta["turns"] if turn["style"] == "multi-choice")
    assert letters.total() > 30 and len(letters) == 4

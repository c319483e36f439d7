"""Every kind of question has a check, the check finds wrong turns, and both follow their interfaces."""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path

import pytest

import spatialboost.scenes.questions as questions
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.questions.checks import CHECKS, check_named
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.kinds import KINDS, LEVELS, Kind, kind_named
from spatialboost.scenes.questions.plan import PAPER, TurnPlan
from spatialboost.scenes.questions.scoring import LENGTH, VERDICT
from tiny_cues import room_paths, tiny_cues, tiny_scene

ROOM = Path(questions.__file__).parent
REGISTERED, CHECKED = set(KINDS), set(CHECKS)  # before a test registers another kind
# For each kind: facts of a turn that are wrong with any text. Add a row for a new kind.
WRONG_FACTS = {
    "depth": [{"depths": [9.0]}, {"pixels": [[0, 0]]}],
    "closer": [{"verdict": 3}, {"depths": [1.0, 1.0]}],
    "left_right": [{"holds": "above"}, {"objects": [0, 0]}, {"asked": "larger"}],
    "above_below": [{"holds": "left"}, {"objects": [0, 0]}],
    "front_behind": [{"holds": "left"}, {"objects": [0, 0]}],
    "larger_smaller": [{"holds": "left"}, {"objects": [0, 0]}],
    "distance": [{"distance": 9.0}, {"relation": "larger_smaller"}],
    "caption": [{"objects": [0]}, {"closest": 9}],
    "caption_question": [{"verdict": 9}, {"objects": [1]}],
    "same_object": [{"at": [0.0, 0.0]}, {"images": [0, 0]}, {"objects": [-1, 0]}, {"names": ["door", "door"]}],
    "which_view": [{"verdict": [0, 1, 2]}, {"images": [0, 9]}, {"names": ["door"]}, {"view_of_object": 7}],
    "closer_across": [{"verdict": 9}, {"distances": [1.0, 9.0]}, {"images": [0, 0]}, {"names": ["door", "door"]}],
    "camera_direction": [{"verdict": "left"}, {"step": [0.0, 0.0, 0.0]}, {"images": [0, 0]}],
    "camera_rotation": [{"verdict": "left"}, {"turns": [0.0, 0.0, 0.0]}, {"images": [0, 0]}],
    "camera_translation": [{"distance": 9.0}, {"step": [0.0, 0.0, 0.0]}, {"images": [0, 0]}],
    "distance_across": [{"distance": 9.0}, {"images": [0, 0]}, {"names": ["door", "door"]}],
    "vqa": [{"verdict": "Z"}, {"style": "trick"}, {"objects": [0, 99]}],
    "scene_vqa": [{"verdict": "Z"}, {"style": "trick"}, {"objects": [[0, 99]]}],
    "depths": [{"depths": [9.0] * 12}, {"pixels": [[0, 0]] * 12}, {"points": [[0.5, 0.5]] * 12}],
}


def plan_of(kind: Kind) -> TurnPlan:
    followed = {} if kind.follows is None else {kind.follows: 1}
    return TurnPlan({**followed, kind.name: 1})


def talks_of(kind: Kind):
    """Conversations with one turn of this kind, at the end; about one view and about three."""
    scenes = room_paths() if kind.views > 1 else (tiny_cues(), tiny_scene())
    return [build_conversation(scene, seed=seed, plan=plan_of(kind)) for scene in scenes for seed in range(6)]


def test_every_kind_has_a_check_and_a_row_here():
    assert REGISTERED == CHECKED == set(WRONG_FACTS)
    assert set(PAPER) <= set(KINDS)
    for name in REGISTERED:
        kind = KINDS[name]
        assert kind.name == name
        assert kind.title and kind.wordings
        assert CHECKS[name].level == LEVELS.index(kind.level)
        assert CHECKS[name].follows == kind.follows
        assert kind.follows is None or kind.level == "caption"  # turns of other levels are shuffled


@pytest.mark.parametrize("name", KINDS)
def test_what_a_kind_asks_is_right_and_goes_through_json(name):
    for talk in talks_of(KINDS[name]):
        turn = talk.meta["turns"][-1]
        assert turn["kind"] == name
        assert turn["template"] in range(len(KINDS[name].wordings))
        assert json.loads(json.dumps(talk.meta)) == talk.meta
        assert check_conversation(talk.messages, talk.meta) == []


@pytest.mark.parametrize("name", KINDS)
def test_every_check_catches_another_answer(name):
    """The answers of other conversations of the same kind, and an empty one."""
    talks = talks_of(KINDS[name])
    for talk in talks:
        truth = talk.messages[-1]["content"]
        others = {other.messages[-1]["content"] for other in talks} - {truth}
        assert others, "the conversations have to differ for this test to test something"
        for wrong in [*others, ""]:
            messages = [*talk.messages[:-1], {"role": "assistant", "content": wrong}]
            assert check_conversation(messages, talk.meta), (truth, wrong)


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name, rows in WRONG_FACTS.items() for wrong in rows])
def test_every_check_catches_another_truth(name, wrong):
    for talk in talks_of(KINDS[name]):
        meta = copy.deepcopy(talk.meta)
        meta["turns"][-1] |= wrong
        assert check_conversation(talk.messages, meta), meta["turns"][-1]


def test_lengths_are_scored_by_error_and_everything_else_by_verdict():
    lengths = {"depth", "distance", "camera_translation", "distance_across"}
    assert {name for name in REGISTERED if KINDS[name].scoring is LENGTH} == lengths
    assert all(KINDS[name].scoring is VERDICT for name in REGISTERED - lengths - {"depths"})


def test_a_true_answer_is_scored_as_right():
    talk = build_conversation(tiny_cues(), seed=0)
    for turn, message in zip(talk.meta["turns"], talk.messages[1::2], strict=True):
        scoring, truth = kind_named(turn["kind"]).scoring, message["content"]
        assert scoring.right(truth, truth)
        assert scoring.error(truth, truth) in (None, 0.0)


def test_an_unknown_kind_is_an_error_that_names_the_nearest():
    for look_up in (kind_named, check_named):
        with pytest.raises(SpatialBoostError, match=r"unknown kind of question 'distnce'.*Did you mean 'distance'"):
            look_up("distnce")
    talk = build_conversation(tiny_cues(), seed=0)
    talk.meta["turns"][0]["kind"] = "dept"
    (problem,) = check_conversation(talk.messages, talk.meta)
    assert "unknown kind of question 'dept'" in problem


def test_the_checks_share_no_code_with_the_asking():
    allowed = {"camera", "cues", "scene", "questions.checks", "questions.checker", "questions.meta"}
    for path in [ROOM / "checker.py", *(ROOM / "checks").glob("*.py")]:
        imported = {
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        }
        for module in imported:
            if module.startswith("spatialboost.scenes"):
                place = module.removeprefix("spatialboost.scenes.")
                assert any(place == name or place.startswith(f"{name}.") for name in allowed), (path.name, module)

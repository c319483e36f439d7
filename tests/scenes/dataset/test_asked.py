from __future__ import annotations

import json

import pytest

from spatialboost.scenes.dataset.asked import asked_marks
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.rooms import Rooms


@pytest.fixture(scope="module")
def meta() -> dict:
    return json.loads(json.dumps(build_conversation(Rooms(1, size=64)[0], seed=0).meta))


def test_marks_are_what_the_facts_of_a_turn_say(meta):
    height, width = meta["size"]
    seen = set()
    for turn, facts in enumerate(meta["turns"]):
        marks = asked_marks(meta, turn).get(0, {"points": [], "objects": []})
        places = [(point["x"] / width, point["y"] / height) for point in marks["points"]]
        assert places == [pytest.approx(point) for point in facts.get("points", [])]
        assert [point["depth"] for point in marks["points"]] == facts.get("depths", [])
        names = [meta["objects"][number]["description"] for number in facts.get("objects", [])]
        assert [thing["name"] for thing in marks["objects"]] == names
        assert all(thing["box"].startswith("M") for thing in marks["objects"])
        seen |= {key for key in ("points", "objects") if marks[key]}
    assert seen == {"points", "objects"}


def test_objects_of_several_views_are_marked_where_they_are(meta):
    view = {key: meta[key] for key in ("size", "intrinsics", "objects")}
    moved = {**view, "size": [view["size"][0] * 2, view["size"][1] * 2]}
    turn = {"kind": "distance_across", "images": [0, 1], "objects": [1, 0]}
    marks = asked_marks({"views": [view, moved], "turns": [turn]}, 0)
    assert [marks[0]["objects"][0]["name"], marks[1]["objects"][0]["name"]] == [
        view["objects"][number]["description"] for number in (1, 0)
    ]
    assert marks[1]["size"] == tuple(2 * length for length in marks[0]["size"])
    point = {"kind": "depth", "view": 1, "points": [[0.5, 0.5]], "depths": [2.0]}
    assert list(asked_marks({"views": [view, moved], "turns": [point]}, 0)) == [1]

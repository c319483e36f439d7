"""Adding a kind of question needs one file and one line in each table, and no other change."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
from typer.testing import CliRunner

from spatialboost.cli import app
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.viewer import write_page
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.checks import CHECKS, Check
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.kinds import KINDS, Kind, kind_named
from spatialboost.scenes.questions.phrases import format_length
from spatialboost.scenes.questions.plan import PAPER, TurnPlan
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn, choose_wording
from tiny_cues import tiny_cues, tiny_scene

pq = pytest.importorskip("pyarrow.parquet")


class DepthRange(Kind):
    """The depth range of the scene's box."""

    name = "depth_range"
    title = "depth of the whole scene"
    level = "scene"
    wordings = ("How deep is this scene?", "From front to back, how deep is the scene?")
    scoring = LENGTH

    def ask(self, context, rng):
        box = context.view.layout.box_m
        question, template = choose_wording(self.wordings, rng)
        return Turn(question, f"{format_length(box[5] - box[2])}.", {"range_m": box[5] - box[2], "template": template})


class DepthRangeCheck(Check):
    level = 2

    def check(self, question, answer, turn, facts) -> Iterator[str]:
        near, far = facts["scene_box"][2], facts["scene_box"][5]
        number, unit = re.fullmatch(r"([\d.]+) (meters|centimeters)\.", answer).groups()
        if abs(float(number) / (1 if unit == "meters" else 100) - (far - near)) > 0.001:
            yield f"the answer is {answer!r}, but the scene is {far - near:.3f} m deep"


class ViewsApart(Kind):
    """The distance between the cameras of two images: a question about several views."""

    name = "views_apart"
    title = "distance of two views"
    level = "scene"
    wordings = ("How far apart were the first two images taken?",)
    views = 2
    scoring = LENGTH

    def ask(self, context, rng):
        assert len(context.views) == len(context.poses)
        metres = round(float(np.linalg.norm(context.poses[1][:3, 3])), 6)
        if metres < 0.01:
            raise CannotAskError("both views were taken at one place")
        return Turn(self.wordings[0], f"{format_length(metres)}.", {"distance": metres})


class ViewsApartCheck(Check):
    level = 2

    def check(self, question, answer, turn, facts) -> Iterator[str]:
        x, y, z = (facts["views"][1]["pose"][row][3] for row in range(3))
        if answer != f"{100 * (x * x + y * y + z * z) ** 0.5:.1f} centimeters.":
            yield f"the answer is {answer!r}"

    def measure(self, question, turn, views) -> Iterator[str]:
        if len(views) < 2:
            yield "there is one view only"


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(KINDS, "depth_range", DepthRange())
    monkeypatch.setitem(CHECKS, "depth_range", DepthRangeCheck())
    monkeypatch.setitem(KINDS, "views_apart", ViewsApart())
    monkeypatch.setitem(CHECKS, "views_apart", ViewsApartCheck())


def test_it_is_planned_by_name_and_asked_where_its_level_is():
    plan = TurnPlan({**PAPER, "depth_range": 2})
    talk = build_conversation(tiny_cues(), seed=0, plan=plan)
    kinds = [turn["kind"] for turn in talk.meta["turns"]]
    assert kinds[9:] == ["distance", "depth_range", "depth_range", "caption", "caption_question"]
    without = build_conversation(tiny_cues(), seed=0)
    assert talk.messages[:20] == without.messages[:20]  # the turns that are drawn before it stay the same
    with pytest.raises(SpatialBoostError, match="Did you mean 'depth_range'"):
        TurnPlan({"depth_rang": 1})


def test_it_is_checked():
    talk = build_conversation(tiny_cues(), seed=0, plan=TurnPlan({"depth": 1, "depth_range": 1}), order="reverse")
    assert [turn["kind"] for turn in talk.meta["turns"]] == ["depth_range", "depth"]
    assert check_against_cues(talk.messages, talk.meta, tiny_cues()) == []
    talk.messages[1]["content"] = "9.000 meters."
    assert check_conversation(talk.messages, talk.meta)[0].startswith("turn 1 (depth_range): the answer is '9.000 me")


def test_it_is_scored():
    scoring = kind_named("depth_range").scoring
    assert scoring.error("3.000 meters.", "2.000 meters.") == 0.5
    assert scoring.best_guess(["1.000 meters.", "2.000 meters.", "4.000 meters."]) == "2.000 meters"


def test_it_is_written_and_shown(tmp_path):
    build_dataset([tiny_cues()] * 2, tmp_path, plan=TurnPlan({"depth_range": 1}), progress=False)
    page = write_page(tmp_path, tmp_path / "page.html")
    assert (page.shown, page.wrong) == (2, 0)
    assert "depth of the whole scene" in page.path.read_text()


def test_it_is_named_on_the_command_line(tmp_path):
    words = f"data build --out {tmp_path} --num 2 --size 48 --turn depth_range=2 --turn depth=1"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.parquet")
    for row in pq.read_table(path).to_pylist():
        meta = json.loads(row["meta"])
        assert [turn["kind"] for turn in meta["turns"]] == ["depth", "depth_range", "depth_range"]
        assert check_conversation(row["messages"], meta) == []


def test_a_kind_that_needs_several_views_is_given_all_of_them():
    plan = TurnPlan({"depth": 1, "views_apart": 1, "depth_range": 1})
    scene = tiny_scene()
    talk = build_conversation(scene, seed=0, plan=plan)
    assert [("view" in turn) for turn in talk.meta["turns"]] == [True, True, False]
    assert talk.messages[-2]["content"] == "How far apart were the first two images taken?"
    assert talk.messages[-1]["content"] == "10.0 centimeters."
    assert check_against_cues(talk.messages, talk.meta, scene) == []
    alone = build_conversation(tiny_cues(), seed=0, plan=plan)
    assert alone.meta["left_out"] == {"views_apart": "the scene has 1 views, but this question needs 2"}

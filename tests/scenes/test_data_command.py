from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.data_command import app, parse_size
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.schema import dataset_facts, dataset_files
from spatialboost.scenes.extract.registry import EXTRACTORS
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.source_registry import SOURCES, SourceKind
from tiny_cues import tiny_cues

pq = pytest.importorskip("pyarrow.parquet")


def run(*words: object):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output, result.exception


def test_rooms_are_built_and_shown(tmp_path):
    words = ["build", "--out", tmp_path / "rooms", "--num", 6, "--size", 64, "--rows-per-file", 3, "--seed", 4]
    code, output, _ = run(*words)
    assert code == 0
    rows = sum(pq.read_metadata(path).num_rows for path in dataset_files(tmp_path / "rooms"))
    assert f"{rows} conversations in 2 files; {6 - rows} items skipped" in output
    assert "2 of them existed before" in run(*words)[1]
    code, output, _ = run("show", tmp_path / "rooms", "--limit", 2)
    assert code == 0
    assert f"index.html: 2 of {rows} conversations, all answers right" in output
    assert (tmp_path / "rooms" / "index.html").is_file()


def test_the_field_of_view_is_said_and_a_data_set_is_balanced(tmp_path):
    words = ["--num", 3, "--size", 48, "--turn", "depth=1", "--turn", "left_right=1", "--focal", "question"]
    assert run("build", "--out", tmp_path / "rooms", *words)[0] == 0
    assert "was built with plan.field_of_view True" in str(run("build", "--out", tmp_path / "rooms", *words[:-2])[2])
    assert json.loads((tmp_path / "rooms" / "manifest.json").read_text())["settings"]["plan"]["field_of_view"] is True
    assert "degrees" in open_rows([tmp_path / "rooms"])[0]["messages"][0]["content"]
    code, output, _ = run("balance", tmp_path / "rooms", "--out", tmp_path / "new")
    assert (code, "3 conversations; 0 turns left out" in output) == (0, True)
    assert list(open_rows([tmp_path / "new"])) == list(open_rows([tmp_path / "rooms"]))
    assert "exists; choose another folder" in str(run("balance", tmp_path / "rooms", "--out", tmp_path / "new")[2])


def test_points_at_the_centres_of_cells(tmp_path):
    words = ["--num", 4, "--size", 64, "--turn", "depth=20", "--turn", "depths=1"]
    assert run("build", "--out", tmp_path / "rooms", *words, "--points", "cells:4x4")[0] == 0
    places = {0.12, 0.38, 0.62, 0.88}
    for row in open_rows([tmp_path / "rooms"]):
        meta = json.loads(row["meta"])
        assert check_conversation(row["messages"], meta) == []
        asked = [tuple(point) for turn in meta["turns"] if turn["kind"] == "depth" for point in turn["points"]]
        assert len(set(asked)) == len(asked) <= 16 and {side for point in asked for side in point} <= places
        if len(asked) < 20:
            assert "every cell with a steady depth has been asked" in meta["left_out"]["depth"] or meta["replaced"]
    assert "was built with plan.cells [4, 4] instead of None" in str(
        run("build", "--out", tmp_path / "rooms", *words)[2]
    )


def test_chosen_turns_and_shards(tmp_path):
    words = [
        "build",
        "--out",
        tmp_path,
        "--num",
        4,
        "--size",
        "48x64",
        "--turn",
        "depth=2",
        "--turn",
        "closer=2",
        "--no-depth",
    ]
    for shard in ("0/2", "1/2"):
        assert run(*words, "--rows-per-file", 2, "--shard", shard, "--order", "random")[0] == 0
    tables = [pq.read_table(path) for path in dataset_files(tmp_path)]
    assert [table.num_rows for table in tables] == [2, 2]
    assert tables[0].column_names == ["images", "messages", "meta", "poses", "intrinsics"]
    meta = json.loads(tables[0]["meta"][0].as_py())
    assert meta["size"] == [48, 64]
    assert sorted(turn["kind"] for turn in meta["turns"]) == ["closer", "closer", "depth", "depth"]


def test_real_frames_are_built(tmp_path, assets):
    words = ["--source", "rgbd", "--path", assets / "rgbd_room", "--num", 3, "--size", 120, "--turn", "depth=3"]
    assert run("build", "--out", tmp_path, *words)[0] == 0
    metas = [json.loads(meta) for meta in pq.read_table(tmp_path / "part-00000.parquet")["meta"].to_pylist()]
    assert [meta["size"] for meta in metas] == [[120, 180]] * 3
    assert len({meta["source"] for meta in metas}) == 3


def test_frames_keep_the_name_that_older_builds_have_in_their_settings(tmp_path, assets):
    words = ["--source", "rgbd", "--path", assets / "rgbd_room", "--num", 2, "--size", "80x120"]
    run("build", "--out", tmp_path / "objects", *words)
    run("build", "--out", tmp_path / "points", *words, "--turn", "depth=2")
    names = [dataset_facts(tmp_path / kind / "part-00000.parquet")["source"] for kind in ("objects", "points")]
    assert names == ["rgbd_room 80x120 with proposals", "rgbd_room 80x120"]


def test_rows_of_several_views(tmp_path, assets):
    words = ["--num", 2, "--size", 80, "--turn", "depth=2", "--views", 2]
    assert run("build", "--out", tmp_path / "rooms", *words)[0] == 0
    more = ["--source", "rgbd", "--path", assets / "rgbd_room", "--stride", 6]
    assert run("build", "--out", tmp_path / "frames", *words, *more)[0] == 0
    for kind in ("rooms", "frames"):
        rows = pq.read_table(tmp_path / kind / "part-00000.parquet").to_pylist()
        assert [len(row["images"]) for row in rows] == [2, 2]
        for row in rows:
            first, second = np.array(row["poses"])
            assert 0 < np.linalg.norm((first - second)[:3, 3]) < 2
    name = dataset_facts(tmp_path / "frames" / "part-00000.parquet")["source"]
    assert name == "rgbd_room 80 2 views 6 apart"


def test_a_mix_of_views_is_chosen_and_asked_about_with_a_plan_of_its_own(tmp_path, assets):
    words = ["--num", 6, "--size", 80, "--views", "2:1,4:1"]
    frames = ["--source", "rgbd", "--path", assets / "rgbd_room", "--choose", "overlap:low=0.25"]
    for kind, more in (("rooms", []), ("frames", frames)):
        assert run("build", "--out", tmp_path / kind, *words, *more)[0] == 0
        rows = open_rows([tmp_path / kind])
        assert {len(row["images"]) for row in rows} == {2, 4}
        asked = set()
        for row in rows:
            meta = json.loads(row["meta"])
            asked |= {turn["kind"] for turn in meta["turns"]}
            assert check_conversation(row["messages"], meta) == []
        assert {"camera_direction", "distance_across"} <= asked
    name = dataset_facts(tmp_path / "frames" / "part-00000.parquet")["source"]
    assert name == "rgbd_room 80 2:1,4:1 views chosen by overlap 0.25 to 0.8 with proposals"


def test_a_strangers_extractor_and_source_are_one_line_each(tmp_path, monkeypatch):
    class Renamed:
        kind, name = "masks", "renamed"

        def __call__(self, views):
            return [{"objects": [self._rename(thing) for thing in view.objects]} for view in views]

        def _rename(self, thing):
            return replace(thing, description=f"nice {thing.description}")

    monkeypatch.setitem(EXTRACTORS, "renamed", Renamed)
    words = ["build", "--num", 3, "--size", 64]
    assert run(*words, "--out", tmp_path / "rooms", "--extract", "renamed")[0] == 0
    facts = dataset_facts(tmp_path / "rooms" / "part-00000.parquet")
    assert facts["source"] == "rooms 0-2 64 px with renamed"
    metas = [json.loads(meta) for meta in open_rows([tmp_path / "rooms"])["meta"]]
    assert metas and all(fact["description"].startswith("nice ") for meta in metas for fact in meta["objects"])

    module = SimpleNamespace(open_mine=lambda options: [tiny_cues()] * options.num)
    monkeypatch.setitem(sys.modules, "a_module_of_a_stranger", module)
    monkeypatch.setitem(SOURCES, "mine", SourceKind("a_module_of_a_stranger:open_mine", extract=("renamed",)))
    assert run(*words, "--out", tmp_path / "mine", "--source", "mine")[0] == 0
    metas = open_rows([tmp_path / "mine"])["meta"]
    assert len(metas) == 3
    assert "nice red box" in metas[0]


def test_objects_are_proposed_on_real_frames(tmp_path, assets):
    words = ["--source", "rgbd", "--path", assets / "rgbd_room", "--num", 24, "--size", 240]
    code, output, _ = run("build", "--out", tmp_path, *words)
    assert code == 0
    rows = pq.read_table(tmp_path / "part-00000.parquet").to_pylist()
    assert f"{len(rows)} conversations in 1 files; {24 - len(rows)} items skipped" in output
    metas = [json.loads(row["meta"]) for row in rows]
    assert sum(len(meta["turns"]) == 12 for meta in metas) >= 4
    assert len(rows) == 24  # items without one of the turns are kept; meta lists the missing turn
    for row, meta in zip(rows, metas, strict=True):
        assert len(row["messages"]) == 2 * len(meta["turns"])
        assert (len(meta["turns"]) < 12) == ("left_out" in meta)
        assert check_conversation(row["messages"], meta) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "rgbd"], "needs --path FOLDER"),
        (["--path", "somewhere"], "--path is for --source rgbd"),
        (["--focal", "wide"], "--focal is 'wide'; expected a number such as 0.87, or question"),
        (["--focal", "nan"], "focal is nan; expected 0.1 to 30"),
        (["--num", "0"], "--num is 0; expected at least 1"),
        (["--num", "99999999999"], "--num is 99999999999; expected at most"),
        (["--size", "12by13"], "expected pixels such as 224"),
        (["--shard", "3/2"], "expected i/n"),
        (["--turn", "depth=0"], "has no turn"),
        (["--turn", "depht=1"], "unknown kind of question 'depht'"),
        (["--turn", "depth"], "expected KIND=COUNT"),
        (["--least", "13"], "least is 13; expected 1 to 12"),
        (["--turn", "depth=1", "--turn", "depth=2"], "once for each kind"),
        (["--rows-per-file", "-1"], "--rows-per-file is -1; expected at least 1"),
        (["--source", "room"], "Did you mean 'rooms'?"),
        (["--extract", "superpixel"], "Did you mean 'superpixels'?"),
        (["--views", "0"], "--views is 0; expected at least 1"),
        (["--views", "2:0"], "the weight of 2 views is 0.0; expected a positive number"),
        (["--views", "many"], "--views is 'many'; expected a number such as 2, counts with their weights such as"),
        (["--views", "2", "--stride", "3"], "cameras in a room are placed so that they see much of the same"),
        (["--choose", "lpip"], "Did you mean 'lpips'?"),
        (["--stride", "0"], "--stride is 0; expected at least 1"),
        (["--seed", "-1"], "--seed is -1; expected at least 0"),
        (["--seed", "9" * 30], "expected at most"),
        (["--first-room", "-3"], "--first-room is -3; expected at least 0"),
        (["--size", "99999999x1"], "size is 99999999x1 pixels; expected at most 16384 pixels for each edge"),
        (["--size", "16000"], "expected at most 16384 pixels for each edge and 33554432 in all images"),
        (["--size", "4000", "--views", "5"], "and there are 5 views in each item; expected at most"),
        (["--size", "9" * 5000], "expected pixels such as 224"),
        (["--shard", "0/" + "9" * 5000], "expected i/n"),
        (["--turn", "depth=" + "9" * 5000], "expected KIND=COUNT"),
        (["--turn", "depth=1", "--turn", "depth=2"], "'depth=2': depth has a count already (1); expected once"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path, words, message):
    _, _, error = run("build", "--out", tmp_path / "data", *words)
    assert isinstance(error, SpatialBoostError)
    assert message in str(error)
    assert "\n" not in str(error)
    assert not (tmp_path / "data").exists()


def test_more_mistakes(tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in str(run("build", "--out", tmp_path / "file", "--num", 2, "--size", 32)[2])
    code, output, _ = run("build", "--out", tmp_path, "--order", "backward")
    assert (code, "backward" in output) == (2, True)
    assert "spatialboost data build" in str(run("show", tmp_path)[2])
    _, _, error = run("build", "--out", tmp_path / "tiny", "--num", 2, "--size", 4, "--turn", "distance=1")
    assert "none of the 2 items could be used" in str(error)


def test_sizes():
    assert (parse_size("224"), parse_size("240x320")) == (224, (240, 320))

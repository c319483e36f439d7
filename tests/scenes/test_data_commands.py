from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.commands import app, parse_size
from spatialboost.scenes.dataset.writer import dataset_files
from spatialboost.scenes.questions.checker import check_conversation

pq = pytest.importorskip("pyarrow.parquet")


def run(*words: object):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output, result.exception


def test_rooms_are_built_and_shown(tmp_path):
    words = ["build", "--out", tmp_path / "rooms", "--num", 6, "--size", 64, "--rows-per-file", 3, "--seed", 4]
    code, output, _ = run(*words)
    assert code == 0
    rows = sum(pq.read_metadata(path).num_rows for path in dataset_files(tmp_path / "rooms"))
    assert f"{rows} conversations in 2 files; {6 - rows} views skipped" in output
    assert "2 of them already there" in run(*words)[1]
    code, output, _ = run("show", tmp_path / "rooms", "--limit", 2)
    assert code == 0
    assert f"index.html: 2 of {rows} conversations, all answers right" in output
    assert (tmp_path / "rooms" / "index.html").is_file()


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
    assert tables[0].column_names == ["images", "messages", "meta"]
    meta = json.loads(tables[0]["meta"][0].as_py())
    assert meta["size"] == [48, 64]
    assert sorted(turn["kind"] for turn in meta["turns"]) == ["closer", "closer", "depth", "depth"]


def test_real_frames_are_built(tmp_path, assets):
    words = ["--source", "rgbd", "--path", assets / "rgbd_room", "--num", 3, "--size", 120, "--turn", "depth=3"]
    assert run("build", "--out", tmp_path, *words)[0] == 0
    metas = [json.loads(meta) for meta in pq.read_table(tmp_path / "part-00000.parquet")["meta"].to_pylist()]
    assert [meta["size"] for meta in metas] == [[120, 180]] * 3
    assert len({meta["source"] for meta in metas}) == 3


def test_objects_are_proposed_on_real_frames(tmp_path, assets):
    words = ["--source", "rgbd", "--path", assets / "rgbd_room", "--num", 24, "--size", 240]
    code, output, _ = run("build", "--out", tmp_path, *words)
    assert code == 0
    rows = pq.read_table(tmp_path / "part-00000.parquet").to_pylist()
    assert f"{len(rows)} conversations in 1 files; {24 - len(rows)} views skipped" in output
    metas = [json.loads(row["meta"]) for row in rows]
    assert sum(len(meta["turns"]) == 12 for meta in metas) >= 4
    assert len(rows) == 24  # those of which one turn cannot be asked are kept, and say which
    for row, meta in zip(rows, metas, strict=True):
        assert len(row["messages"]) == 2 * len(meta["turns"])
        assert (len(meta["turns"]) < 12) == ("left_out" in meta)
        assert check_conversation(row["messages"], meta) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "rgbd"], "needs --path FOLDER"),
        (["--path", "somewhere"], "--path is for --source rgbd"),
        (["--num", "0"], "expected at least one view"),
        (["--size", "12by13"], "expected pixels such as 224"),
        (["--shard", "3/2"], "expected i/n"),
        (["--turn", "depth=0"], "has no turn"),
        (["--turn", "depht=1"], "unknown kind of question 'depht'"),
        (["--turn", "depth"], "expected KIND=COUNT"),
        (["--least", "13"], "least is 13; expected 1 to 12"),
        (["--turn", "depth=1", "--turn", "depth=2"], "once for each kind"),
        (["--rows-per-file", "0"], "expected >= 1"),
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
    assert "none of the 2 views could be used" in str(error)


def test_sizes():
    assert (parse_size("224"), parse_size("240x320")) == (224, (240, 320))

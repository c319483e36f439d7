"""Two builds in one folder, killed builds, folders that no build has claimed, and a full disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.files import build_lock, replace_file
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.schema import dataset_files
from spatialboost.scenes.dataset.viewer import write_page
from spatialboost.scenes.dataset.writer import build_dataset, build_settings
from spatialboost.scenes.questions.plan import TurnPlan
from tiny_cues import tiny_cues

POINTS = TurnPlan({"depth": 2})


class Slow:
    """Views, of which one is not ready before ``go`` is set."""

    name = "slow views"

    def __init__(self, stall_at: int = 2) -> None:
        self.stall_at, self.waits, self.go = stall_at, threading.Event(), threading.Event()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        if index == self.stall_at:
            self.waits.set()
            assert self.go.wait(60)
        return tiny_cues((24, 32), boxes={})


class Quick(Slow):
    def __init__(self) -> None:
        super().__init__(stall_at=-1)


def build(out: Path, views=None, **options):
    options = {"plan": POINTS, "rows_per_shard": 2, "progress": False, **options}
    return build_dataset(Quick() if views is None else views, out, **options)


@pytest.fixture
def running(tmp_path):
    """A build of the files 0 and 2 of a folder that has written one file and is in the middle of the next."""
    views, failed = Slow(stall_at=5), []

    def run():
        try:
            build(tmp_path / "data", views, shard="0/2")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert views.waits.wait(60)
    yield tmp_path / "data"
    views.go.set()
    thread.join()
    assert not failed
    assert {"part-00000.parquet", "part-00002.parquet"} <= {path.name for path in dataset_files(tmp_path / "data")}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"shard": "0/2"}, "writes the same files"),
        ({"shard": "0/1"}, "writes some of the same files"),
        ({"shard": "1/3"}, "writes some of the same files"),
        ({"shard": "0/2", "overwrite": True}, "writes the same files"),
        ({"shard": "1/2", "seed": 1}, "builds there with seed 0 instead of 1"),
        ({"shard": "1/2", "with_depth": True, "overwrite": True}, "builds there with with_depth False instead of True"),
    ],
)
def test_a_second_build_is_refused_with_the_name_of_the_first(running, options, what):
    before = {path.name: path.read_bytes() for path in dataset_files(running)}
    with pytest.raises(SpatialBoostError, match=rf"process {os.getpid()} on .* {what}|was built with") as caught:
        build(running, **options)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in dataset_files(running)} == before


def test_a_build_with_other_settings_is_refused_before_there_is_a_file(tmp_path):
    settings = build_settings(Quick(), 0, "forward", POINTS, 2, False, 95)
    with build_lock(tmp_path, (1, 2), settings):
        with pytest.raises(SpatialBoostError, match=r"process \d+ on .* builds there with seed 0 instead of 1; wait"):
            build(tmp_path, shard="0/2", seed=1)
        assert build(tmp_path, shard="0/2").written == 4


def test_shards_may_run_at_the_same_time(running):
    report = build(running, shard="1/2")
    assert (report.written, report.files) == (4, ["part-00001.parquet", "part-00003.parquet"])


def test_another_folder_is_free(running, tmp_path):
    assert build(tmp_path / "data[0]").written == 8


def test_the_lock_of_a_killed_build_is_taken_over(tmp_path):
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from spatialboost.scenes.dataset.files import build_lock\n"
        "with build_lock(Path(sys.argv[1]), (0, 1), {'seed': 7}):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(SpatialBoostError, match=rf"process {process.pid} on .* writes the same files; wait until"):
        build(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert list(tmp_path.glob(".build-*"))  # it could not remove it
    assert build(tmp_path).written == 8
    assert not list(tmp_path.glob(".*"))


def test_a_lock_of_a_killed_build_with_other_shards_is_removed(tmp_path):
    (tmp_path / ".build-3-of-8.lock").write_text(json.dumps({"holder": "x", "shard": [3, 8], "settings": {"seed": 9}}))
    (tmp_path / ".build-1-of-8.lock").write_text("")
    (tmp_path / ".part-00001.parquet.77.tmp").write_text("half")
    assert build(tmp_path).written == 8
    assert not list(tmp_path.glob(".*"))


def test_files_in_progress_of_other_shards_stay(tmp_path):
    with build_lock(tmp_path, (1, 2), {}):
        (tmp_path / ".part-00001.parquet.77.tmp").write_text("half")
        build(tmp_path, shard="0/2")
        assert (tmp_path / ".part-00001.parquet.77.tmp").exists()


# --- folders that no build has claimed


def test_a_build_without_a_single_row_does_not_reserve_the_folder(tmp_path):
    for options in ({"seed": 1}, {"seed": 1, "with_depth": True}):
        report = build(tmp_path, [tiny_cues((24, 32), boxes={})] * 5, plan=TurnPlan({"caption": 1}), **options)
        assert report.written == 0
    assert build(tmp_path, seed=2, with_depth=True, rows_per_shard=8).written == 8
    assert [path.name for path in dataset_files(tmp_path)] == ["part-00000.parquet"]
    assert "depths" in open_rows([tmp_path]).column_names


def test_items_that_could_not_be_used_are_tried_again(tmp_path):
    views = [tiny_cues((24, 32), boxes={})] * 2
    broken = [*views, None]

    class Frames(list):
        name = "frames"

        def __getitem__(self, index):
            if super().__getitem__(index) is None:
                raise ValueError("the file is missing")
            return super().__getitem__(index)

    assert build(tmp_path, Frames(broken)).skipped == {"the file is missing": 1}
    assert build(tmp_path, Frames([*views, views[0]])).written == 3


def test_hidden_files_are_no_part_of_a_data_set(tmp_path):
    build(tmp_path)
    before = len(open_rows([tmp_path]))
    (tmp_path / "._part-00000.parquet").write_bytes(b"\0\5\26\7")
    (tmp_path / ".hidden.parquet").write_bytes(b"")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "part-00000-checkpoint.parquet").write_bytes(b"x")
    assert len(open_rows([tmp_path])) == before
    assert build(tmp_path).resumed == 4
    assert write_page(tmp_path, tmp_path / "page.html").rows == before


# --- paths that a library could read in its own way


@pytest.mark.parametrize(
    "name", ["a[12]", "a*", "a?", "**", "file:x", "s3:x", "hf:x", "http:", "a%20b", "{x,y}", "x[/b]"]
)
def test_a_relative_path_is_literal(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    build("a1", [tiny_cues((24, 32))])
    build(name, [tiny_cues((24, 32))] * 3)
    build(name, [tiny_cues((24, 32))] * 3)
    rows = open_rows([name])
    assert (len(rows), rows[2]["messages"][0]["role"]) == (3, "user")
    assert write_page(name, f"{name}/page[1].html").rows == 3


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    build("~/data")
    assert len(open_rows(["~/data"])) == len(open_rows([tmp_path / "data"])) == 8
    assert write_page("~/data", "~/page.html").path == tmp_path / "page.html"
    monkeypatch.chdir(tmp_path)
    build("~nobody-of-this-name")
    assert (tmp_path / "~nobody-of-this-name").is_dir()
    with pytest.raises(SpatialBoostError, match="null character"):
        build("a\0b")


# --- a full disk


@contextmanager
def full_disk() -> Iterator[None]:
    """The system refuses to write more than 2,000 bytes to a file; not a fixture, because pytest writes files, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_does_not_fit_on_the_disk_is_not_there(tmp_path):
    with full_disk(), pytest.raises(OSError):
        build(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_page_is_whole_or_not_there(tmp_path):
    build(tmp_path / "data")
    page = tmp_path / "page.html"
    page.write_text("an earlier page")
    with full_disk(), pytest.raises(OSError):
        write_page(tmp_path / "data", page)
    with full_disk(), pytest.raises(OSError):
        replace_file(tmp_path / "new.html", b"x" * 3000)
    assert page.read_text() == "an earlier page"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "page.html"]


def test_turns_that_are_left_out_are_counted(tmp_path):
    plan = TurnPlan({"depth": 2, "caption": 1, "distance": 2})
    views = [tiny_cues((96, 128)), tiny_cues((96, 128), boxes={}), tiny_cues((96, 128))]
    report = build(tmp_path, views, plan=plan)
    assert (report.written, report.left_out) == (3, {"caption": 1, "distance": 2})
    assert json.loads((tmp_path / "manifest.json").read_text())["left_out"] == {"caption": 1, "distance": 2}
    assert build(tmp_path, views, plan=plan).left_out == report.left_out  # of files that exist
    assert sum(pq.read_metadata(path).num_rows for path in dataset_files(tmp_path)) == 3

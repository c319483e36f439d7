"""One process, several, and Ray write the same files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import building
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.plan import TurnPlan

TESTS = Path(__file__).parents[2]
PLAN = TurnPlan({"depth": 2, "left_right": 1})


def build(out: Path, source=building.frames_with_superpixels, **options):
    return build_dataset(source, out, plan=PLAN, rows_per_shard=2, with_depth=True, progress=False, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".parquet"}


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    build(folder)
    return folder


@pytest.fixture
def importable(monkeypatch):
    """Other processes find the helpers of the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *sys.path]))


@pytest.fixture
def processes(tmp_path_factory, monkeypatch) -> Path:
    """Folder in which the processes of a build leave their numbers."""
    folder = tmp_path_factory.mktemp("processes")
    monkeypatch.setenv("PROCESSES", str(folder))
    return folder


def test_several_processes_write_the_same_files(tmp_path, one, importable, processes):
    (tmp_path / "part-00001.parquet").write_bytes((one / "part-00001.parquet").read_bytes())
    report = build(tmp_path, building.shared_with_superpixels, processes=2)
    assert len(list(processes.iterdir())) == 2  # this one and another
    assert content(tmp_path) == content(one)
    assert (report.written, report.resumed) == (6, 1)
    assert report.skipped == {"depth map is (480, 640) but the image is (375, 500)": 1}
    assert list(report.names) == ["frame 4"]
    found, expected = (json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path, one))
    assert {**found, "resumed": 0} == expected


def test_ray_writes_the_same_files(tmp_path, one, importable):
    ray = pytest.importorskip("ray")
    ray.init(_node_ip_address="127.0.0.1", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert build(tmp_path, processes=2, engine="ray").written == 6
    finally:
        ray.shutdown()
    assert content(tmp_path) == content(one)


def test_a_process_that_is_ended_is_said_and_the_rest_is_kept(tmp_path, importable, processes, monkeypatch):
    monkeypatch.setenv("MAY_DIE", "1")
    with pytest.raises(SpatialBoostError, match="ended from outside, perhaps for lack of memory"):
        build(tmp_path, building.Deadly, processes=2)
    monkeypatch.delenv("MAY_DIE")
    assert build(tmp_path, building.Deadly).written == 6
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".tmp", ".lock")]


def test_processes_end_with_the_one_that_started_them(tmp_path, one, importable):
    script = (
        "import building, sys\nfrom test_engines import build\nfrom pathlib import Path\n"
        "if __name__ == '__main__':\n    build(Path(sys.argv[1]), processes=3)\n"
    )
    (tmp_path / "run.py").write_text(script)
    path = os.pathsep.join([str(Path(__file__).parent), str(TESTS), *sys.path])
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "out")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 120
    workers: list[int] = []
    while len(workers) < 2 and process.poll() is None and time.monotonic() < deadline:
        workers = spawned_by(process.pid)
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)
    assert build(tmp_path / "out").written == 6
    assert content(tmp_path / "out") == content(one)


def spawned_by(parent: int) -> list[int]:
    """The processes of Python's pool that a process started, by Linux's own list."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc/self/stat").exists() else ():
        if entry.name.isdecimal():
            try:
                after = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(after[1]) == parent and b"spawn_main" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("processes", [0, -1])
def test_wrong_numbers_are_refused(tmp_path, processes):
    with pytest.raises(SpatialBoostError, match="expected at least 1"):
        build(tmp_path / "out", processes=processes)
    assert not (tmp_path / "out").exists()

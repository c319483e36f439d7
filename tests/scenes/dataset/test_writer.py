from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.dataset import schema, writer
from spatialboost.scenes.dataset.schema import dataset_files
from spatialboost.scenes.dataset.viewer import write_page
from spatialboost.scenes.dataset.writer import build_dataset, parse_shard
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.plan import TurnPlan, plan_settings
from spatialboost.scenes.rooms import Rooms
from tiny_cues import tiny_cues

datasets = pytest.importorskip("datasets")
pq = pytest.importorskip("pyarrow.parquet")
datasets.disable_progress_bars()

POINTS = TurnPlan({"depth": 4, "closer": 2})


class Views:
    """Hand-made views; some of them are bad in the same ways as items of real folders."""

    name = "hand-made views"
    bad: ClassVar = {3: "depth", 7: "image", 8: "objects", 12: "png"}

    def __init__(self, num: int, *, bad: bool = False, stall_at: int | None = None) -> None:
        self.num, self.with_bad, self.stall_at = num, bad, stall_at

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int):
        if index == self.stall_at:
            time.sleep(3600)
        kind = self.bad.get(index) if self.with_bad else None
        if kind == "depth":
            raise CuesError(f"frame {index}: no pixel has a valid depth; expected at least one finite value above zero")
        if kind == "image":
            Image.open(io.BytesIO(b"not an image"))
        if kind == "png":
            broken = io.BytesIO()
            Image.new("RGB", (64, 64), "red").save(broken, "PNG")
            Image.open(io.BytesIO(broken.getvalue()[:60])).load()
        return tiny_cues(boxes={} if kind == "objects" else None)


def build(out: Path, views=None, **options):
    options = {"rows_per_shard": 4, "progress": False, "plan": TurnPlan(least=12), **options}
    return build_dataset(Views(14) if views is None else views, out, **options)


def load(folder: Path):
    files = [str(path) for path in dataset_files(folder)]
    return datasets.load_dataset("parquet", data_files=files, cache_dir=str(folder / "cache"))["train"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_datasets_opens_it_with_images_decoded(tmp_path):
    report = build(tmp_path / "data", seed=5)
    assert (report.written, report.skipped) == (14, {})
    rows = load(tmp_path / "data")
    assert rows.column_names == ["images", "messages", "meta", "poses", "intrinsics"]
    assert len(rows) == 14
    assert (
        len({json.dumps(row["messages"]) for row in rows}) == 14
    )  # the view is the same, but each item has its own seed
    image = np.asarray(rows[0]["images"][0])
    assert image.shape == (96, 128, 3)
    assert np.abs(image.astype(int) - tiny_cues().image_HW3).mean() < 2.0
    for item, row in enumerate(rows):
        meta = json.loads(row["meta"])
        assert meta["item"] == item
        assert check_conversation(row["messages"], meta) == []
        assert check_against_cues(row["messages"], meta, tiny_cues()) == []


def test_depth_and_labels_come_back_as_they_were(tmp_path):
    view = tiny_cues(holes=True)
    build(tmp_path / "data", [view], with_depth=True, quality=100)
    row = load(tmp_path / "data")[0]
    np.testing.assert_array_equal(np.asarray(row["images"][0]), view.image_HW3)
    millimetres = np.asarray(row["depths"][0]).astype(np.float32)
    np.testing.assert_array_equal(millimetres > 0, view.valid_HW)
    np.testing.assert_allclose(millimetres[view.valid_HW] / 1000, view.depth_HW[view.valid_HW], atol=0.00051)
    labels, meta = np.asarray(row["labels"][0]), json.loads(row["meta"])
    masks = {thing.description: thing.mask_HW for thing in view.objects}
    for number, fact in enumerate(meta["objects"]):
        np.testing.assert_array_equal(labels == number + 1, masks[fact["description"]])


def test_bad_items_are_skipped_counted_and_named(tmp_path):
    report = build(tmp_path / "data", Views(14, bad=True))
    assert report.written == 10
    assert set(report.names) == {"3", "7", "8", "12"}
    assert sum(report.skipped.values()) == 4
    assert report.skipped["no pixel has a valid depth; expected at least one finite value above zero"] == 1
    assert any("usable objects" in reason for reason in report.skipped)
    saved = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert (saved["written"], saved["names"]) == (10, report.names)
    items = [json.loads(meta)["item"] for meta in load(tmp_path / "data")["meta"]]
    assert items == [0, 1, 2, 4, 5, 6, 9, 10, 11, 13]
    again = build(tmp_path / "data", Views(14, bad=True))  # the report still has the skipped items if all files exist
    assert (again.names, again.written, again.resumed) == (report.names, 10, 4)


def test_shards_are_disjoint_and_complete(tmp_path):
    build(tmp_path / "one", Views(14, bad=True))
    reports = [build(tmp_path / "many", Views(14, bad=True), shard=f"{i}/3") for i in range(3)]
    assert content(tmp_path / "one") == content(tmp_path / "many")
    assert sorted(name for report in reports for name in report.files) == sorted(content(tmp_path / "one"))
    assert sum(report.written for report in reports) == 10
    assert len(list((tmp_path / "many").glob("manifest-*-of-3.json"))) == 3


def test_a_killed_build_resumes_to_the_same_bytes(tmp_path):
    script = (
        "from test_writer import Views, build\nfrom pathlib import Path\nimport sys\n"
        "build(Path(sys.argv[1]), Views(24, stall_at=10), with_depth=True)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "killed")], env={**os.environ, "PYTHONPATH": path}
    )
    deadline = time.monotonic() + 300  # importing is slow on a busy machine
    while len(content(tmp_path / "killed")) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was still running
    before = content(tmp_path / "killed")
    assert list(before) == ["part-00000.parquet", "part-00001.parquet"]  # killed while it wrote the third file
    (tmp_path / "killed" / ".part-00005.parquet.123.tmp").write_bytes(b"half a file of a killed process")
    report = build(tmp_path / "killed", Views(24), with_depth=True)
    assert report.resumed == len(before)
    build(tmp_path / "whole", Views(24), with_depth=True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".*"))


def test_another_dataset_in_the_folder_is_refused_unless_replaced(tmp_path):
    build(tmp_path, seed=1)
    before = content(tmp_path)
    with pytest.raises(SpatialBoostError, match="was built with seed 1 instead of 2; choose another folder"):
        build(tmp_path, seed=2)
    with pytest.raises(SpatialBoostError, match="order 'forward' instead of 'reverse'"):
        build(tmp_path, seed=1, order="reverse")
    assert content(tmp_path) == before
    build(tmp_path, Views(6), seed=2, overwrite=True)
    assert list(content(tmp_path)) == ["part-00000.parquet", "part-00001.parquet"]
    (tmp_path / "part-00001.parquet").write_bytes(b"cut off")
    with pytest.raises(SpatialBoostError, match=r"part-00001.parquet is not a file that a build wrote"):
        build(tmp_path, Views(6), seed=2)


def test_a_dataset_of_the_first_version_goes_on_only_with_every_turn_needed(tmp_path):
    """Its plan has each count under its own name, and a view without one of the turns was skipped."""
    build(tmp_path, Views(8))
    path, last = dataset_files(tmp_path)
    last.unlink()
    table = pq.read_table(path)
    settings = json.loads(table.schema.metadata[b"spatialboost"])
    relations = ["left_right", "above_below", "front_behind", "larger_smaller"]
    numbers = {name: settings["plan"][name] for name in ("min_gap", "smoothness", "on_objects")}
    settings["plan"] = {"depth": 3, "closer": 2, "relations": relations, "distance": 1, "caption": True, **numbers}
    earlier = table.replace_schema_metadata({**table.schema.metadata, b"spatialboost": json.dumps(settings).encode()})
    pq.write_table(earlier, path)
    before = content(tmp_path)
    with pytest.raises(
        SpatialBoostError,
        match=r"was built with plan.least 12 instead of 1, plan.wordings 2 instead of None; choose another",
    ):
        build(tmp_path, Views(8), plan=TurnPlan())
    assert content(tmp_path) == before
    report = build(tmp_path, Views(8), plan=TurnPlan(least=12, wordings=2))
    assert (report.written, report.resumed, len(report.files)) == (8, 1, 2)
    for row in load(tmp_path):
        assert check_conversation(row["messages"], json.loads(row["meta"])) == []


def test_a_plan_of_pixel_turns_needs_no_objects(tmp_path):
    report = build(tmp_path, [tiny_cues(boxes={})] * 3, plan=POINTS)
    assert report.written == 3
    assert len(load(tmp_path)[0]["messages"]) == 12


def test_nothing_usable_still_makes_a_report(tmp_path):
    report = build(tmp_path, [tiny_cues(boxes={})] * 3)
    assert (report.written, sum(report.skipped.values())) == (0, 3)


def test_wrong_choices_are_refused_before_anything_is_written(tmp_path):
    for wrong in ({"order": "backward"}, {"seed": -1}, {"rows_per_shard": 0}, {"quality": 0}, {"shard": "2/2"}):
        with pytest.raises(SpatialBoostError, match="expected"):
            build(tmp_path / "data", **wrong)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("shard", ["1/1", "2/1", "a/b", "1", "-1/2", "1/0"])
def test_a_wrong_shard_is_refused(shard):
    with pytest.raises(SpatialBoostError, match="expected i/n"):
        parse_shard(shard)


def test_an_empty_folder_says_how_to_build(tmp_path):
    with pytest.raises(SpatialBoostError, match="spatialboost data build"):
        dataset_files(tmp_path)


def test_scenes_of_several_views_make_rows_of_several_images(tmp_path):
    source = Rooms(3, first=2, size=64, views=2)
    report = build(tmp_path / "data", source, with_depth=True, quality=100, plan=POINTS)
    assert report.written == 3
    assert build(tmp_path / "data", source, with_depth=True, quality=100, plan=POINTS).resumed == 1
    for row, item in zip(load(tmp_path / "data"), (2, 3, 4), strict=True):
        scene = Rooms(1, first=item, size=64, views=2)[0]
        assert row["messages"][0]["content"].startswith("<image>\n<image>\n")
        assert not row["messages"][0]["content"].startswith("<image>\n" * 3)
        meta = json.loads(row["meta"])
        assert meta["images"] == 2
        for number, view in enumerate(scene.views):
            np.testing.assert_array_equal(np.asarray(row["images"][number]), view.image_HW3)
            np.testing.assert_allclose(np.asarray(row["depths"][number]) / 1000, view.depth_HW, atol=0.00051)
            np.testing.assert_array_equal(row["poses"][number], view.pose_44)
            np.testing.assert_array_equal(row["intrinsics"][number], view.intrinsics_33)
            masks = {thing.description: thing.mask_HW for thing in view.objects}
            labels = np.asarray(row["labels"][number])
            facts = meta["views"][number]
            np.testing.assert_allclose(facts["pose"], np.linalg.inv(row["poses"][0]) @ row["poses"][number], atol=1e-9)
            for label, fact in enumerate(facts["objects"], start=1):
                np.testing.assert_array_equal(labels == label, masks[fact["description"]])
    assert write_page(tmp_path / "data", tmp_path / "page.html").wrong == 0
    assert (tmp_path / "page.html").read_text().count('alt="item 0, image 2"') == 1


def test_a_pose_that_is_not_known_stays_unknown(tmp_path):
    known = replace(tiny_cues(), pose_44=np.diag([1.0, -1.0, -1.0, 1.0]))
    build(tmp_path, [tiny_cues(), known])
    rows = load(tmp_path)
    assert rows[0]["poses"] == [None]
    assert rows[1]["poses"] == [known.pose_44.tolist()]
    assert rows[0]["intrinsics"] == [tiny_cues().intrinsics_33.tolist()]


def test_an_option_that_an_old_build_did_not_know_does_not_end_it(tmp_path, monkeypatch):
    build(tmp_path, seed=1)

    def newer(settings):  # settings of a library with one more option, set to its earlier value
        return {**settings, "new_option": 5}

    inner = writer.build_settings
    monkeypatch.setattr(writer, "build_settings", lambda *args: newer(inner(*args)))
    with pytest.raises(SpatialBoostError, match="new_option None instead of 5"):
        build(tmp_path, seed=1)
    monkeypatch.setitem(schema._EARLIER_SETTINGS, "new_option", 5)
    assert build(tmp_path, seed=1).resumed == 4
    # and with a field of the plan that the old build does not have
    older = {"version": 2, "plan": plan_settings(TurnPlan())}
    del older["plan"]["smoothness"]
    assert schema.differing_settings(older, {"plan": plan_settings(TurnPlan())}) == []
    assert schema.differing_settings(older, {"plan": plan_settings(TurnPlan(smoothness=0.5))})


def test_rows_lie_in_small_groups_without_statistics(tmp_path):
    build(tmp_path, Views(40), rows_per_shard=40)
    footer = pq.read_metadata(tmp_path / "part-00000.parquet")
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [16, 16, 8]
    column = footer.row_group(0).column(0)
    assert (column.is_stats_set, column.has_dictionary_page) == (False, False)

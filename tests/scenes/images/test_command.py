"""`spatialboost data build` from photographs, with tiny weights in the place of the default model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from depth_models import save_depth_anything
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.data_command import app
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.schema import dataset_facts, dataset_files
from spatialboost.scenes.extract.depth import DepthAnything
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.rooms import Rooms


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(DepthAnything, "default_model", str(save_depth_anything(tmp_path / "model")))
    (tmp_path / "photos").mkdir()
    for number, room in enumerate(Rooms(3, size=96)):
        Image.fromarray(room.image_HW3).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "9.png").write_bytes(b"")
    return tmp_path / "photos"


def run(*words: object):
    result = CliRunner().invoke(app, ["build", *map(str, words)])
    return result.exit_code, result.output, result.exception


def test_photographs_are_built_with_the_default_extractors(photos, tmp_path):
    code, output, error = run(
        "--source", "images", "--path", photos, "--size", 72, "--focal", 1.3, "--out", tmp_path / "out"
    )
    assert code == 0, error
    assert "3 conversations in 1 files; 1 items skipped" in output
    rows = open_rows([tmp_path / "out"])
    for row in rows:
        assert check_conversation(row["messages"], json.loads(row["meta"])) == []
        focal = np.array(row["intrinsics"][0])[0, 0]
        assert focal / max(json.loads(row["meta"])["size"]) == pytest.approx(1.3, rel=0.03)
    (facts,) = map(dataset_facts, dataset_files(tmp_path / "out"))
    assert facts["source"].startswith("images photos 72 px with depth-anything (model ")
    assert facts["source"].endswith(", proposals focal 1.3")
    reason = "9.png: an image of 0 bytes cannot be read as an image: cannot identify image file"
    assert facts["skipped"] == {"9.png": reason}


def test_depth_is_found_also_when_no_turn_is_about_objects(photos, tmp_path):
    words = ("--source", "images", "--path", photos, "--num", 2, "--turn", "depth=1")
    assert run(*words, "--out", tmp_path / "out")[0] == 0
    assert json.loads(open_rows([tmp_path / "out"])[0]["meta"])["depth_noise"] == 0.15


def test_wrong_options_are_one_clear_line(photos, tmp_path):
    for words, message in (
        (("--source", "images"), "source images needs a path"),
        (("--source", "images", "--path", tmp_path / "x"), "does not exist; expected a folder of photographs"),
        (("--source", "dataset", "--path", photos), "has no parquet file and is not of `save_to_disk`"),
        (("--focal", 0), "focal is 0; expected 0.1 to 30 times the longer side"),
    ):
        _, _, error = run(*words, "--out", tmp_path / "out")
        assert isinstance(error, SpatialBoostError)
        assert message in str(error)
        assert not (tmp_path / "out").exists()

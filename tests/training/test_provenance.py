from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms
from spatialboost.training.config import load_config
from spatialboost.training.run import train
from training_rows import SHAPE


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), folder / "encoder.safetensors")
    build_dataset(Rooms(6, size=32), folder / "data", with_depth=True, rows_per_shard=4)
    return folder


def settings(world: Path, out: Path) -> dict:
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(world / "encoder.safetensors")},
        "data": {"folders": [str(world / "data")], "image_size": 32, "held_out": 1},
        "teacher": {"kind": "pixel"},
        "head": {"steps": 1, "batch_size": 2},
        "boost": None,
        "device": "cpu",
        "out": str(out),
    }


def test_a_run_says_what_it_was_made_of(world, tmp_path, caplog):
    train(load_config(settings(world, tmp_path)))
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["config"]["head"]["lr"] == 1e-3 and found["config"]["out"] == str(tmp_path)  # defaults, too
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] and found["rows"] == 6
    (data,) = found["data"]
    assert data["files"] == 2 and data["bytes"] == sum(f.stat().st_size for f in (world / "data").glob("*.parquet"))
    (manifest,) = data["manifests"]
    content = (world / "data" / "manifest.json").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["settings"] == json.loads(content)["settings"] and "provenance" in manifest

    found["versions"]["timm"] = "0.1"
    (tmp_path / "run.json").write_text(json.dumps(found))
    with caplog.at_level(logging.WARNING):
        train(load_config(settings(world, tmp_path)))
    assert "this run was begun with other versions: timm 0.1 is " in caplog.text
    assert json.loads((tmp_path / "run.json").read_text()) == found


def test_a_run_does_not_go_on_with_other_files(world, tmp_path):
    train(load_config(settings(world, tmp_path / "out")))
    first = sorted((world / "data").glob("*.parquet"))[0]
    moved = first.rename(tmp_path / first.name)
    try:
        with pytest.raises(SpatialBoostError, match="the data set has other files than when the run in"):
            train(load_config(settings(world, tmp_path / "out")))
    finally:
        moved.rename(first)
    train(load_config(settings(world, tmp_path / "out")))

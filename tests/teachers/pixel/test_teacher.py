from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost.encoders import open_encoder
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms
from spatialboost.teachers.pixel.targets import PixelTargets, class_of, collect_classes
from spatialboost.training import load_config, train
from training_rows import SHAPE


def png(values: np.ndarray) -> dict:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def row_of(depth: np.ndarray, labels: np.ndarray, names: list[str]) -> dict:
    meta = {"objects": [{"description": name} for name in names]}
    return {"images": [None], "depths": [png(depth)], "labels": [png(labels)], "meta": json.dumps(meta)}


@pytest.fixture
def row() -> dict:
    depth = np.array([[2000, 0], [1000, 4000]], np.uint16).repeat(8, 0).repeat(8, 1)
    labels = np.array([[1, 2], [3, 0]], np.uint8).repeat(8, 0).repeat(8, 1)
    return row_of(depth, labels, ["small red box", "blue sphere", "odd thing"])


def test_targets_are_those_of_the_maps(row):
    targets = PixelTargets((2, 2), depth=True, classes=["box", "sphere"])(0, row)
    assert torch.allclose(targets["depth"], torch.tensor([[[2.0, 0.0], [1.0, 4.0]]]), atol=1e-6)
    expected = torch.tensor([[0, 1], [-100, -100]]).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(targets["classes"][0], expected)
    only = PixelTargets((2, 2), depth=False, classes=["odd"], by_name=True)(0, row)
    assert set(only) == {"classes"} and (only["classes"] == 0).sum() == 16


def test_the_largest_value_of_a_depth_map_is_no_reading(row):
    depth = np.array([[2000, 65535], [1000, 4000]], np.uint16).repeat(8, 0).repeat(8, 1)
    targets = PixelTargets((2, 2), depth=True, classes=None)(0, {**row, "depths": [png(depth)]})
    assert torch.allclose(targets["depth"], torch.tensor([[[2.0, 0.0], [1.0, 4.0]]]), atol=1e-6)


def test_rows_without_targets_are_bad(row):
    nothing = np.zeros((16, 16), np.uint16)
    with pytest.raises(SpatialBoostError, match="no pixel of its depth map has a depth above 0"):
        PixelTargets((2, 2), depth=True, classes=None)(0, {**row, "depths": [png(nothing)]})
    with pytest.raises(SpatialBoostError, match="none of its objects has one of the classes"):
        PixelTargets((2, 2), depth=False, classes=["lamp"])(0, row)
    with pytest.raises(SpatialBoostError, match="it has 1 images and 0 labels"):
        PixelTargets((2, 2), depth=False, classes=["box"])(0, {**row, "labels": []})
    with pytest.raises(SpatialBoostError, match="expected whole numbers"):
        PixelTargets((2, 2), depth=True, classes=None)(0, {**row, "depths": [png(np.zeros((4, 4, 3), np.uint8))]})


def test_classes_are_the_last_words():
    assert collect_classes([["red box", "box", "blue sphere"], [""], ["a Panel"]], most=2) == ["box", "panel"]
    assert class_of("red box lid", ["box"]) == -100 and class_of("red box lid", ["lid", "box"], by_name=True) == 0


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    base = tmp_path_factory.mktemp("pixel")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), base / "encoder.safetensors")
    build_dataset(Rooms(20, size=64), base / "rooms", seed=0, with_depth=True, progress=False)
    stage = {"batch_size": 4, "log_every": 1, "save_every": 0}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(base / "encoder.safetensors")},
        "data": {"folders": [str(base / "rooms")], "image_size": 32, "held_out": 4},
        "teacher": {"kind": "pixel", "targets": ["depth", "segmentation"], "evaluate": 3},
        "head": {**stage, "steps": 30, "lr": 1e-2},
        "boost": {**stage, "steps": 4, "lr": 1e-3},
        "device": "cpu",
        "out": str(base / "out"),
    }


@pytest.fixture(scope="module")
def finished(settings):
    return train(load_config(settings))


def test_both_stages_train_what_they_say(finished):
    head, boost = (finished.stages[name]["fit"] for name in ("head", "boost"))
    assert head["trainable"]["encoder"][0] == 0 and head["trainable"]["depth_head"] == (49, 49)
    assert head["history"][-1]["loss"] < head["history"][0]["loss"]
    channel = sum(p.numel() for _, p in sb.named_parameters(finished.encoder))
    assert boost["trainable"]["encoder"][0] == channel and boost["trainable"]["class_head"][0] > 0
    kinds = {(s["kind"], s["answerer"]) for s in finished.stages["boost"]["scores"]}
    assert kinds == {(kind, answerer) for kind in ("depth", "segmentation") for answerer in ("image", "guess")}
    assert all(0 <= s["accuracy"] <= 1 and s["answers"] > 0 for s in finished.stages["head"]["scores"])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_file_of_a_language_run_and_one_key_train_pixels(settings, tmp_path, method):
    stage = {"batch_size": 4, "steps": 2, "save_every": 0, "log_every": 1}
    file = tmp_path / "run.yaml"
    language = {"kind": "language", "llm": {"name": "small"}, "evaluate": 3}
    own = {"teacher": language, "stage1": stage, "stage2": stage, "stage3": {**stage, "method": method}}
    shared = {key: settings[key] for key in ("encoder", "data", "device")}
    file.write_text(yaml.safe_dump({**shared, **own, "out": str(tmp_path / "out")}))
    result = train(load_config(file, ["teacher.kind=pixel", "head.steps=2"]))
    assert set(result.stages) == {"head", "boost"} and result.stages["boost"]["method"] == method
    assert result.stages["boost"]["fit"]["steps"] == 2 and not sb.status(result.encoder).layers
    trained, total = result.stages["boost"]["fit"]["trainable"]["encoder"]
    assert (trained == total) == (method == "full") and trained
    assert result.stages["boost"]["fit"]["trainable"]["depth_head"] == (49, 49)


def test_the_delta_and_the_heads_are_saved(finished, settings):
    facts = json.loads((finished.delta / "config.json").read_text())["training"]
    assert facts["objective"] == "pixel" and facts["targets"] == ["depth", "segmentation"]
    assert set(facts["classes"]) <= {"box", "sphere", "cylinder", "panel", "cone", "floor", "wall", "ceiling"}
    fresh = sb.load_pretrained(open_encoder(load_config(settings).encoder), finished.delta)
    assert len(sb.status(fresh).layers) == 2
    heads = load_file(Path(settings["out"]) / "boost" / "heads.safetensors")
    assert set(heads) == {f"{head}.{name}" for head in ("depth", "segmentation") for name in ("weight", "bias")}


def test_a_finished_run_is_loaded(finished, settings, monkeypatch):
    monkeypatch.setattr("spatialboost.training.stage.fit", None)  # training anything would fail
    again = train(load_config(settings))
    ours, theirs = (run.teacher.objective.state_dict() for run in (again, finished))
    assert set(ours) == set(theirs) and all(torch.equal(value, theirs[name]) for name, value in ours.items())

"""A teacher as a user would add it: a class and one line in the table are enough to train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from made_up_teacher import ColourTeacher
from spatialboost.encoders import open_encoder
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers import TEACHERS, teacher_class
from spatialboost.teachers.protocol import Stage, Teacher
from spatialboost.training import StageConfig, load_config, train
from spatialboost.training.config import config_model
from training_rows import SHAPE, make_rows, write_parquet


@pytest.fixture
def run_file(monkeypatch, tmp_path) -> Path:
    monkeypatch.setitem(TEACHERS, "made_up", "made_up_teacher:ColourTeacher")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), tmp_path / "encoder.safetensors")
    folder = write_parquet(make_rows(12), tmp_path / "data")
    stage = {"steps": 4, "batch_size": 4, "lr": 1e-2, "log_every": 1}
    run = {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(tmp_path / "encoder.safetensors")},
        "data": {"folders": [str(folder)], "image_size": 32, "held_out": 2},
        "teacher": {"kind": "made_up", "scale": 2.0},
        "head": {**stage, "steps": 12},
        "boost": stage,
        "device": "cpu",
        "out": str(tmp_path / "out"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path / "run.yaml"


def test_a_made_up_teacher_trains_to_a_saved_delta(run_file):
    result = train(load_config(run_file))
    losses = [entry["loss"] for name in ("head", "boost") for entry in result.stages[name]["fit"]["history"]]
    assert losses[-1] < losses[0] and len(losses) == 16
    facts = json.loads((result.delta / "config.json").read_text())["training"]
    assert facts["objective"] == "made_up" and facts["steps"] == 4 and facts["boost"]["lr"] == 0.01
    assert result.stages["head"]["fit"]["trainable"]["encoder"][0] == 0
    fresh = open_encoder(load_config(run_file).encoder)
    assert len(sb.status(sb.load_pretrained(fresh, result.delta)).layers) == 2


def test_a_made_up_teacher_trains_by_the_command(run_file, monkeypatch, capsys):
    from spatialboost import cli

    monkeypatch.setattr("sys.argv", ["spatialboost", "train", "--config", str(run_file)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert (run_file.parent / "out" / "boost" / "delta" / "model.safetensors").exists()
    assert "boost/delta" in capsys.readouterr().out.replace("\n", "")


def test_an_unknown_teacher_is_an_error_with_the_nearest_name():
    with pytest.raises(SpatialBoostError, match=r"unknown teacher 'pixels'; known are .*Did you mean 'pixel'"):
        teacher_class("pixels")


@pytest.mark.parametrize("kind", list(TEACHERS))
def test_every_teacher_says_what_the_trainer_asks(kind):
    teacher = teacher_class(kind)
    assert issubclass(teacher, Teacher) and teacher.Options(kind=kind).kind == kind
    assert [stage for stage in teacher.stages.values() if stage.boosts], "no stage boosts the encoder"
    assert not [name for name, stage in teacher.stages.items() if stage.boosts and stage.cached]
    assert all(issubclass(stage.config, StageConfig) for stage in teacher.stages.values())
    assert "images" in teacher.columns(teacher.Options())


def test_a_stage_named_as_another_key_is_refused(monkeypatch):
    class Clash(ColourTeacher):
        stages: ClassVar = {"layer": Stage(StageConfig)}

    monkeypatch.setattr("spatialboost.training.config.teacher_class", lambda kind: Clash)
    with pytest.raises(SpatialBoostError, match="has a stage 'layer', but this is another key"):
        config_model.__wrapped__("clash")

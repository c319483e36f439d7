"""Stage 3 begins only if the language model answers from the image."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.teachers.language import BoostConfig, ChatDataset, boost_encoder
from spatialboost.training import RowImages
from spatialboost.training.config import load_config
from spatialboost.training.run import train
from training_rows import SHAPE, make_rows, write_parquet


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Images of one grey level, which tells the depth."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), folder / "encoder.safetensors")
    write_parquet(make_rows(64, flat=True), folder / "data")
    return folder


def settings(world: Path, out: Path, **stage3: Any) -> dict[str, Any]:
    stage = {"steps": 150, "batch_size": 16, "save_every": 0, "lr": 3e-3, "matrix_lr": 0.02, "turns": ["depth"]}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(world / "encoder.safetensors")},
        "teacher": {
            "llm": {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}},
            "evaluate": 16,
        },
        "data": {"folders": [str(world / "data")], "image_size": 32, "held_out": 16, "workers": 0},
        "stage1": None,
        "stage2": stage,
        "stage3": {**stage, "steps": 1, "lr": 1e-4, **stage3},
        "device": "cpu",
        "out": str(out),
    }


def test_a_model_that_answers_from_the_image_may_teach(world, tmp_path):
    result = train(load_config(settings(world, tmp_path)))
    found = json.loads((tmp_path / "report.json").read_text())["stages"]["stage3"]["readiness"]
    assert found["ready"]
    assert "answers better from the image" in found["reason"]
    assert found["kinds"]["depth"]["gain"] > 0.1
    assert found["kinds"]["depth"]["conversations"] == 16
    assert set(found["kinds"]) == {"depth"}  # the only kind that stage 3 asks
    assert result.delta is not None
    # the same condition in the function for scripts
    vlm, tokenizer, images = result.teacher.vlm, result.teacher.tokenizer, RowImages(result.encoder, 32)
    rows = open_rows([world / "data"])
    chats, others = (ChatDataset(rows, images, tokenizer, numbers=range(*part)) for part in ((48,), (48, 64)))
    stage = BoostConfig(steps=1, batch_size=4, save_every=0, turns=["depth"])
    assert boost_encoder(vlm, chats, stage, held_out=others, folder=tmp_path / "script").steps == 1


def test_a_model_that_does_not_is_refused_and_nothing_is_boosted(world, tmp_path):
    given = settings(world, tmp_path)
    given["stage2"]["shuffle_answers"] = True
    with pytest.raises(SpatialBoostError, match=r"stage3 is not begun: the language model does not answer better") as e:
        train(load_config(given))
    assert "stage3.require_answers: false" in str(e.value)
    assert not (tmp_path / "stage3").exists()
    assert (tmp_path / "stage2" / "result.json").exists()  # is kept


def test_the_switch_begins_in_any_case_and_says_so(world, tmp_path, caplog):
    given = settings(world, tmp_path, require_answers=False)
    given["stage2"]["steps"] = 1
    with caplog.at_level(logging.WARNING):
        result = train(load_config(given))
    assert "stage3: the language model does not answer better from the image" in caplog.text
    assert not result.stages["stage3"]["readiness"]["ready"]


@pytest.mark.parametrize(("held_out", "evaluate"), [(3, 16), (16, 3)])
def test_too_few_conversations_do_not_tell(world, tmp_path, held_out, evaluate):
    given = settings(world, tmp_path)
    given["data"]["held_out"], given["teacher"]["evaluate"], given["stage2"]["steps"] = held_out, evaluate, 1
    with pytest.raises(SpatialBoostError, match="3 held-out conversations are too few to tell, expected at least 6"):
        train(load_config(given))


def test_what_is_not_measured_is_said(world, tmp_path, caplog):
    given = settings(world, tmp_path)
    given["data"]["held_out"], given["stage2"]["steps"] = 0, 1
    with caplog.at_level(logging.WARNING):
        assert train(load_config(given)).delta is not None
    assert "not known whether stage3 has something to teach" in caplog.text

"""A run of `spatialboost train` answers: with its boosted encoder, and with the base by the folder of a stage."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import spatialboost as sb
from spatialboost.boosting.channel import boosted_layers
from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation import open_answerer
from spatialboost.evaluation.run_answerer import is_run, open_run
from spatialboost.training.config import load_config
from spatialboost.training.run import train
from spatialboost.vlm.chat import encode_chat
from training_rows import SHAPE, make_rows, write_parquet


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from safetensors.torch import save_file
    from timm.models.vision_transformer import VisionTransformer

    base = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), base / "encoder.safetensors")
    stage = {"steps": 2, "batch_size": 4, "lr": 1e-2, "save_every": 0}
    llm = {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 256}}
    config = {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(base / "encoder.safetensors")},
        "teacher": {"kind": "language", "llm": llm, "evaluate": 0},
        "data": {"folders": [str(write_parquet(make_rows(8), base / "data"))], "image_size": 32, "held_out": 0},
        "stage1": None,
        "stage2": stage,
        "stage3": {**stage, "require_answers": False},
        "device": "cpu",
        "out": str(base / "out"),
    }
    return train(load_config(config))


QUESTION = "What is the depth value at coordinate (0.25, 0.75)?"


def images(count):
    return [Image.new("RGB", (40, 30), (60 * number + 20,) * 3) for number in range(count)]


def test_the_weights_are_those_of_the_run(finished):
    ours, theirs = open_run(finished.out, device="cpu").vlm.state_dict(), finished.teacher.vlm.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_reply_is_that_of_the_model(finished, count):
    answerer = open_answerer(finished.out, device="cpu")
    vlm, tokenizer = finished.teacher.vlm.eval(), finished.teacher.tokenizer
    messages = [{"role": "user", "content": "<image>\n" * count + QUESTION}]
    encoded = encode_chat(messages, tokenizer, num_visual_tokens=4, add_generation_prompt=True)
    batch = {name: encoded[name][None] for name in ("input_ids", "visual_mask")}
    if count:
        batch["pixel_values"] = answerer.images({"images": images(count)})
    ids = vlm.generate(**batch, max_new_tokens=6, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    expected = tokenizer.decode(ids[0], skip_special_tokens=True).strip()
    assert answerer(QUESTION, images(count), max_new_tokens=6) == expected


def test_the_folder_of_a_stage_is_the_model_of_that_time(finished):
    base = open_run(finished.out / "stage2", device="cpu")
    assert not boosted_layers(base.vlm.encoder) and boosted_layers(open_run(finished.out, device="cpu").vlm.encoder)
    assert base.facts["stages"] == ["stage2"]
    pixels = base.images({"images": images(1)})
    with torch.no_grad(), sb.disabled(finished.encoder):
        assert torch.allclose(base.vlm.encoder(pixels), finished.encoder.eval()(pixels), atol=1e-5)


def test_the_data_of_the_run_is_not_needed(finished):
    config = json.loads((finished.out / "config.json").read_text())
    config["data"]["folders"] = ["gone"]
    (finished.out / "config.json").write_text(json.dumps(config))
    assert open_run(finished.out, device="cpu").facts["stages"] == ["stage2", "stage3"]


def test_runs_that_cannot_answer(finished, tmp_path):
    assert is_run(finished.out) and is_run(finished.out / "stage2") and not is_run(tmp_path)
    with pytest.raises(SpatialBoostError, match="delta is no stage of the run"):
        open_run(_folder(finished.out / "delta"))
    config = json.loads((finished.out / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpatialBoostError, match="no stage is finished"):
        open_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "teacher": {"kind": "pixel"}}))
    with pytest.raises(SpatialBoostError, match="a run of the teacher 'pixel', which does not answer"):
        open_run(tmp_path)


def _folder(path):
    path.mkdir(exist_ok=True)
    return path

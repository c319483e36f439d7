from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal import answer, read_facts
from spatialboost.multimodal.load import load_vlm
from tiny_language_models import save_llama
from tiny_vlms import build

EXAMPLE = Path(__file__).parents[2] / "examples" / "scene_adapter.py"


def test_a_folder(tmp_path, samples):
    model, processor = build("qwen2_5_vl")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, own = load_vlm(str(tmp_path))
    assert type(loaded) is type(model) and not loaded.training
    assert answer(loaded, own, samples, max_new_tokens=3) == answer(model, processor, samples, max_new_tokens=3)
    assert load_vlm(str(tmp_path), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_what_is_no_vlm(tmp_path):
    save_llama(tmp_path, ["How many?"])
    with pytest.raises(SpatialBoostError, match="from which no AutoModelForImageTextToText can be built"):
        load_vlm(str(tmp_path))


def test_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--tiny"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("before:", "after:", "text alone:"))
    assert read_facts("scene_adapter/adapter.safetensors")["training"]["steps"] == 2

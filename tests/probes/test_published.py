"""Published protocols: every one runs, what is given wins, and the result says what was changed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from spatialboost import cli
from spatialboost.errors import SpatialBoostError
from spatialboost.probes import from_protocol, open_segmentation, read_image_folder, run_probe
from spatialboost.probes.published import PROTOCOLS
from spatialboost.scenes.rooms import Rooms

NAMES = [(task, name) for task, known in PROTOCOLS.items() for name in known]
SMALL = {
    "depth": {"image_size": (33, 50), "steps": 2, "batch": 2, "channels": 8},
    "segmentation": {"image_size": 30, "steps": 2, "batch": 2},
    "linear": {"image_size": 32, "steps": 2, "batch": 8},
    "knn": {"image_size": 32, "k": 2},
}


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=2, num_classes=0, dynamic_img_size=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images that are also labelled pixel by pixel."""
    out, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in ("images", "labels", "classes/a", "classes/b"):
            (out / split / kind).mkdir(parents=True)
        for index in range(4):
            image = Image.fromarray(rng.integers(0, 255, (40, 52, 3)).astype(np.uint8))
            image.save(out / split / "images" / f"{index}.png")
            image.save(out / split / "classes" / "ab"[index % 2] / f"{index}.png")
            Image.fromarray(rng.integers(0, 3, (40, 52)).astype(np.uint8)).save(out / split / "labels" / f"{index}.png")
    return out


def splits_for(task: str, folder: Path):
    if task == "depth":
        return Rooms(4, size=48), Rooms(2, first=9, size=48)
    if task == "segmentation":
        return open_segmentation(folder)
    return tuple(read_image_folder(folder / split / "classes") for split in ("train", "test"))


@pytest.mark.parametrize(("task", "name"), NAMES)
def test_every_protocol_runs_and_is_told(task, name, folder):
    probe, options = from_protocol(task, name, **SMALL[task])
    result = run_probe(probe, {"mine": tiny_vit()}, *splits_for(task, folder), options)
    assert result.settings["protocol"].startswith(f"{name}, but image_size ")
    assert json.dumps(result.to_dict()) and len(result.rows) == 2
    assert result.settings["resolution"] == ([32, 48] if task == "depth" else [32, 32])  # whole patches
    known = PROTOCOLS[task][name]
    if task != "knn":
        assert result.settings["seeds"] == [0] and result.settings["rates"] == known["rates"]
    layers = {"quarters": [0, 1, 2, 3], (-4, -3, -2, -1): [0, 1, 2, 3], -1: 3}
    assert result.settings["layer"] == layers[known["layer"]]


def test_true_frames_of_nyu_follow_the_protocol(assets):
    demo = assets / "nyu_kitti_demo" / "data"
    if not demo.is_dir():
        pytest.skip("nyu_kitti_demo not found")
    probe, options = from_protocol("depth", "nyud-linear", steps=2, batch=2, image_size=(96, 128), num_panels=1)
    result = run_probe(probe, {"mine": tiny_vit()}, f"nyu:{demo}", f"nyu:{demo}", options)
    assert result.settings["views"] == [3, 3] and result.settings["resolution"] == [96, 128]
    assert 0.2 < result.spread("mine", "rmse").mean < 5 and len(result.panels) == 1


def test_values_of_the_public_protocols():
    probe, options = from_protocol("depth", "nyud-linear")
    assert (probe.head, probe.bins, probe.min_depth, probe.max_depth, probe.crop) == ("linear", 256, 0.001, 10, "eigen")
    assert (probe.steps, round(probe.warmup * probe.steps), probe.rates) == (38_400, 12_800, [3e-4])
    assert (probe.batch, probe.weight_decay, probe.beta2, probe.clip) == (16, 1e-4, 0.99, 35)
    assert options.protocol == "nyud-linear" and options.seeds == (0,) and options.subset == 1
    assert from_protocol("depth", "kitti-dpt")[0].max_depth == 80
    probe, options = from_protocol("segmentation", "ade20k-linear")
    assert (probe.steps, round(probe.warmup * probe.steps), int(probe.stride * options.image_size)) == (
        40_000,
        1500,
        341,
    )
    assert from_protocol("segmentation", "ade20k-ms")[1].layer == (-4, -3, -2, -1)
    assert from_protocol("knn", "imagenet-knn")[0].temperature == 0.07


def test_a_field_on_the_command_line_wins(tmp_path, monkeypatch, capsys):
    words = "spatialboost probe depth --encoder timm:vit_tiny_patch16_224 --random-weights --device cpu --data rooms:6"
    words += " --protocol nyud-linear --steps 3 --batch 2 --image-size 30x50 --no-flips --rates 0.01 --rates 0.02"
    words += f" --features stored --bins 256 --num-panels 1 --layer 3 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    settings = json.loads((tmp_path / "depth.json").read_text())["settings"]
    assert settings["resolution"] == [32, 48] and settings["layer"] == 3 and settings["rates"] == [0.01, 0.02]
    assert settings["mirrored views in the test"] == "no" and settings["crop"] == "eigen"
    assert settings["trained on"] == "whole views, read once" and settings["largest gradient"] == 35.0
    name, _, changed = settings["protocol"].partition(", but ")
    assert name == "nyud-linear" and "bins" not in changed  # the same as the protocol's
    for each in ("steps 3", "batch 2", "image_size 30 50", "flips False", "rates 0.01 0.02", "features stored"):
        assert each in changed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "depth --protocol nyud-liner",
            "unknown protocol 'nyud-liner'; known are kitti-dpt, .*Did you mean 'nyud-linear'",
        ),
        ("segmentation --protocol nyud-linear", "unknown protocol 'nyud-linear'; known are ade20k-linear"),
        ("depth --image-size 20x20x20", "image_size is '20x20x20'; expected pixels such as 224"),
        ("depth --layer three", "layer is 'three'; expected whole numbers, or quarters alone"),
    ],
)
def test_mistakes_on_the_command_line(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", f"spatialboost probe {words} --encoder timm:x --data rooms:6".split())
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code != 0
    import re

    assert re.search(said, " ".join(capsys.readouterr().err.split()))


def test_wrong_names_say_what_is_right():
    with pytest.raises(SpatialBoostError, match="probe matches has no published protocols; those that have are depth"):
        from_protocol("matches", "nyud-linear")
    with pytest.raises(SpatialBoostError, match=r"unknown option of the probe knn 'kk'.*Did you mean 'k'"):
        from_protocol("knn", "imagenet-knn", kk=3)


def test_the_docs_list_every_protocol():
    text = (Path(__file__).parents[2] / "docs" / "probes.md").read_text()
    for _, name in NAMES:
        assert f"`{name}`" in text

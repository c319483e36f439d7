"""Several views of plain photographs: chosen by LPIPS, placed by `matched-poses`. Only the depth is given: measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from spatialboost.scenes.data_command import app
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.extract.registry import EXTRACTORS
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.readers.rgbd import RGBDFolder

FRAMES = range(0, 24, 3)  # of a walk; farther apart, most pairs share too little


class Measured:
    """An extractor that knows the measured depth of each photograph, as a perfect network would."""

    kind, name = "depth", "measured"

    def __init__(self, *, folder: str) -> None:
        self.frames = RGBDFolder(folder, size=240)

    def __call__(self, views):
        found = []
        for view in views:
            frame = self.frames[self.frames.names.index(view.source.removesuffix(".png"))]
            found.append({"depth_HW": frame.depth_HW, "intrinsics_33": frame.intrinsics_33})
        return found


@pytest.fixture
def photos(assets, tmp_path, monkeypatch):
    """Frames as plain photographs: no depth, no intrinsics, no poses."""
    pytest.importorskip("pycolmap")
    pytest.importorskip("lpips")
    monkeypatch.setitem(EXTRACTORS, "measured", Measured)
    frames = RGBDFolder(assets / "rgbd_room", size=240)
    (tmp_path / "photos").mkdir()
    for number in FRAMES:
        Image.fromarray(frames[number].image_HW3).save(tmp_path / "photos" / f"{frames.names[number]}.png")
    return tmp_path / "photos"


def test_photographs_become_pairs_with_poses(photos, assets, tmp_path):
    import torchvision
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet.safetensors")
    # Random weights give smaller distances than the pretrained ones of the paper's limits
    choose = f"lpips:net=squeeze,weights={tmp_path / 'squeezenet.safetensors'},low=0.06,high=0.16"
    words = ["build", "--source", "images", "--path", photos, "--views", 2, "--choose", choose, "--size", 240]
    words += ["--extract", f"measured:folder={assets / 'rgbd_room'}", "--extract", "matched-poses"]
    words += ["--extract", "superpixels", "--turn", "camera_translation=1", "--turn", "depth=1", "--turn", "closer=1"]
    result = CliRunner().invoke(app, [str(word) for word in [*words, "--out", tmp_path / "out"]])
    assert result.exit_code == 0, result.exception

    frames, moved = RGBDFolder(assets / "rgbd_room"), 0
    rows = open_rows([tmp_path / "out"])
    assert len(rows) >= 4
    for row in rows:
        meta = json.loads(row["meta"])
        assert len(row["images"]) == 2
        assert check_conversation(row["messages"], meta) == []
        names = [view["source"].removesuffix(".png") for view in meta["views"]]
        first, last = (frames[frames.names.index(name)].pose_44 for name in names)
        found_44 = np.linalg.inv(row["poses"][0]) @ row["poses"][1]
        true_44 = np.linalg.inv(first) @ last
        cosine = (np.trace(found_44[:3, :3].T @ true_44[:3, :3]) - 1) / 2
        assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 1.5
        assert np.linalg.norm((found_44 - true_44)[:3, 3]) < 0.08
        for turn in meta["turns"]:
            if turn["kind"] == "camera_translation":
                moved += 1
                assert np.allclose(turn["step"], true_44[:3, 3], atol=0.08)
    assert moved >= 2
    assert json.loads((tmp_path / "out/manifest.json").read_text())["settings"]["source"].startswith(
        "images photos 240 px 2 views chosen by LPIPS squeeze 0.06 to 0.16 with measured, "
    )

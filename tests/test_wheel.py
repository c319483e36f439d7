"""The wheel holds what the library needs beside its code: templates, small weights and the marker for types."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_file_of_the_library(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="the build backend of pyproject.toml")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as file:
        names = {name for name in file.namelist() if name.startswith("spatialboost/")}
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "spatialboost").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected
    for name in ("py.typed", "experiments/templates/experiment.html.j2", "scenes/dataset/templates/page.html.j2"):
        assert f"spatialboost/{name}" in names
    assert {"config.json", "model.safetensors"} <= {Path(name).name for name in names if "/assets/" in name}

"""Rows and models so small that a test can train on them."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from spatialboost.teachers.language import ChatDataset
from spatialboost.training import RowImages
from spatialboost.vlm import SpatialVLM, load_llm
from spatialboost.vlm.projector import build_projector

SHAPE = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}


def make_rows(count: int, seed: int = 0, *, flat: bool = False) -> list[dict[str, Any]]:
    """Rows with images of 2 x 2 grey squares, or of one square if flat. A brighter square is nearer."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        depths = np.broadcast_to(rng.choice([1.0, 2.0, 3.0, 4.0], size=(1, 1) if flat else (2, 2)), (2, 2))
        grey = (250 - 60 * depths).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        data = io.BytesIO()
        Image.fromarray(np.stack([grey] * 3, -1)).save(data, "PNG")
        places = [(x, y) for x in (0, 1) for y in (0, 1)]
        first, second = (places[i] for i in rng.permutation(4)[:2])
        at = {place: f"({0.25 + place[0] / 2:.2f}, {0.25 + place[1] / 2:.2f})" for place in places}
        near = 1 if depths[first[::-1]] <= depths[second[::-1]] else 2
        messages = [
            {"role": "user", "content": f"<image>\nWhat is the depth value at coordinate {at[first]}?"},
            {"role": "assistant", "content": f"The depth is {depths[first[::-1]]:.3f} meters."},
            {"role": "user", "content": f"Which point is closer? Point 1 : {at[first]} Point 2 : {at[second]}"},
            {"role": "assistant", "content": f"Point {near} is closer than Point {3 - near}."},
        ]
        meta = {"turns": [{"kind": "depth"}, {"kind": "closer"}]}
        images = [{"bytes": data.getvalue(), "path": None}]
        rows.append({"images": images, "messages": messages, "meta": json.dumps(meta)})
    return rows


def write_parquet(rows: list[dict[str, Any]], folder: Path) -> Path:
    import datasets

    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
            "meta": datasets.Value("string"),
        }
    )
    folder.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "part-00000.parquet")
    return folder


def build(rows: list[dict[str, Any]], **options: Any) -> tuple[SpatialVLM, Any, ChatDataset]:
    torch.manual_seed(0)
    encoder = VisionTransformer(**SHAPE).eval()
    shape = {"width": 32, "layers": 1, "heads": 2, "max_length": 128}
    llm, tokenizer = load_llm("small", conversations=[row["messages"] for row in rows], **shape)
    vlm = SpatialVLM(encoder, llm, projector=build_projector(encoder, llm))  # one that counts as trained
    return vlm, tokenizer, ChatDataset(rows, RowImages(encoder, 32), tokenizer, **options)


# Fixtures. The conftest.py of each test folder that trains imports them.


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    return make_rows(24)


@pytest.fixture
def parts(rows) -> tuple[SpatialVLM, Any, ChatDataset]:
    return build(rows)


@pytest.fixture
def parquet(rows, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return write_parquet(rows, tmp_path / "data")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Use one thread: for models this small, more threads make tests slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def number_of(number, row):
    """An example with the number of its row; rows marked as bad raise an error. Workers import it from here."""
    if row.get("bad"):
        raise ValueError(f"bad\nrow {number}")
    return {"number": torch.tensor(number)}

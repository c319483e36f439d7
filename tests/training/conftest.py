from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from spatialboost.training.data import ChatDataset
from spatialboost.vlm import SpatialVLM
from training_rows import build, make_rows, write_parquet


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
def _quiet():
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Models this small wait for each other's threads more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

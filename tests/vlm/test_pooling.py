from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language import AlignConfig, ChatDataset, align, answer_accuracy
from spatialboost.training import RowImages, load_config, train
from spatialboost.vlm import SpatialVLM, encode_chat
from spatialboost.vlm.llms import build_small_llm
from spatialboost.vlm.places import grid_code
from spatialboost.vlm.pooling import PatchPool
from training_rows import make_rows, write_parquet

SMALL = {"width": 32, "layers": 1, "heads": 2}
QUICK = {"steps": 1, "batch_size": 4, "save_every": 0, "lr": 1e-3}
WIDE = {"img_size": (32, 64), "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}


def wide_encoder():
    """4 rows and 8 columns of patches."""
    torch.manual_seed(0)
    return VisionTransformer(**WIDE).eval()


def test_a_token_is_the_mean_of_its_square():
    patches = torch.arange(24.0).view(1, 24, 1).expand(2, 24, 3)  # 4 rows of 6
    pooled = PatchPool((4, 6), 2)(patches)
    assert pooled[1, :, 2].tolist() == [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]
    assert PatchPool((4, 6), 1)(patches) is patches


@pytest.mark.parametrize(("grid", "size"), [((4, 6), 4), ((5, 6), 2), ((4, 6), 0)])
def test_squares_must_fill_the_grid(grid, size):
    with pytest.raises(SpatialBoostError, match=rf"pool is {size}, but an image has {grid[0]} x {grid[1]} patches"):
        PatchPool(grid, size)


def test_pooled_tokens_enter_the_language_model(chat):
    encoder, (llm, tokenizer) = wide_encoder(), build_small_llm([chat], **SMALL)
    pool = PatchPool((4, 8), 2)
    vlm = SpatialVLM(encoder, llm, pool=pool, grid=pool.grid)
    encoded = {k: v[None] for k, v in encode_chat(chat, tokenizer, num_visual_tokens=pool.num_tokens).items()}
    images = torch.randn(1, 3, 32, 64)
    embeds = vlm.embed(encoded["input_ids"], encoded["visual_mask"], pixel_values=images)
    patches = read_tokens(encoder, images).patches.view(2, 2, 4, 2, 48).mean((1, 3)).view(1, 8, 48)
    expected = vlm.projector(patches)[0] + grid_code((2, 4), 32)
    torch.testing.assert_close(embeds[encoded["visual_mask"]], expected)


def test_a_stage_and_its_scores_with_pooling(tmp_path):
    rows = make_rows(8)
    encoder, (llm, tokenizer) = wide_encoder(), build_small_llm([row["messages"] for row in rows], **SMALL)
    images, pool = RowImages(encoder, (32, 64)), PatchPool((4, 8), 2)
    dataset = ChatDataset(rows, images, tokenizer, pool=pool)
    assert int(dataset[0]["visual_mask"].sum()) == 8 and dataset[0]["pixel_values"].shape == (1, 3, 32, 64)
    vlm = SpatialVLM(encoder, llm, pool=pool)
    align(vlm, dataset, AlignConfig(**QUICK), folder=tmp_path)  # with features from the store
    scores = answer_accuracy(vlm, tokenizer, dataset, rows=4, progress=False)
    assert {score.kind for score in scores} == {"depth", "closer"} and all(score.answers == 4 for score in scores)


def test_a_run_with_pooling(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = write_parquet(make_rows(8), tmp_path / "data")
    config = {
        "encoder": {"library": "timm", "name": "VisionTransformer", "kwargs": WIDE},
        "data": {"folders": [folder], "image_size": [32, 64], "held_out": 2, "workers": 0},
        "teacher": {"llm": {"name": "small", "kwargs": SMALL}, "pool": 4, "places": True, "evaluate": 2},
        "stage1": None,
        "stage2": QUICK,
        "stage3": {**QUICK, "require_answers": False},
        "device": "cpu",
        "out": tmp_path / "run",
    }
    with pytest.raises(SpatialBoostError, match="pool is 3, but an image has 4 x 8 patches"):
        train(load_config(config, ["teacher.pool=3"]))
    assert not (tmp_path / "run" / "config.json").exists()
    result = train(load_config(config))
    assert result.teacher.num_tokens == 2 and result.delta.is_dir()

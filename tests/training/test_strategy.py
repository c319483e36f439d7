from __future__ import annotations

import json

import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.training.config import StageConfig, load_config
from spatialboost.training.processes import begin
from spatialboost.training.strategy import StrategyConfig, chosen_strategy
from spatialboost.training.zero import zero_settings


def given(strategy):
    return {"encoder": "timm:vit_tiny_patch16_224", "data": {"folders": ["rooms"]}, "out": "run", "strategy": strategy}


def test_a_strategy_is_a_name_or_a_section():
    assert load_config(given("fsdp2")).strategy == StrategyConfig(kind="fsdp2")
    assert load_config(given({"kind": "fsdp2", "offload": True})).strategy.offload
    with pytest.raises(SpatialBoostError, match="ddp has no key 'reshard'; it has none"):
        load_config(given({"kind": "ddp", "reshard": False}))
    with pytest.raises(SpatialBoostError, match="'ddp', 'fsdp2' or 'deepspeed', found 'fsdp'"):
        load_config(given("fsdp"))


def test_what_accelerate_says_is_done(monkeypatch):
    assert chosen_strategy(None).kind == "ddp"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SpatialBoostError, match="`fsdp_version: 2`"):
        chosen_strategy(None)
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    with pytest.raises(SpatialBoostError, match="`strategy: ddp`, and accelerate's configuration asks for fsdp2"):
        chosen_strategy(StrategyConfig())
    assert chosen_strategy(None) == StrategyConfig(kind="fsdp2", reshard=False, offload=False)
    assert chosen_strategy(None).kind == "ddp"  # taken out of the environment, so that accelerate does not shard, too


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SpatialBoostError, match="has LOCAL_RANK but not RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"):
        begin("cpu")


def test_a_file_of_deepspeed(tmp_path):
    file = tmp_path / "zero.json"
    strategy = StrategyConfig(kind="deepspeed", file=file)
    file.write_text(json.dumps({"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}, "steps_per_print": 9}))
    settings = zero_settings(strategy, StageConfig(batch_size=3))
    assert settings["zero_optimization"] == {"stage": 2} and settings["train_micro_batch_size_per_gpu"] == 3
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    with pytest.raises(SpatialBoostError, match="ZeRO of stage 3; expected 1 or 2"):
        zero_settings(strategy, StageConfig())
    file.write_text(json.dumps({"optimizer": {"type": "Adam"}}))
    with pytest.raises(SpatialBoostError, match="the section 'optimizer'"):
        zero_settings(strategy, StageConfig())

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

from spatialboost.errors import SpatialBoostError
from spatialboost.training import train_command
from spatialboost.training.config import load_config
from spatialboost.training.data import RowCollator
from spatialboost.training.optimizers import build_optimizer
from spatialboost.training.plan import (
    ONE,
    STRATEGIES,
    StagePlan,
    _batches,
    _features,
    _outline,
    _plan_stage,
    _prepare,
    plan,
)
from spatialboost.training.plan_table import plan_tables
from spatialboost.training.run import _Run
from spatialboost.training.stage import prepare_stage
from spatialboost.training.step_memory import StepMemory, _Tracker
from training_rows import make_rows, write_parquet

SHAPE = {"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 2, "num_heads": 3, "num_classes": 0}
LLM = {"width": 128, "layers": 2, "heads": 4}
STAGES = {"stage1": "language", "stage2": "language", "stage3": "language", "head": "pixel", "boost": "pixel"}
BATCH = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The same row many times, so that each batch is as large as the largest row says."""
    return write_parquet(make_rows(1) * 12, tmp_path_factory.mktemp("data") / "rows")


def settings(data: Path, kind: str, **changes: Any) -> dict[str, Any]:
    llm = {"name": "small", "kwargs": {**LLM, "max_length": 256}}
    names = [name for name, owner in STAGES.items() if owner == kind]
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "pretrained": False},
        "data": {"folders": [str(data)], "image_size": 64, "held_out": 0},
        "teacher": {"kind": "language", "llm": llm} if kind == "language" else {"kind": "pixel"},
        **{name: {"batch_size": BATCH, **changes} for name in names},
        "out": str(data.parent / "run"),
    }


class Real:
    """A run of the configuration with real weights, of which single steps are taken as the Trainer takes them."""

    def __init__(self, config: Any, name: str) -> None:
        run = _Run(config)
        self.stage, self.teacher, self.objective = getattr(config, name), run.teacher, run.teacher.objective
        self.cached = self.teacher.stages[name].cached
        dataset = run.dataset(self.stage, run.training)
        self.batch = RowCollator(self.teacher.collate)([dataset[i] for i in range(BATCH)])
        groups = prepare_stage(self.teacher, name, self.stage, size=dataset.images.size)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = build_optimizer(groups, beta2=self.stage.beta2, fused=True)
        self.objective.train()

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        given = dict(batch)
        if self.cached:
            given["patch_features"] = _features(self.objective, given.pop("pixel_values"))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.stage.bf16):
            return self.objective(**given)["loss"]

    def step(self) -> None:
        batch = {key: value.clone() for key, value in self.batch.items()}
        self.forward(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.stage.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def standing(self) -> int:
        """Bytes of weights and of the optimiser's state."""
        tensors = [*self.objective.parameters(), *self.objective.buffers()]
        parts = getattr(self.optimizer, "parts", [self.optimizer])
        tensors += [each for part in parts for state in part.state.values() for each in state.values()]
        return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())

    def peak(self) -> int:
        """The largest memory that torch's allocator has given out in a step, by its own events."""
        self.step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.step()
        events = profiler.profiler.kineto_results.events()
        return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


def pixel_rows() -> list[dict[str, Any]]:
    return [{**row, "depths": [np.full((8, 8), 2000, np.uint16)]} for row in make_rows(1) * 12]


def test_a_loss_in_parts_needs_what_the_plan_says(data, monkeypatch):
    config, found = load_config(settings(data, "language")), []
    for most in (2**25, 2**11):
        monkeypatch.setattr("spatialboost.vlm.model.MOST_LOGITS", most)
        found.append(_plan_stage(_outline(config), "stage2", config.stages["stage2"], (BATCH,)).memory[BATCH])
        assert found[-1].working() == pytest.approx(Real(config, "stage2").peak(), rel=0.05)
    assert found[1].activations < found[0].activations


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("stage1", {}),
        ("stage2", {"matrix_lr": 0.01}),
        ("stage3", {"bf16": True}),
        ("stage3", {"checkpointing": True}),
        ("stage3", {"pack": True}),
        ("head", {}),
        ("boost", {}),
    ],
    ids=str,
)
def test_the_plan_is_what_a_step_needs(data, name, changes, monkeypatch):
    if STAGES[name] == "pixel":
        monkeypatch.setattr("spatialboost.training.run._open", lambda config, columns: pixel_rows())
        monkeypatch.setattr("spatialboost.training.plan._rows", lambda config: pixel_rows())
    config = load_config(settings(data, STAGES[name], **changes))
    memory = _plan_stage(_outline(config), name, getattr(config, name), (BATCH,)).memory[BATCH]
    real = Real(config, name)
    assert memory.working() == pytest.approx(real.peak(), rel=0.05)
    assert memory.weights + memory.optimizer == real.standing()


@pytest.mark.parametrize("bf16", [False, True])
def test_exactly_what_autograd_saves_is_counted(data, bf16):
    """Every storage that the backward needs, in a step with values and in one without."""
    config = load_config(settings(data, "language", bf16=bf16))
    real, parts = Real(config, "stage3"), _outline(config)
    make_batch, _ = _batches(parts, "stage3", config.stages["stage3"])
    _prepare(parts, "stage3", config.stages["stage3"])
    outline = parts.teacher.objective.train()
    with _Tracker(outline), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        planned = saved(lambda: outline(**make_batch(BATCH))["loss"], outline)
    assert planned == saved(lambda: real.forward(real.batch), real.objective)


def saved(forward: Callable[[], torch.Tensor], objective: torch.nn.Module) -> list[int]:
    """The bytes of each storage that the forward keeps for the backward, apart from weights and numbers of tokens."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    own = {each.untyped_storage()._cdata for each in (*objective.parameters(), *objective.buffers())}
    assert loss.requires_grad
    return sorted(storage.nbytes() for key, storage in kept.items() if key not in own)


def test_a_larger_batch_is_computed_from_measured_ones(data):
    config = load_config(settings(data, "language"))
    planned = _plan_stage(_outline(config), "stage3", config.stages["stage3"])
    again = _plan_stage(_outline(config), "stage3", config.stages["stage3"], (40,))
    assert planned.total(batch_size=40) == pytest.approx(again.total(batch_size=40), rel=0.01)
    card = again.total(batch_size=40) + 1000
    found = planned.largest_batch(card)
    assert planned.total(batch_size=found) <= card < planned.total(batch_size=found + 1)
    assert abs(found - 40) <= 1 and planned.largest_batch(1000) == 0


def test_strategies_divide_what_they_say():
    memory = StepMemory(weights=800, gradients=80, optimizer=160, activations=50, moments={0: 60, 80: 10})
    stage = StagePlan("stage3", 1, "", 0, {1: memory}, gathered=(240, 24))
    ddp, zero2, fsdp2 = STRATEGIES
    assert stage.total(ONE) == 800 + 160 + (80 + 10)
    assert stage.total(ddp, 8) == stage.total(ONE) + 80  # the gradients a second time, in buckets
    assert stage.total(zero2, 8) == 800 + 160 // 8 + max(60, 80 // 8 + 10) + 24 * 7 // 8
    assert stage.total(fsdp2, 8) == 800 // 8 + 160 // 8 + max(60, 80 // 8 + 10) + 24 * 7 // 8 + 240 * 7 // 8


def test_what_would_help_is_computed_too(data, monkeypatch):
    config = load_config(settings(data, "language"), ["stage1=null", "stage2=null"])
    row = _plan_stage(_outline(config), "stage3", config.stages["stage3"], (1,)).total(batch_size=1)
    monkeypatch.setattr("spatialboost.training.plan.GB", row // 25)  # not even one row fits 24 of these
    (found,) = plan(config)
    assert found.savers["batch_size=1"] == row
    assert list(found.savers)[1] == "stage3.checkpointing=true"
    assert found.savers["stage3.checkpointing=true"] < row
    text = "\n".join(str(part) for part in plan_tables([found], gpus=8))
    assert "stage3.checkpointing=true" in text


# --- the command


def command(file: Path, *options: str) -> Any:
    return CliRunner().invoke(train_command.app, ["--config", str(file), "--plan", *options])


def test_neither_weights_nor_data_are_needed(tmp_path):
    file = tmp_path / "run.yaml"
    content = settings(tmp_path / "not-there" / "rows", "language")
    content["encoder"] |= {"weights": "not-there.safetensors"}
    del content["encoder"]["pretrained"]
    file.write_text(yaml.safe_dump(content))
    result = command(file, "--gpus", "4", "-o", "stage1=null", "-o", "stage2=null")
    assert result.exit_code == 0, result.output
    assert "FSDP2" in result.output and "made up" in result.output and "stage1" not in result.output
    assert not (tmp_path / "not-there").exists()


def test_a_model_whose_configuration_cannot_be_reached_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = tmp_path / "run.yaml"
    content = settings(tmp_path / "rows", "language")
    content["teacher"]["llm"] = {"name": "nobody/no-such-model"}
    file.write_text(yaml.safe_dump(content))
    result = command(file)
    assert isinstance(result.exception, SpatialBoostError)
    assert "nobody/no-such-model" in str(result.exception) and "config.json" in str(result.exception)


# --- the paper's setting


def test_the_papers_models_are_planned_from_their_sizes_alone(tmp_path):
    """DINOv3 ViT-L/16 and Qwen2-7B: the numbers of parameters are those that their authors give."""
    from transformers import DINOv3ViTConfig, Qwen2Config

    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    DINOv3ViTConfig(**large, patch_size=16, num_register_tokens=4).save_pretrained(tmp_path / "dinov3-l")
    seven = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    qwen = Qwen2Config(**seven, vocab_size=152064, num_key_value_heads=4, tie_word_embeddings=False)
    qwen.save_pretrained(tmp_path / "qwen2-7b")
    config = load_config(
        {
            "encoder": {"library": "hf", "name": str(tmp_path / "dinov3-l")},
            "data": {"folders": [str(tmp_path / "none")], "image_size": 224},
            "teacher": {"kind": "language", "llm": {"name": str(tmp_path / "qwen2-7b"), "dtype": "bfloat16"}},
            "out": str(tmp_path / "run"),
        }
    )
    parts = _outline(config)
    vlm = parts.teacher.vlm
    assert sum(p.numel() for p in vlm.llm.parameters()) == 7_615_616_512
    assert sum(p.numel() for p in vlm.encoder.parameters()) == 303_129_600
    groups = _prepare(parts, "stage3", config.stages["stage3"])
    trained = sum(p.numel() for group in groups for p in group["params"])
    assert trained == 24 * (4 * 1024 * 1024 + 3 * 1024 + 1024)  # q, k, v, output; k has no bias; the gate

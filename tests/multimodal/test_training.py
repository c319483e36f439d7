from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from multimodal_frames import frame
from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal import (
    EncoderLatents,
    FrameOptions,
    Sample,
    VisualInstructions,
    answer,
    find_adapter,
    load_adapter,
    scenes,
)
from spatialboost.multimodal.attach import require_adapter
from spatialboost.multimodal.batches import InstructionCollator
from spatialboost.multimodal.training import train_adapter, training_arguments
from tiny_vlms import build


@pytest.fixture
def rows(tmp_path) -> VisualInstructions:
    """Eight rows of VSI-590K's layout: folders of one to three frames, and one broken row."""
    lines = []
    for i in range(8):
        folder = tmp_path / "media" / f"scene{i}"
        folder.mkdir(parents=True)
        for number in range(1 + i % 3):
            Image.fromarray(frame(42, 56, 10 * i + number)).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nHow many chairs are there?"}, {"from": "gpt", "value": "Two"}]
        lines.append({"conversations": turns, "video": f"scene{i}" if i != 3 else "missing.mp4"})
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return VisualInstructions(tmp_path / "rows.jsonl", tmp_path / "media", FrameOptions(width=56))


@pytest.fixture
def latents() -> EncoderLatents:
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=28, patch_size=14, embed_dim=24, depth=1, num_heads=2, num_classes=0)
    return EncoderLatents(encoder, image_size=28)


def arguments(out: Path, steps: int, **others: Any) -> Any:
    settings = {"max_steps": steps, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "save_steps": 2}
    return training_arguments(
        out, **{**settings, "gradient_accumulation_steps": 1, "lr_scheduler_type": "constant", **others}
    )


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def loss(model: Any, processor: Any, rows: VisualInstructions, latents: EncoderLatents) -> float:
    batch = InstructionCollator(processor)([rows.read(i) for i in (0, 1)])
    with torch.no_grad(), scenes(model, latents(batch.pop("views"))):
        return float(model.eval()(**batch).loss)


@pytest.mark.parametrize(("name", "llm"), [("qwen2_5_vl", "frozen"), ("llava", "full"), ("qwen2_5_vl", "lora")])
def test_training_resumes_to_the_same_result(rows, latents, tmp_path, name, llm, caplog):
    model, processor = build(name)
    vision = {n: p.clone() for n, p in model.named_parameters() if "language_model" not in n and "lm_head" not in n}
    text = {n: p.clone() for n, p in model.named_parameters() if n not in vision}
    file = train_adapter(model, processor, latents, rows, arguments(tmp_path / "whole", 4), llm=llm, lora_rank=2)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in vision.items())  # tower, merger and projector
    left = {n.replace(".base_layer", ""): p for n, p in after.items()}
    moved = [n for n, p in text.items() if not torch.equal(left[n], p)]
    assert bool(moved) == (llm == "full")
    assert not find_adapter(model).adds_zero() and list(rows.left_out) == ["rows.jsonl row 3"]
    assert (
        file.parent / {"full": "model/config.json", "lora": "lora/adapter_config.json", "frozen": FILE}[llm]
    ).is_file()
    assert "1 rows were left out: rows.jsonl row 3" in caplog.text
    if llm == "full":  # a plain model for everybody else
        plain = dict(type(model).from_pretrained(file.parent / "model").named_parameters())
        assert plain.keys() == {n for n in after if "scene_adapter." not in n}
        assert all(torch.equal(after[n], p) for n, p in plain.items())

    for steps in (2, 4):  # stopped after two steps, and continued by another process
        resumed, processor = build(name)
        own = arguments(tmp_path / "parts", steps)
        train_adapter(resumed, processor, latents, rows, own, llm=llm, lora_rank=2, resume=True)
    again = trained(resumed)
    assert again.keys() == trained(model).keys()
    assert all(torch.equal(again[n], p) for n, p in trained(model).items())


FILE = "adapter.safetensors"


def test_a_trained_adapter_is_loaded_into_a_new_model(rows, latents, tmp_path):
    model, processor = build("qwen2_5_vl")
    file = train_adapter(model, processor, latents, rows, arguments(tmp_path / "run", 8), llm="frozen")
    plain, _ = build("qwen2_5_vl")
    loaded = load_adapter(build("qwen2_5_vl")[0], file)
    assert loss(loaded, processor, rows, latents) == loss(model, processor, rows, latents)
    measured = [require_adapter(each).standard.mean_D for each in (model, loaded)]
    assert measured[0].any() and torch.equal(*measured)
    batch = InstructionCollator(processor)([rows.read(i) for i in (0, 1)])
    del batch["views"]
    with torch.no_grad():
        before = float(plain(**batch).loss)
    assert loss(loaded, processor, rows, latents) < before - 0.02

    samples = [rows.read(i) for i in (0, 1, 2)]
    one_by_one = answer(loaded, processor, samples, latents, max_new_tokens=3)
    assert answer(loaded, processor, samples, latents, max_new_tokens=3, batch_size=3) == one_by_one
    assert answer(loaded, processor, samples, None, max_new_tokens=3) == answer(
        plain, processor, samples, max_new_tokens=3
    )
    blind = answer(loaded, processor, samples, latents, max_new_tokens=3, blind=True)
    assert len(set(blind)) == 1  # the same question, and no frames to tell the rooms apart
    with pytest.raises(SpatialBoostError, match="has no scene adapter: call attach_adapter or load_adapter"):
        answer(plain, processor, samples, latents)


def test_a_row_without_frames_trains_beside_one_with(latents, tmp_path):
    model, processor = build("llava")
    turns = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two"}]
    samples = [Sample(turns, []), Sample([{**turns[0], "content": "<image>How many?"}, turns[1]], [frame(28, 28, 0)])]
    train_adapter(model, processor, latents, samples, arguments(tmp_path, 1), llm="frozen")
    assert not find_adapter(model).adds_zero()


def test_the_papers_settings():
    from transformers.training_args import TrainingArguments

    found: TrainingArguments = training_arguments("out")
    assert (found.learning_rate, found.weight_decay, found.max_grad_norm) == (1e-5, 0.01, 1.0)
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps, found.num_train_epochs) == (1, 8, 1)
    assert found.gradient_checkpointing and found.lr_scheduler_type == "cosine" and found.get_warmup_steps(1000) == 30


def test_errors(rows, latents, tmp_path):
    model, processor = build("llava")
    with pytest.raises(SpatialBoostError, match="unknown way to train the language model 'ful'"):
        train_adapter(model, processor, latents, rows, arguments(tmp_path, 1), llm="ful")
    with pytest.raises(SpatialBoostError, match="the language model is in half precision"):
        train_adapter(build("llava")[0].bfloat16(), processor, latents, rows, arguments(tmp_path, 1))
    train_adapter(model, processor, latents, rows, arguments(tmp_path / "run", 2), llm="frozen")
    with pytest.raises(SpatialBoostError, match="is a checkpoint of a training with other trained weights"):
        train_adapter(model, processor, latents, rows, arguments(tmp_path / "run", 4), llm="full", resume=True)
    other = EncoderLatents(VisionTransformer(28, 14, embed_dim=48, depth=1, num_heads=2, num_classes=0), image_size=28)
    with pytest.raises(SpatialBoostError, match="the adapter reads latents of width 24; the scene encoder gives 48"):
        train_adapter(model, processor, other, rows, arguments(tmp_path, 1), llm="frozen")

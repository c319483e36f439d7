"""A frozen language model in 8 or 4 bits: it teaches, but is not trained."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import LlamaConfig, LlamaForCausalLM

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language import BoostConfig, ChatDataset, InstructConfig, boost_encoder, instruct
from spatialboost.training import RowImages, load_config, train
from spatialboost.vlm import Collator, SpatialVLM, load_llm
from spatialboost.vlm.llms import build_tokenizer, is_quantised
from spatialboost.vlm.projector import build_projector
from training_rows import SHAPE, make_rows

BITS = ["8bit", "4bit"]
QUICK = {"steps": 2, "batch_size": 4, "save_every": 0, "log_every": 1, "lr": 1e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("bitsandbytes")
    place = tmp_path_factory.mktemp("llama")
    tokenizer = build_tokenizer([row["messages"] for row in make_rows(24)])
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def encoder():
    torch.manual_seed(0)
    return VisionTransformer(**SHAPE).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", BITS)
def test_the_encoder_gets_nearly_the_gradient_of_the_whole_model(folder, rows, bits, dtype):
    found = {}
    for quantization in (None, bits):
        llm, tokenizer = load_llm(folder, dtype=dtype, quantization=quantization)
        vlm = SpatialVLM(encoder(), llm.requires_grad_(False), projector=build_projector(encoder(), llm))
        dataset = ChatDataset(rows, RowImages(vlm.encoder, 32), tokenizer)
        examples = [{k: v for k, v in dataset[i].items() if k != "row"} for i in range(4)]
        torch.manual_seed(1)
        for weight in vlm.projector.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        out = vlm(**Collator(tokenizer.pad_token_id)(examples))
        out.loss.backward()
        found[quantization] = vlm.encoder.blocks[0].attn.qkv.weight.grad.flatten()
    assert is_quantised(llm) and any(not p.is_floating_point() for p in llm.parameters())
    assert torch.cosine_similarity(found[None], found[bits], dim=0) > (0.99 if bits == "8bit" else 0.9)


def test_stages_1_and_3_through_a_quantised_model(folder, parquet, tmp_path):
    config = {
        "encoder": {"library": "timm", "name": "VisionTransformer", "kwargs": SHAPE},
        "data": {"folders": [parquet], "image_size": 32, "held_out": 4, "workers": 0},
        "teacher": {"llm": {"name": str(folder), "quantization": "4bit"}, "evaluate": 4},
        "stage1": QUICK,
        "stage2": None,
        "stage3": {**QUICK, "require_answers": False, "pack": True},
        "device": "cpu",
        "out": tmp_path / "run",
    }
    result = train(load_config(config))
    llm = result.teacher.vlm.llm
    whole, _ = load_llm(folder, quantization="4bit")
    assert is_quantised(llm) and llm.get_memory_footprint() < 0.7 * load_llm(folder)[0].get_memory_footprint()
    for (name, ours), theirs in zip(llm.named_parameters(), whole.parameters(), strict=True):
        assert ours.equal(theirs), name
    assert len(result.stages["stage3"]["fit"]["history"]) == 2 and result.delta.is_dir()


def test_a_quantised_model_is_not_trained(folder, rows, tmp_path):
    base = {"encoder": "timm:vit_tiny_patch16_224", "data": {"folders": ["rooms"]}, "out": "run"}
    with pytest.raises(SpatialBoostError, match=r"stage2 trains the language model, .* set stage2: null"):
        load_config({**base, "teacher": {"llm": {"name": "somewhere", "quantization": "4bit"}}})
    with pytest.raises(SpatialBoostError, match=r'quantization: 8bit needs safetensors, which "small" has not'):
        load_config({**base, "teacher": {"llm": {"name": "small", "quantization": "8bit"}}, "stage2": None})
    llm, tokenizer = load_llm(folder, quantization="4bit")
    vlm = SpatialVLM(encoder(), llm)
    dataset = ChatDataset(rows, RowImages(vlm.encoder, 32), tokenizer)
    with pytest.raises(SpatialBoostError, match="stage2 trains the language model, but its weights are quantised"):
        instruct(vlm, dataset, InstructConfig(**QUICK), folder=tmp_path)


@pytest.mark.parametrize("bits", BITS)
def test_the_projector_may_be_trained_in_stage_3(folder, rows, tmp_path, bits):
    llm, tokenizer = load_llm(folder, quantization=bits, dtype=torch.bfloat16)
    vlm = SpatialVLM(encoder(), llm)
    dataset = ChatDataset(rows, RowImages(vlm.encoder, 32), tokenizer)
    fitted = boost_encoder(vlm, dataset, BoostConfig(**QUICK, train_projector=True), folder=tmp_path)
    assert fitted.steps == 2

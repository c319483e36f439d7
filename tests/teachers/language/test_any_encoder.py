"""Stage 3 with encoders of every library and language models of several families."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import spatialboost as sb
from readable_encoders import READABLE
from spatialboost.teachers.language import BoostConfig, ChatDataset, boost_encoder
from spatialboost.training import RowImages
from spatialboost.vlm import SpatialVLM
from spatialboost.vlm.llms import build_tokenizer
from training_rows import make_rows

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
LLMS = {
    "gpt2": lambda words: GPT2LMHeadModel(GPT2Config(vocab_size=words, n_embd=32, n_layer=1, n_head=2)),
    "llama": lambda words: LlamaForCausalLM(LlamaConfig(vocab_size=words, **SHAPE)),
    "gemma3": lambda words: Gemma3ForCausalLM(
        Gemma3TextConfig(vocab_size=words, **SHAPE, num_key_value_heads=1, head_dim=16)
    ),
}
ENCODERS = ["timm", "timm eva", "clip", "siglip 2", "dinov3", "open_clip", "torchvision"]


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize("name", ENCODERS)
def test_stage_3_trains_the_new_channel(name, llm, tmp_path):
    """The trainer checks after each of the steps that everything that is trained has moved, and nothing else."""
    rows = make_rows(4)
    encoder, tokenizer = READABLE[name].make(), build_tokenizer([row["messages"] for row in rows])
    torch.manual_seed(0)
    vlm = SpatialVLM(encoder, LLMS[llm](len(tokenizer)))
    dataset = ChatDataset(rows, RowImages(encoder, READABLE[name].size), tokenizer)
    stage = BoostConfig(steps=2, batch_size=4, save_every=0, log_every=1, lr=1e-3, train_projector=True, pack=True)
    fitted = boost_encoder(vlm, dataset, stage, folder=tmp_path)
    assert fitted.steps == 2 and all(entry["grad_norm"] > 0 for entry in fitted.history)
    assert [layer.index for layer in sb.status(encoder).layers] == list(range(READABLE[name].layers))

"""Outputs, queries and keys of a language model's blocks against what the true classes compute; and the LoRA."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.blocks import block_numbers, kept_attention, kept_outputs, query_projection
from spatialboost.vlm.lora import add_lora, merge_lora

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=4, n_positions=64)),
    "gpt neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**{key: value for key, value in SHAPE.items() if key != "num_key_value_heads"})
    ),
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


@pytest.mark.parametrize("name", MODELS)
def test_outputs_of_blocks_are_the_hidden_states(name):
    llm, ids = made(name), torch.arange(10)[None]
    with torch.no_grad():
        with kept_outputs(llm, [0, 2]) as kept:
            llm(input_ids=ids)
        assert not [hook for part in llm.modules() for hook in part._forward_hooks]
        out = llm(input_ids=ids, output_hidden_states=True)
    assert torch.equal(kept[0], out.hidden_states[1])
    assert not torch.equal(kept[2], out.hidden_states[3])  # which has the last norm


@pytest.mark.parametrize(("name", "rotary"), [("llama", False), ("llama", True), ("qwen3", False), ("qwen3", True)])
def test_queries_and_keys_are_those_of_the_attention(name, rotary):
    llm, ids = made(name), torch.arange(10)[None]
    body = llm.base_model
    with torch.no_grad():
        plain = llm(input_ids=ids).logits
        with kept_attention(llm, [0, 1], rotary=rotary) as kept, kept_outputs(llm, [0]) as outputs:
            assert torch.allclose(llm(input_ids=ids).logits, plain, atol=1e-6)
        assert llm.config._attn_implementation != "sdpa_kept" and torch.equal(llm(input_ids=ids).logits, plain)
        block = body.layers[1]
        tokens = block.input_layernorm(outputs[0])
        q = block.self_attn.q_proj(tokens).unflatten(-1, (4, 8))
        k = block.self_attn.k_proj(tokens).unflatten(-1, (2, 8))
        if name == "qwen3":
            q, k = block.self_attn.q_norm(q), block.self_attn.k_norm(k)
        if rotary:
            cos, sin = body.rotary_emb(tokens, torch.arange(10)[None])
            turned = apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
            q, k = (each.transpose(1, 2) for each in turned)
    assert torch.allclose(kept[1][0], q, atol=1e-5)
    assert torch.allclose(kept[1][1], k[:, :, [0, 0, 1, 1]], atol=1e-5)  # two heads of queries share a key


def test_gpt2_has_no_rotary_positions_and_a_fused_projection_is_read_only_after_them():
    llm, ids = made("gpt2"), torch.arange(10)[None]
    found = []
    for rotary in (False, True):
        with torch.no_grad(), kept_attention(llm, [1], rotary=rotary) as kept:
            llm(input_ids=ids)
        found.append(kept[1])
    assert torch.equal(found[0][0], found[1][0]) and found[0][0].shape == (1, 10, 4, 8)
    assert torch.equal(query_projection(llm, 1), llm.transformer.h[1].attn.c_attn.weight[:, :32].T)
    phi = made("phi3")
    with torch.no_grad(), kept_attention(phi, [1], rotary=True) as kept:
        phi(input_ids=ids)
    assert kept[1][1].shape == (1, 10, 4, 8)
    with (
        pytest.raises(SpatialBoostError, match=r"no projection q_proj of its own, .* set teacher.rotary: true"),
        kept_attention(phi, [1], rotary=False),
    ):
        pass
    with pytest.raises(SpatialBoostError, match=r"no query projection `q_proj` .* set teacher.head_start: random"):
        query_projection(phi, 1)


def test_blocks_that_do_not_exist_are_refused():
    assert block_numbers(made("llama"), [-1, 0, 2]) == [0, 2]
    with pytest.raises(SpatialBoostError, match="has no block 3; it has 3, from 0 to 2"):
        block_numbers(made("llama"), [3])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("where", ["all", "attention"])
def test_a_lora_changes_nothing_until_it_has_learnt_and_merges_into_plain_weights(name, where):
    llm, ids = made(name), torch.arange(10)[None]
    keys = set(llm.state_dict())
    with torch.no_grad():
        plain = llm(input_ids=ids).logits
        parameters = add_lora(llm, 4, alpha=8, where=where)
        assert len(parameters) % 6 == 0 and torch.equal(llm(input_ids=ids).logits, plain)
        for parameter in parameters:
            parameter += 0.02 * torch.randn_like(parameter)
        learnt = llm(input_ids=ids).logits
        state = merge_lora(llm)
        assert torch.allclose(llm(input_ids=ids).logits, learnt, atol=1e-4) and set(state) == keys
        fresh = made(name)
        fresh.load_state_dict(state)
        assert torch.allclose(fresh(input_ids=ids).logits, learnt, atol=1e-4)
    assert not torch.allclose(learnt, plain, atol=1e-3)

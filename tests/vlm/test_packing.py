"""Packed rows give the losses and gradients of padded ones, for models with every kind of position and mask."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from host_models import OLD_TRANSFORMERS
from spatialboost.errors import SpatialBoostError
from spatialboost.training.stage import recompute_activations
from spatialboost.vlm.chat import encode_chat
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.llms import build_tokenizer
from spatialboost.vlm.model import SpatialVLM
from spatialboost.vlm.packing import fill_rows, pack, start_packing

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = SHAPE | {"num_key_value_heads": 1, "head_dim": 16}
NO_DROPOUT = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
LLMS = {
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, **NO_DROPOUT},  # learned positions
    "Llama": SHAPE,
    "Qwen2": SHAPE | {"num_key_value_heads": 1},
    "Qwen3": GROUPED,
    "Gemma2": GROUPED | {"sliding_window": 6},  # every second layer sees 6 tokens
    "Gemma3": GROUPED | {"sliding_window": 6},
    "Phi3": SHAPE | {"pad_token_id": 0},
    "Mistral": GROUPED | {"sliding_window": 6},
    "OPT": SHAPE | {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0},  # learned positions, from the third on
    "Cohere": SHAPE,
    "Granite": SHAPE | {"embedding_multiplier": 3.0},
}
REFUSED = {
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},  # recurrent
    "RecurrentGemma": SHAPE | {"num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 8},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},  # positions of its own, from the mask
    "Bart": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64},
}


def make(name: str, shape, words: int, **options):
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    torch.manual_seed(0)
    kind = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    llm = kind(config(vocab_size=words, **shape, **options))
    with torch.no_grad():  # large weights, so that attention to another conversation would show
        for weight in llm.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    return llm


@pytest.fixture
def tokenizer(chat):
    return build_tokenizer([chat])


@pytest.fixture
def batch(chat, tokenizer):
    """Lengths 66, 33, 34 and 30: they fit into three rows, of which two are padded."""
    torch.manual_seed(2)
    chats = [chat[2:4], chat, chat[:2], [chat[2], {"role": "assistant", "content": "Point 2."}]]
    rows = [encode_chat(each, tokenizer, num_visual_tokens=[4] * str(each).count("<image>")) for each in chats]
    shown = [torch.randn(str(each).count("<image>"), 3, 32, 32) for each in chats]
    return Collator(tokenizer.pad_token_id)([r | {"pixel_values": p} for r, p in zip(rows, shown, strict=True)])


def loss_and_gradients(vlm, batch):
    vlm.zero_grad()
    out = vlm(**batch)
    out.loss.backward()
    return out, {name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "attention"),
    [(name, "eager" if name == "Gemma2" else "sdpa") for name in LLMS] + [("GPT2", "eager"), ("Mistral", "eager")],
)
def test_packed_is_padded_to_rounding(name, attention, encoder, tokenizer, batch):
    vlm = SpatialVLM(encoder, make(name, LLMS[name], len(tokenizer), attn_implementation=attention))
    padded, expected = loss_and_gradients(vlm, batch)
    vlm.set_packing(True)
    assert vlm._packing == ("rows" if attention == "eager" else "row") or OLD_TRANSFORMERS
    packed, found = loss_and_gradients(vlm, batch)
    assert len(fill_rows(batch["attention_mask"].sum(1).tolist(), batch["input_ids"].shape[1])) < 4
    assert packed.targets.equal(padded.targets)
    torch.testing.assert_close(packed.loss, padded.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed.logits, padded.logits, rtol=1e-3, atol=1e-4)
    assert "encoder.blocks.0.attn.qkv.weight" in found and found.keys() == expected.keys()
    noise = 1e-6 * max(float(gradient.abs().max()) for gradient in expected.values())  # of a gradient that is zero
    for each, gradient in expected.items():
        atol = 1e-4 * float(gradient.abs().max()) + noise
        torch.testing.assert_close(found[each], gradient, rtol=1e-3, atol=atol, msg=each)


def test_activations_are_recomputed_in_packed_rows(encoder, tokenizer, batch):
    vlm = SpatialVLM(encoder, make("Llama", LLMS["Llama"], len(tokenizer)))
    vlm.set_packing(True)
    expected = loss_and_gradients(vlm.train(), batch)[1]
    recompute_activations(vlm)
    found = loss_and_gradients(vlm.train(), batch)[1]
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-6) for name in expected)


def test_answers_are_generated_as_without_packing(encoder, tokenizer, chat):
    vlm = SpatialVLM(encoder, make("Mistral", LLMS["Mistral"], len(tokenizer))).eval()
    rows = [encode_chat(chat[:n], tokenizer, num_visual_tokens=4, add_generation_prompt=True) for n in (3, 1)]
    batch = Collator(tokenizer.pad_token_id, "left")([r | {"pixel_values": torch.randn(1, 3, 32, 32)} for r in rows])
    inputs = {name: batch[name] for name in ("input_ids", "visual_mask", "attention_mask", "pixel_values")}
    options = {"max_new_tokens": 4, "eos_token_id": None, "pad_token_id": 0}
    expected = vlm.generate(**inputs, **options)
    vlm.set_packing(True)
    assert vlm.generate(**inputs, **options).equal(expected)
    vlm.set_packing(False)
    assert vlm.llm.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_mixes_conversations_is_refused(name, tokenizer):
    llm = make(name, REFUSED[name], len(tokenizer))
    with pytest.raises(SpatialBoostError, match=f"pack: true cannot be used with {name}.*Set pack: false"):
        start_packing(llm.train())
    assert llm.training and llm.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("side", ["right", "left"])
def test_every_token_has_one_place(side):
    lengths = [7, 1, 3, 12, 5, 2, 9]
    rows = [{"input_ids": torch.arange(length)} for length in lengths]
    batch = Collator(0, side)(rows)
    packing = pack(batch["attention_mask"], "rows")
    kept = batch["attention_mask"].bool()
    assert packing.position_ids_RP.shape == (4, 12)  # 39 tokens: 12, 9 + 3, 7 + 5, 2 + 1
    assert (packing.places_BL >= 0).equal(kept)
    places = packing.places_BL[kept]
    assert len(places.unique()) == len(places) == sum(lengths)
    packed = packing.gather(batch["input_ids"][..., None])
    assert packed.flatten()[places].equal(batch["input_ids"][kept])
    assert packing.position_ids_RP.flatten()[places].equal(batch["input_ids"][kept])
    assert packing.position_ids_RP[3].tolist() == [0, 1, 0, *range(9)]  # the padding is kept apart, too


def test_equal_lengths_stay_as_they_are():
    assert pack(torch.ones(3, 5), "rows") is pack(torch.ones(3, 5), "row") is None


def test_flash_attention_gets_the_bounds_of_the_conversations():
    """The kernel itself needs a GPU; what transformers makes for it from our positions does not."""
    lengths = [4, 9, 1, 6]
    mask = torch.tensor([[1] * length + [0] * (9 - length) for length in lengths])
    packing = pack(mask, "row")
    (bounds, _), (longest, _) = prepare_fa_kwargs_from_position_ids(packing.position_ids_RP)
    assert (
        packing.position_ids_RP.shape == (1, 20)
        and bounds.tolist() == [0, 4, 13, 14, 20] == list(packing.bounds)
        and longest == 9
    )

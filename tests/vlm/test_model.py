from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.chat import IGNORE, encode_chat
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.llm_checks import num_positions
from spatialboost.vlm.llms import build_tokenizer
from spatialboost.vlm.model import SpatialVLM

LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA |= {"max_position_embeddings": 256}
LLMS = {
    "llama": lambda words: LlamaForCausalLM(LlamaConfig(vocab_size=words, **LLAMA)),
    "llama tied": lambda words: LlamaForCausalLM(LlamaConfig(vocab_size=words, **LLAMA, tie_word_embeddings=True)),
    "gpt2": lambda words: GPT2LMHeadModel(
        GPT2Config(vocab_size=words, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    ),
    # Caps its logits after the head, so the head alone gives other logits
    "gemma2": lambda words: Gemma2ForCausalLM(
        Gemma2Config(vocab_size=words, **LLAMA, num_key_value_heads=2, head_dim=16, final_logit_softcapping=0.1)
    ),
}


@pytest.fixture
def tokenizer(chat):
    return build_tokenizer([chat])


@pytest.fixture(params=LLMS)
def vlm(request, encoder, tokenizer) -> SpatialVLM:
    torch.manual_seed(1)
    return SpatialVLM(encoder, LLMS[request.param](len(tokenizer)))


def batch_of(chat, tokenizer, side="right", **options):
    collate = Collator(tokenizer.pad_token_id, side)
    rows = [encode_chat(messages, tokenizer, num_visual_tokens=4, **options) for messages in (chat, chat[:2])]
    torch.manual_seed(2)
    return collate([row | {"pixel_values": torch.randn(1, 3, 32, 32)} for row in rows])


@pytest.mark.parametrize("bf16", [False, True])
def test_loss_in_parts_has_the_same_gradients(vlm, chat, tokenizer, bf16, monkeypatch):
    batch = batch_of(chat, tokenizer)
    found = []
    for most in (2**25, 3 * len(tokenizer)):
        monkeypatch.setattr("spatialboost.vlm.model.MOST_LOGITS", most)
        vlm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = vlm(**batch)
        out.loss.backward()
        found.append((out.logits, out.loss.detach(), {name: p.grad for name, p in vlm.named_parameters()}))
    (logits, loss, gradients), (parts, loss_in_parts, gradients_in_parts) = found
    assert logits is not None and (parts is None) == vlm._fast_head
    close = {"rtol": 2e-2, "atol": 2e-3} if bf16 else {}
    torch.testing.assert_close(loss_in_parts, loss, **close)
    torch.testing.assert_close(gradients_in_parts, gradients, **close)
    with torch.no_grad():
        assert vlm(**batch).logits is not None  # for the accuracy all logits are wanted


def test_loss_at_answers_is_the_plain_loss(vlm, chat, tokenizer):
    batch = batch_of(chat, tokenizer)
    out = vlm(**batch)
    embeds = vlm.embed(batch["input_ids"], batch["visual_mask"], pixel_values=batch["pixel_values"])
    logits = vlm.llm(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    plain = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
    assert torch.allclose(out.loss, plain, atol=1e-6)
    assert torch.allclose(out.logits, logits[labels != IGNORE], atol=1e-5)
    assert out.targets.equal(labels[labels != IGNORE])


def test_gradients_at_answers_are_the_plain_ones(vlm, chat, tokenizer):
    batch = batch_of(chat, tokenizer)
    vlm(**batch).loss.backward()
    ours = {name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None}
    vlm.zero_grad()
    labels = batch.pop("labels")
    logits = vlm(**batch).logits
    nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
    assert "projector.0.weight" in ours and "encoder.blocks.0.attn.qkv.weight" in ours
    for name, p in vlm.named_parameters():
        if p.grad is not None:
            assert torch.allclose(ours[name], p.grad, atol=1e-6), name


def test_visual_tokens_go_to_their_places_in_order(vlm, chat, tokenizer):
    batch = batch_of(chat, tokenizer)
    embeds = vlm.embed(batch["input_ids"], batch["visual_mask"], pixel_values=batch["pixel_values"])
    visual = vlm.projector(read_tokens(vlm.encoder, batch["pixel_values"]).patches)
    for row in range(2):
        assert torch.allclose(embeds[row][batch["visual_mask"][row]], visual[row], atol=1e-6)
    words = vlm.llm.get_input_embeddings()(batch["input_ids"])
    assert torch.equal(embeds[~batch["visual_mask"]], words[~batch["visual_mask"]])


def test_cached_features_give_the_same_loss(vlm, chat, tokenizer):
    batch = batch_of(chat, tokenizer)
    expected = vlm(**batch).loss
    features = read_tokens(vlm.encoder, batch.pop("pixel_values")).patches.detach()
    assert torch.allclose(vlm(**batch, patch_features=features).loss, expected, atol=1e-6)


def test_the_image_matters(vlm, chat, tokenizer):
    batch = batch_of(chat, tokenizer)
    other = batch | {"pixel_values": -batch["pixel_values"]}
    assert not torch.allclose(vlm(**batch).logits, vlm(**other).logits)


def test_padding_changes_nothing(vlm, chat, tokenizer):
    batch = batch_of(chat, tokenizer)
    alone = Collator(0)([encode_chat(chat[:2], tokenizer, num_visual_tokens=4)])
    alone["pixel_values"] = batch["pixel_values"][1:]
    num_first = int((batch["labels"][0] != IGNORE).sum())
    assert torch.allclose(vlm(**batch).logits[num_first:], vlm(**alone).logits, atol=1e-5)


def test_generates_what_the_logits_say(vlm, chat, tokenizer):
    vlm.eval()
    batch = batch_of(chat[:3], tokenizer, side="left", add_generation_prompt=True)
    batch = {name: value for name, value in batch.items() if name not in ("labels", "turns")}
    new = vlm.generate(**batch, max_new_tokens=3, eos_token_id=-1, pad_token_id=0)
    assert new.shape == (2, 3)
    single = Collator(0)([encode_chat(chat[:3], tokenizer, num_visual_tokens=4, add_generation_prompt=True)])
    ids, mask = single["input_ids"], single["visual_mask"]
    for step in range(3):
        logits = vlm(input_ids=ids, visual_mask=mask, pixel_values=batch["pixel_values"][:1]).logits
        assert logits[0, -1].argmax() == new[0, step]
        ids = torch.cat([ids, new[:1, step : step + 1]], 1)
        mask = torch.cat([mask, torch.zeros(1, 1, dtype=torch.bool)], 1)


def test_frozen_parts_stay_in_evaluation_mode(vlm):
    vlm.encoder.requires_grad_(False)
    vlm.train()
    assert not vlm.encoder.training and vlm.llm.training and vlm.projector.training
    vlm.encoder.requires_grad_(True)
    assert vlm.train().encoder.training and not vlm.eval().encoder.training


def test_projected_tokens_are_as_large_as_embeddings_of_words(vlm):
    visual = vlm.projector(torch.randn(64, 4, 48))
    table = vlm.llm.get_input_embeddings()  # Gemma's multiplies its weights by the root of its width
    words = table(torch.arange(len(table.weight)))
    assert 0.8 < (visual.square().mean() / words.square().mean()).sqrt() < 1.25


def test_inserted_tokens_are_as_large_as_the_words_beside_them(vlm):
    """Gemma multiplies embeddings by the root of its width before they enter; visual tokens were left small."""
    ids = torch.tensor([[7, 8, 9, 10, 11, 12, 13, 14]])
    mask = torch.tensor([[True] * 4 + [False] * 4])
    embeds = vlm.embed(ids, mask, patch_features=torch.randn(1, 4, 48))
    visual, words = embeds[mask].square().mean(), embeds[~mask].square().mean()
    assert 0.5 < (visual / words).sqrt() < 2


def test_a_sequence_longer_than_the_model_was_made_for(vlm, tokenizer):
    most = num_positions(vlm.llm)
    ids = torch.zeros(1, most + 1, dtype=torch.long)
    with pytest.raises(
        SpatialBoostError, match=f"{most + 1} tokens, and the language model was made for at most {most}"
    ):
        vlm(input_ids=ids, visual_mask=ids > 0)
    prompt = ids[:, : most - 2]
    assert vlm.generate(prompt, prompt > 0, max_new_tokens=9, eos_token_id=None, pad_token_id=0).shape[1] == 2


def test_layer_is_read(vlm, chat, tokenizer):
    early = SpatialVLM(vlm.encoder, vlm.llm, layer=0, projector=vlm.projector)
    batch = batch_of(chat, tokenizer)
    features = read_tokens(vlm.encoder, batch["pixel_values"], layer=0).patches
    expected = vlm(**{k: v for k, v in batch.items() if k != "pixel_values"}, patch_features=features).loss
    assert early.feature_layer == 0 and torch.allclose(early(**batch).loss, expected)


def test_mistakes_are_named(vlm, chat, tokenizer):
    batch = batch_of(chat, tokenizer)
    with pytest.raises(SpatialBoostError, match="has 8 positions, but the images give 4 tokens"):
        vlm(**batch | {"pixel_values": batch["pixel_values"][:1]})
    with pytest.raises(SpatialBoostError, match="no token of the batch is labelled"):
        vlm(**batch | {"labels": torch.full_like(batch["labels"], IGNORE)})
    with pytest.raises(SpatialBoostError, match="padded on the left"):
        vlm.generate(batch["input_ids"], batch["visual_mask"], batch["attention_mask"])

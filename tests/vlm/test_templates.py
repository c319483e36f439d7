"""Where an answer ends: it is taught after each answer, and generation stops there, with any chat template."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import LlamaConfig, LlamaForCausalLM

from chat_templates import TEMPLATES
from spatialboost.teachers.language import ChatDataset
from spatialboost.teachers.language.accuracy import answer_accuracy
from spatialboost.training import RowImages
from spatialboost.vlm.chat import encode_chat, render_chat, stop_tokens, turn_endings
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.llms import build_small_llm
from spatialboost.vlm.model import SpatialVLM
from training_rows import SHAPE, make_rows


@pytest.fixture(params=list(TEMPLATES))
def template(request):
    return TEMPLATES[request.param]


def long_chat(chat, turns: int):
    return [dict(message) for _ in range(turns // 2) for message in chat]


def test_the_end_of_each_turn_is_taught(template, chat):
    """Phi-3's template used to teach 1 of 12: it ends a conversation otherwise than a turn."""
    messages = long_chat(chat, 12)
    tokenizer = template.tokenizer([messages])
    encoded = encode_chat(messages, tokenizer, num_visual_tokens=2)
    last = "<|return|>" if template.eos == "<|return|>" else template.ending
    for turn in range(12):
        taught = tokenizer.decode(encoded["labels"][encoded["turns"] == turn])
        assert taught.strip() == messages[2 * turn + 1]["content"] + (last if turn == 11 else template.ending)


@pytest.mark.parametrize("end", ["after a question", "after an answer"])
def test_the_spans_are_the_answers_wherever_the_conversation_ends(template, chat, end):
    messages = chat if end == "after an answer" else chat[:3]
    text, spans = render_chat(messages, template.tokenizer([chat]), add_generation_prompt=end == "after a question")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert [
        text[start:stop].partition(answer)[1] for (start, stop), answer in zip(spans, answers, strict=True)
    ] == answers
    assert text[slice(*spans[0])] == answers[0] + template.ending


def test_generation_stops_at_all_of_them(template, chat):
    tokenizer = template.tokenizer([chat])
    llm, _ = build_small_llm([chat], width=8, layers=1, heads=1)
    llm.generation_config.eos_token_id = [7, 9]
    found = set(stop_tokens(tokenizer, llm))
    assert {7, 9, tokenizer.eos_token_id} <= found
    ids = tokenizer(template.ending.strip(), add_special_tokens=False)["input_ids"]
    assert set(ids) <= found if len(ids) == 1 else template.ending in turn_endings(tokenizer)


def test_a_model_that_knows_all_answers_scores_one(template):
    """It scored 0 where the end of turn is not the tokenizer's end-of-text token: the next question followed."""
    rows = make_rows(4)
    tokenizer = template.tokenizer([row["messages"] for row in rows])
    torch.manual_seed(0)
    encoder = VisionTransformer(**SHAPE).eval()
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, pad_token_id=0))
    llm.generation_config.repetition_penalty = 5.0  # as some models on the Hub have; it changes greedy answers
    vlm = SpatialVLM(encoder, llm)
    dataset = ChatDataset(rows, RowImages(encoder, 32), tokenizer)
    batch = Collator(tokenizer.pad_token_id)([{k: v for k, v in dataset[i].items() if k != "row"} for i in range(4)])
    parameters = [*llm.parameters(), *vlm.projector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    for _ in range(200):
        loss = vlm(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 1e-2:
            break
    scores = answer_accuracy(vlm, tokenizer, dataset, kinds=("depth", "closer"), rows=4, progress=False)
    assert {score.kind: score.accuracy for score in scores if score.answerer == "image"} == {"depth": 1, "closer": 1}


def test_the_template_may_be_changed_after_the_tokenizer_is_built(chat):
    tokenizer = TEMPLATES["gemma"].tokenizer([chat])
    assert turn_endings(tokenizer) == ["<end_of_turn>"]
    tokenizer.chat_template = TEMPLATES["plain text"].text
    assert turn_endings(tokenizer) == [" [/INST] [INST]"]

"""Where an answer ends: it is taught after each answer, and generation stops there, with any chat template."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import LlamaConfig, LlamaForCausalLM

from chat_templates import TEMPLATES
from spatialboost.errors import SpatialBoostError
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


def reference_mask(messages, tokenizer, ending: str) -> tuple[list[int], list[bool]]:
    """Ids of the whole text, and which of them belong to an answer or its end, found without the library.

    Contents differ from each other, so each is where its text is; its end is the next end of turn.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans, place = [], 0
    for message in messages:
        place = text.index(message["content"], place)
        stop = place + len(message["content"])
        if message["role"] == "assistant":
            found = [text.find(each, stop) for each in {ending, tokenizer.eos_token}]
            spans.append((place, min(at + len(ending) for at in found if at >= 0)))
        place = stop
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoded["input_ids"], [
        any(first < stop and last > start for first, last in spans) for start, stop in encoded["offset_mapping"]
    ]


def reference_spans(messages, tokenizer) -> list[str]:
    """Each answer as what a conversation gains by it, as trainers that render prefixes find it."""
    found = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before = tokenizer.apply_chat_template(messages[:number], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(messages[: number + 1], tokenize=False)
            assert whole.startswith(before)
            found.append(whole.removeprefix(before))
    return found


def different(chat, turns: int):
    """A chat without images, whose contents differ from each other."""
    texts = [message["content"].removeprefix("<image>\n") for message in chat]
    return [{**chat[n % 4], "content": f"{texts[n % 4]} {n // 10} {n % 10}"} for n in range(2 * turns)]


def test_labels_are_those_of_an_independent_reference(template, chat):
    messages = different(chat, 6)
    tokenizer = template.tokenizer([messages])
    encoded = encode_chat(messages, tokenizer)
    ids, mask = reference_mask(messages, tokenizer, template.ending)
    assert encoded["input_ids"].tolist() == ids and (encoded["labels"] >= 0).tolist() == mask
    theirs = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert list(theirs) == ids


ALIKE = {"gemma3", "deepseek"}  # their turns end as those of "gemma" and "mistral" do
NO_PREFIX = {
    "qwen",
    "qwen3",
    "deepseek",
    "first llama3",
    "phi3",
    "harmony",
}  # a conversation is no prefix of a longer one


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in NO_PREFIX])
def test_answers_are_what_a_conversation_gains_by_them(name, chat):
    messages = different(chat, 4)
    tokenizer = TEMPLATES[name].tokenizer([messages])
    text, spans = render_chat(messages, tokenizer)
    for (start, stop), gained in zip(spans, reference_spans(messages, tokenizer), strict=True):
        assert text[start:stop].strip() == gained.strip()


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "gemma"])
def test_labels_are_those_of_the_templates_own_marks(name, chat):
    """The same templates with `generation` around each answer and its end, as some models have them."""
    template = TEMPLATES[name]
    messages = different(chat, 6)
    tokenizer = template.tokenizer([messages])
    plain = encode_chat(messages, tokenizer)
    content = "(m.content | trim)" if "(m.content | trim)" in template.text else "m.content"
    marked = (
        "}}{% if m.role == 'assistant' %}{% generation %}{{ TEXT + END }}{% endgeneration %}{% else %}{{ TEXT + END }}"
    )
    marked = (marked + "{% endif %}{{ ''").replace("TEXT", content).replace("END", f"'{template.ending}'")
    if name == "mistral":
        marked = "}}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ ''"
        tokenizer.chat_template = template.text.replace("' ' + m.content + eos_token", "' ' " + marked)
    else:
        ending = template.ending
        tokenizer.chat_template = template.text.replace(f" + {content} + '{ending}", f" {marked} + '")
    assert "{% generation %}" in tokenizer.chat_template
    theirs = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert list(theirs["input_ids"]) == plain["input_ids"].tolist()
    assert theirs["assistant_masks"] == (plain["labels"] >= 0).int().tolist()
    again = encode_chat(messages, tokenizer)
    assert all(again[key].equal(plain[key]) for key in plain)


def test_lists_of_parts_are_the_same_as_texts(template, chat):
    listed = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": chat[0]["content"].split("<image>")[1]}],
        },
        *[{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in chat[1:]],
    ]
    tokenizer = template.tokenizer([chat])
    ours, theirs = (encode_chat(each, tokenizer, num_visual_tokens=3) for each in (listed, chat))
    assert all(ours[key].equal(theirs[key]) for key in ours)


def test_an_answer_with_thinking_is_refused_where_the_template_changes_it(chat):
    """Qwen3's template cuts thinking off, except after the last question: the answers would not be where they seem."""
    tokenizer = TEMPLATES["qwen3"].tokenizer([chat])
    thought = [*chat[:1], {"role": "assistant", "content": "<think>\nThe\n</think>\n\nPoint 2."}, *chat[2:]]
    with pytest.raises(SpatialBoostError, match="does not keep the messages as they are"):
        encode_chat(thought, tokenizer, num_visual_tokens=3)


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


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - ALIKE), indirect=True)
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

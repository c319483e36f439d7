from __future__ import annotations

import logging

import pytest

from chat_templates import TEMPLATES
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language.teacher import LanguageTeacher
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.llm_checks import check_chats
from spatialboost.vlm.llms import build_small_llm, build_tokenizer, load_llm
from spatialboost.vlm.model import SpatialVLM

SMALL = {"width": 32, "layers": 1, "heads": 2}


def in_parts(chat, answers_too: bool = True):
    """The same chat with contents that are lists of parts, as processors of transformers take them."""
    return [
        {"role": each["role"], "content": [{"type": "text", "text": each["content"]}]}
        if answers_too or each["role"] == "user"
        else each
        for each in chat
    ]


def test_contents_that_are_lists_give_the_same_vocabulary(chat):
    """All texts in a list were left out: 79 % of the answers' tokens were unknown."""
    assert build_tokenizer([in_parts(chat)]).get_vocab() == build_tokenizer([chat]).get_vocab()
    assert build_tokenizer([in_parts(chat, False)]).get_vocab() == build_tokenizer([chat]).get_vocab()


def test_unknown_words_in_answers_are_an_error_or_a_warning(chat, caplog):
    llm, tokenizer = build_small_llm([chat], **SMALL)
    check_chats(llm, tokenizer, [chat])
    foreign = [chat[0], {"role": "assistant", "content": "Etwa zwei Meter."}]
    with pytest.raises(SpatialBoostError, match=r"\d+% of the answers' tokens are unknown .* 'Etwa zwei Meter.'"):
        check_chats(llm, tokenizer, [foreign])
    with caplog.at_level(logging.WARNING):
        check_chats(llm, tokenizer, [foreign, *[chat] * 12])
    assert "2% of the answers' tokens are unknown" in caplog.text


def test_a_tokenizer_of_another_model_is_refused(chat, tmp_path):
    llm, _ = build_small_llm([chat[:2]], **SMALL)
    llm.save_pretrained(tmp_path)
    build_tokenizer([chat, [{"role": "user", "content": "more words than those"}]]).save_pretrained(tmp_path)
    with pytest.raises(SpatialBoostError, match=r"does not belong to its weights: it has .* embeddings for"):
        load_llm(tmp_path)


def test_a_token_without_an_embedding_is_refused(chat):
    llm, tokenizer = build_small_llm([chat], **SMALL)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    check_chats(llm, tokenizer, [chat])  # it is not used
    with pytest.raises(SpatialBoostError, match=r"'<\|new\|>' has number \d+, and the model has embeddings for"):
        check_chats(llm, tokenizer, [[chat[0], {"role": "assistant", "content": "<|new|>"}]])


def test_a_tokenizer_without_padding_or_end_of_text(chat, tmp_path, caplog):
    llm, tokenizer = build_small_llm([chat], **SMALL)
    tokenizer.pad_token = tokenizer.eos_token = None
    llm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, loaded = load_llm(tmp_path)
    assert loaded.eos_token_id is None and isinstance(loaded.pad_token_id, int)
    llm.generation_config.eos_token_id = None
    check_chats(llm, loaded, [chat])  # the template ends its turns
    loaded.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(SpatialBoostError, match="nothing ends an answer"):
        check_chats(llm, loaded, [chat])
    llm.generation_config.eos_token_id = 3
    with caplog.at_level(logging.WARNING):
        check_chats(llm, loaded, [chat])
    assert "does not learn where an answer ends" in caplog.text
    with pytest.raises(SpatialBoostError, match="pad_token_id is None"):
        Collator(tokenizer.pad_token_id)


def test_conversations_are_cut_where_the_positions_end(chat, encoder, caplog):
    llm, tokenizer = build_small_llm([chat], **SMALL, max_length=50)
    with caplog.at_level(logging.WARNING):
        teacher = LanguageTeacher(SpatialVLM(encoder, llm), tokenizer, 4)
    assert teacher.max_length == 50 and "at most 50 tokens" in caplog.text
    with pytest.raises(SpatialBoostError, match=r"an image takes 50 tokens, .* at most 50 tokens"):
        LanguageTeacher(SpatialVLM(encoder, llm), tokenizer, 50)


def test_check_runs_on_real_templates(chat):
    for template in TEMPLATES.values():
        tokenizer = template.tokenizer([chat])
        llm, _ = build_small_llm([chat], **SMALL)
        llm.resize_token_embeddings(len(tokenizer))
        check_chats(llm, tokenizer, [chat])

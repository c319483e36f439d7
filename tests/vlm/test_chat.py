from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.chat import IGNORE, encode_chat, render_chat
from spatialboost.vlm.llms import build_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
)
# As in Qwen3: only the last answer starts with an empty thinking block.
THINKING = (
    "{% for m in messages %}{{ '<' + m.role + '>' }}{% if loop.last and m.role == 'assistant' %}{{ '<think></think>' }}"
    "{% endif %}{{ m.content + '<|im_end|>' }}{% endfor %}"
)
TRIMMING = "{% for m in messages %}{{ m.role + ': ' + (m.content | trim) + '\n' }}{% endfor %}"


def byte_pair_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer without pre-tokenizer, so that tokens can merge across blanks."""
    tokenizer = Tokenizer(models.BPE())
    text = "] The depth is 2.341 meters. </s>" * 5 + "Point 2 is closer than Point 1.<|im_end|>\n"
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, eos_token="</s>", pad_token="</s>"
    )


@pytest.fixture
def answers(chat) -> list[str]:
    return [message["content"] for message in chat if message["role"] == "assistant"]


@pytest.mark.parametrize(
    ("template", "ending"),
    [(CHATML, "<|im_end|>"), (MARKED, "<|im_end|>"), (LLAMA2, " </s>"), (THINKING, "<|im_end|>")],
)
def test_answers_are_the_words_and_the_end_of_turn(template, ending, chat, answers):
    text, spans = render_chat(chat, byte_pair_tokenizer(template))
    assert [text[start:stop] for start, stop in spans] == [answer + ending for answer in answers]


def test_agrees_with_the_generation_marks_of_a_template(chat):
    tokenizer = byte_pair_tokenizer(MARKED)
    plain = [{"role": m["role"], "content": m["content"].replace("<image>", "")} for m in chat]
    encoded = encode_chat(plain, tokenizer)
    theirs = tokenizer.apply_chat_template(plain, return_dict=True, return_assistant_tokens_mask=True)
    ours = (encoded["labels"] != IGNORE).int().tolist()
    assert encoded["input_ids"].tolist() == list(theirs["input_ids"])
    # We count a token that crosses the border as part of the answer.
    assert all(our >= their for our, their in zip(ours, theirs["assistant_masks"], strict=True))
    assert sum(ours) - sum(theirs["assistant_masks"]) <= 2


def test_tokens_that_merge_over_the_border_are_labelled(chat, answers):
    tokenizer = byte_pair_tokenizer(LLAMA2)
    encoded = encode_chat(chat, tokenizer, num_visual_tokens=4)
    merged = [
        token for token in tokenizer.convert_ids_to_tokens(encoded["input_ids"].tolist()) if token.startswith("]Ġ")
    ]
    assert merged, "the tokenizer of this test should merge the border of question and answer"
    for turn, answer in enumerate(answers):
        assert answer in tokenizer.decode(encoded["input_ids"][encoded["turns"] == turn])


def test_images_take_their_places(chat):
    tokenizer = build_tokenizer([chat])
    chat[2]["content"] = "<image><image> and " + chat[2]["content"]
    encoded = encode_chat(chat, tokenizer, num_visual_tokens=[4, 3, 2])
    mask = encoded["visual_mask"]
    runs = "".join("v" if place else "." for place in mask.tolist()).replace(".", " ").split()
    assert [len(run) for run in runs] == [4, 5]
    assert (encoded["labels"][mask] == IGNORE).all()
    words = tokenizer.decode(encoded["input_ids"][~mask])
    assert "<image>" not in words and "coordinate (0.49, 0.60)?" in words


def test_list_contents_are_read(chat):
    tokenizer = build_tokenizer([chat])
    parts = [{"type": "image"}, {"type": "text", "text": chat[0]["content"].removeprefix("<image>")}]
    listed = [{"role": "user", "content": parts}, *chat[1:]]
    ours, theirs = (encode_chat(each, tokenizer, num_visual_tokens=4) for each in (listed, chat))
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_prompt_is_a_prefix_of_the_conversation(chat):
    for tokenizer in (build_tokenizer([chat]), byte_pair_tokenizer(CHATML)):
        whole = encode_chat(chat, tokenizer, num_visual_tokens=4)
        prompt = encode_chat(chat[:3], tokenizer, num_visual_tokens=4, add_generation_prompt=True)
        assert whole["input_ids"][: len(prompt["input_ids"])].equal(prompt["input_ids"])


def test_cut_at_whole_turns(chat, answers):
    tokenizer = build_tokenizer([chat])
    whole = encode_chat(chat, tokenizer, num_visual_tokens=4)
    cut = encode_chat(chat, tokenizer, num_visual_tokens=4, max_length=len(whole["input_ids"]) - 1)
    assert cut["turns"].unique().tolist() == [-1, 0]
    assert tokenizer.decode(cut["labels"][cut["labels"] >= 0]) == answers[0] + "<|end|>"
    with pytest.raises(SpatialBoostError, match="not even the first answer fits into 5 tokens"):
        encode_chat(chat, tokenizer, num_visual_tokens=4, max_length=5)


def test_mistakes_are_named(chat):
    tokenizer = build_tokenizer([chat])
    with pytest.raises(SpatialBoostError, match="no assistant message"):
        encode_chat(chat[:1], tokenizer, num_visual_tokens=4)
    with pytest.raises(SpatialBoostError, match="have 1 <image> marks, but there are 2 images"):
        encode_chat(chat, tokenizer, num_visual_tokens=[4, 4])
    with pytest.raises(SpatialBoostError, match="does not keep the messages"):
        render_chat([{"role": "assistant", "content": " two blanks "}], byte_pair_tokenizer(TRIMMING))
    with pytest.raises(SpatialBoostError, match=r"leaves out message 1 \(assistant\)"):
        render_chat(chat, byte_pair_tokenizer("{{ messages[0].content }}"))
    tokenizer.chat_template = None
    with pytest.raises(SpatialBoostError, match="no chat template"):
        encode_chat(chat, tokenizer)

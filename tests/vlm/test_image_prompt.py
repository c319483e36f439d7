"""Images in the text: names before visual tokens, and points said by these names."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spatialboost.encoders import read_tokens
from spatialboost.encoders.standardise import Standardise
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.questions.points import cell_centres
from spatialboost.vlm import Collator, SpatialVLM, encode_chat
from spatialboost.vlm.chat import IGNORE
from spatialboost.vlm.image_prompt import ImagePrompt
from spatialboost.vlm.llms import build_small_llm, build_tokenizer
from spatialboost.vlm.pooling import PatchPool
from spatialboost.vlm.projector import begin_at_digits, build_projector

SMALL = {"width": 32, "layers": 1, "heads": 2}
NAMED = ImagePrompt((2, 2), "named", 3)
FORMS = [ImagePrompt((2, 2)), NAMED, ImagePrompt((2, 2), "coordinates", 2)]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
)


def byte_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and a few merges across blanks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["The depth is 2.341 meters.; A1: B2:"] * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, eos_token="</s>", pad_token="</s>"
    )


def shown(encoded, tokenizer) -> str:
    """The text of the tokens, with V for each visual token."""
    groups, text = [], ""
    for number, visual in zip(encoded["input_ids"].tolist(), encoded["visual_mask"].tolist(), strict=True):
        if not groups or groups[-1][0] != visual:
            groups.append((visual, []))
        groups[-1][1].append(number)
    for visual, numbers in groups:
        text += "V" * len(numbers) if visual else tokenizer.decode(numbers, skip_special_tokens=False)
    return text


@pytest.mark.parametrize("template", [CHATML, LLAMA2])
def test_names_stand_before_visual_tokens(template, chat):
    tokenizer = byte_tokenizer(template)
    encoded = encode_chat(chat, tokenizer, num_visual_tokens=NAMED)
    text = shown(encoded, tokenizer)
    assert "Image: A1:VVV; A2:VVV; B1:VVV; B2:VVV\n" in text
    plain = encode_chat(chat, tokenizer, num_visual_tokens=4)
    assert text.replace("Image: A1:VVV; A2:VVV; B1:VVV; B2:VVV", "VVVV") == shown(plain, tokenizer)
    for name in ("labels", "turns"):  # names are part of no answer
        mine = encoded[name][encoded[name] != (IGNORE if name == "labels" else -1)]
        assert mine.tolist() == plain[name][plain[name] != (IGNORE if name == "labels" else -1)].tolist()


def test_several_images_are_numbered(chat):
    tokenizer = byte_tokenizer(CHATML)
    several = [{**chat[0], "content": f"<image>\n<image>\n{chat[0]['content'].removeprefix('<image>')}"}, *chat[1:]]
    text = shown(encode_chat(several, tokenizer, num_visual_tokens=ImagePrompt((1, 2), "coordinates")), tokenizer)
    assert "Image 1: (0.25, 0.50):V; (0.75, 0.50):V\nImage 2: (0.25, 0.50):V; (0.75, 0.50):V\n" in text


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 5), (8, 8), (7, 16), (50, 50)])
def test_a_name_alone_stands_for_the_centre_that_questions_ask(grid):
    prompt = ImagePrompt(grid, "named")
    assert len(set(prompt.names)) == grid[0] * grid[1]
    centres = [prompt.centre(row, column) for row in range(grid[0]) for column in range(grid[1])]
    assert centres == cell_centres(grid) and len(set(centres)) == len(centres)
    for name, (x, y) in zip(prompt.names, centres, strict=True):
        assert prompt.reword(f"At ({x / 100:.2f}, {y / 100:.2f})?") == f"At {name}?"


def test_every_other_point_keeps_its_coordinates_beside_the_cell_that_contains_it():
    prompt = ImagePrompt((4, 3), "named")
    said = re.compile(r"\((\d\.\d\d), (\d\.\d\d)\) in ([A-D])([1-3])")
    for x in range(101):
        for y in range(101):
            text = prompt.reword(f"({x / 100:.2f}, {y / 100:.2f})")
            found = said.fullmatch(text)
            if found is None:  # the name alone
                assert text in prompt.names and prompt.centre("ABCD".index(text[0]), int(text[1]) - 1) == (x, y)
                continue
            row, column = "ABCD".index(found[3]), int(found[4]) - 1
            assert found[1] == f"{x / 100:.2f}" and found[2] == f"{y / 100:.2f}"
            assert row * 25 <= y <= (row + 1) * 25 and column * 100 <= 3 * x <= (column + 1) * 100
    assert prompt.reword("cube [0.47, 0.25, 0.59, 0.55, 0.38, 1.00]") == "cube [0.47, 0.25, 0.59, 0.55, 0.38, 1.00]"
    assert ImagePrompt((4, 3)).reword("(0.10, 0.10)") == "(0.10, 0.10)"
    assert ImagePrompt((2, 2), "coordinates").reword("(0.30, 0.75)") == "(0.30, 0.75) in the cell at (0.25, 0.75)"


def test_rows_beyond_the_alphabet_and_grids_that_have_no_names():
    assert ImagePrompt((28, 1), "named").names[25:] == ("Z1", "AA1", "AB1")
    with pytest.raises(SpatialBoostError, match=r"has 51 x 2 cells; expected at most 50 a side"):
        ImagePrompt((51, 2), "named")
    assert ImagePrompt((51, 2)).num_tokens == 102
    with pytest.raises(SpatialBoostError, match="prompt is 'numbered'; expected plain, named or coordinates"):
        ImagePrompt((2, 2), "numbered")
    with pytest.raises(SpatialBoostError, match="2 x 2 cells with 0 tokens each"):
        ImagePrompt((2, 2), "named", 0)
    assert pickle.loads(pickle.dumps(NAMED)) == NAMED


@pytest.mark.parametrize("prompt", FORMS)
def test_the_length_is_that_of_the_tokens(prompt, chat):
    tokenizer = build_tokenizer([chat])
    with_image = len(encode_chat(chat, tokenizer, num_visual_tokens=prompt)["input_ids"])
    without = len(encode_chat(chat, tokenizer, num_visual_tokens=0)["input_ids"])
    assert prompt.length(tokenizer) == with_image - without


@pytest.mark.parametrize("prompt", FORMS)
def test_each_cell_gets_its_own_tokens_in_order(prompt, chat):
    torch.manual_seed(0)
    encoder = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0
    ).eval()  # 4 x 4 patches
    llm, tokenizer = build_small_llm([prompt.spelled(chat)], **SMALL)
    vlm = SpatialVLM(encoder, llm, pool=PatchPool((4, 4), 2), grid=(2, 2), prompt=prompt)
    two = Collator(tokenizer.pad_token_id)(
        [
            encode_chat(part, tokenizer, num_visual_tokens=prompt) | {"pixel_values": torch.randn(1, 3, 32, 32)}
            for part in (chat, chat[:2])
        ]
    )
    embeds = vlm.embed(two["input_ids"], two["visual_mask"], pixel_values=two["pixel_values"])
    cells = read_tokens(encoder, two["pixel_values"]).patches.view(2, 2, 2, 2, 2, 48).mean((2, 4)).view(2, 4, 48)
    tokens = vlm.projector(cells).view(2, 4, prompt.tokens_per_cell, 32) + vlm.places_NE[:, None]
    torch.testing.assert_close(embeds[two["visual_mask"]], tokens.flatten(0, 2))
    loss = vlm(**two).loss
    vlm.set_packing(True)
    torch.testing.assert_close(vlm(**two).loss, loss)  # names stay beside their tokens in a packed row


def test_generation_reads_names(chat):
    encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=2, num_classes=0).eval()
    llm, tokenizer = build_small_llm([NAMED.spelled(chat)], **SMALL)
    vlm = SpatialVLM(encoder, llm.eval(), prompt=NAMED)
    options = {"num_visual_tokens": NAMED, "add_generation_prompt": True}
    prompts = [
        encode_chat(chat[:n], tokenizer, **options) | {"pixel_values": torch.randn(1, 3, 32, 32)} for n in (1, 3)
    ]
    batch = Collator(tokenizer.pad_token_id, padding_side="left")(prompts)
    wanted = {key: batch[key] for key in ("input_ids", "visual_mask", "attention_mask", "pixel_values")}
    together = vlm.generate(**wanted, max_new_tokens=4, eos_token_id=None)
    alone = Collator(tokenizer.pad_token_id, padding_side="left")(prompts[:1])
    first = vlm.generate(**{key: alone[key] for key in wanted}, max_new_tokens=4, eos_token_id=None)
    assert together[0].tolist() == first[0].tolist()


def test_a_vocabulary_from_conversations_has_the_names(chat):
    tokenizer = build_tokenizer([NAMED.spelled(chat)])
    encoded = encode_chat(chat, tokenizer, num_visual_tokens=NAMED)
    text = encoded["input_ids"][~encoded["visual_mask"]]
    assert tokenizer.unk_token_id not in text.tolist()
    assert ImagePrompt((2, 2)).spelled(chat) == chat  # the paper's prompt has no text of its own


def test_standardised_features_and_a_start_at_the_digits(chat):
    encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    llm, tokenizer = build_small_llm([chat], **SMALL)
    projector = build_projector(encoder, llm, tokens_per_cell=2, standardise=True)
    features = 5 + 3 * torch.randn(8, 4, 48)
    projector[0].measure(features)
    assert isinstance(projector[0], Standardise)
    scaled = projector[0](features).flatten(0, 1)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(48), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, unbiased=False), torch.ones(48))
    projector[0].measure(torch.ones(2, 3, 48))  # channels that never vary
    assert bool(projector[0](torch.ones(1, 1, 48)).isfinite().all())
    begin_at_digits(projector, llm, tokenizer)
    table = llm.get_input_embeddings().weight
    mean = table[[tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"]].mean(0)
    torch.testing.assert_close(projector[-1].bias, mean.repeat(2))

from __future__ import annotations

import pytest
import torch

from multimodal_frames import frame
from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal import Sample
from spatialboost.multimodal.batches import InstructionCollator, encode, render
from tiny_vlms import VLMS, build


@pytest.fixture(params=VLMS)
def processor(request):
    return build(request.param)[1]


def test_labels_are_the_answers(processor, samples):
    """For every family: the processor replaces a mark by many tokens, and pads where it likes."""
    batch = InstructionCollator(processor)(samples)
    texts = [processor.tokenizer.decode(labels[labels >= 0]) for labels in batch["labels"]]
    assert [text.replace(" ", "") for text in texts] == ["Two<|end|>", "thelamp.<|end|>Left<|end|>"]
    learnt = batch["labels"] >= 0
    assert torch.equal(batch["labels"][learnt], batch["input_ids"][learnt]) and bool(
        batch["attention_mask"][learnt].all()
    )
    assert [len(views) for views in batch["views"]] == [2, 1]
    blind = encode(
        processor, [render(processor, each, blind=True) for each in samples], samples, padding_side="left", blind=True
    )
    assert set(blind) <= {"input_ids", "attention_mask", "mm_token_type_ids"}


def test_qwen_reads_every_pixel_of_a_prepared_frame():
    """A 4:3 frame of 518 x 392 is cut to 504 x 392, which is 252 tokens; it is not resized."""
    processor = build("qwen2_5_vl")[1]
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 1280}
    sample = Sample([{"role": "user", "content": "<image>How many?"}], [frame(392, 518, 0)])
    batch = encode(processor, [render(processor, sample, ask=True)], [sample], padding_side="left")
    assert batch["image_grid_thw"].tolist() == [[1, 28, 36]] and int(batch["mm_token_type_ids"].sum()) == 252


def test_errors(samples):
    processor = build("llava")[1]
    with pytest.raises(SpatialBoostError, match=r"a conversation of first, second has \d+ tokens, of at most 10"):
        InstructionCollator(processor, max_length=10)(samples)
    with pytest.raises(SpatialBoostError, match="first has no answer to train on"):
        InstructionCollator(processor)([samples[0].without_answer()])
    late = [*samples[0].messages, {"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(SpatialBoostError, match="put all <image> marks before the first answer"):
        InstructionCollator(processor)([Sample(late, [frame(28, 28, i) for i in range(3)])])
    processor.chat_template = None
    with pytest.raises(SpatialBoostError, match="has no chat template"):
        InstructionCollator(processor)(samples)

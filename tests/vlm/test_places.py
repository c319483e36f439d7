from __future__ import annotations

import torch

from spatialboost.vlm.llms import build_small_llm
from spatialboost.vlm.model import SpatialVLM
from spatialboost.vlm.places import grid_code, word_code


def test_the_words_for_a_point_match_the_patch_that_it_lies_in():
    code_NE = grid_code((8, 8), 128)
    for x, y in [(0.05, 0.95), (0.49, 0.60), (0.81, 0.13)]:
        nearest = int((code_NE @ (word_code(x, 0, 128) + word_code(y, 1, 128))).argmax())
        assert nearest == int(y * 8) * 8 + int(x * 8)


def test_small_model_knows_places_by_their_words(chat):
    plain, tokenizer = build_small_llm([chat], kind="llama", width=32, layers=1, heads=2)
    coded, _ = build_small_llm([chat], kind="llama", width=32, layers=1, heads=2, places=True)
    added = coded.get_input_embeddings().weight - plain.get_input_embeddings().weight
    x, y, word = (tokenizer.convert_tokens_to_ids(token) for token in ("0.49", " 0.60", " depth"))
    torch.testing.assert_close(added[x], word_code(0.49, 0, 32))
    torch.testing.assert_close(added[y], word_code(0.60, 1, 32))
    assert not added[word].any()
    assert coded.get_output_embeddings().weight is not coded.get_input_embeddings().weight


def test_visual_tokens_carry_their_place(chat, encoder):
    llm, _ = build_small_llm([chat], width=32, layers=1, heads=2)
    vlm = SpatialVLM(encoder, llm)
    placed = SpatialVLM(encoder, llm, projector=vlm.projector, grid=(2, 2))
    ids = torch.zeros(1, 4, dtype=torch.long)
    inputs = {"input_ids": ids, "visual_mask": ids == 0, "pixel_values": torch.randn(1, 3, 32, 32)}
    difference = placed.embed(**inputs) - vlm.embed(**inputs)
    torch.testing.assert_close(difference[0], grid_code((2, 2), 32))
    assert set(placed.state_dict()) == set(vlm.state_dict())

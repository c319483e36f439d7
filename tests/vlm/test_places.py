from __future__ import annotations

import torch

from spatialboost.vlm.llms import build_small_llm
from spatialboost.vlm.model import SpatialVLM
from spatialboost.vlm.places import grid_code, word_codes, words_for_places


def test_the_words_for_a_point_match_the_patch_that_it_lies_in():
    code_NE, codes = grid_code((8, 8), 128), dict(zip(words_for_places(), word_codes(128), strict=True))
    for x, y in [(0.05, 0.95), (0.49, 0.60), (0.81, 0.13)]:
        nearest = int((code_NE @ codes[f" ({x:.2f}, {y:.2f})"]).argmax())
        assert nearest == int(y * 8) * 8 + int(x * 8)


def test_small_model_knows_places_by_their_words(chat):
    llm, tokenizer = build_small_llm([chat], kind="llama", width=32, layers=1, heads=2, places=True)
    assert tokenizer.tokenize("depth at (0.49, 0.60)?")[-2:] == [" (0.49, 0.60)", "?"]
    embeddings = llm.get_input_embeddings().weight
    words = embeddings[tokenizer.convert_tokens_to_ids(words_for_places())]
    assert float((words - word_codes(32)).detach().std()) < 0.03  # the initial embeddings of a new model
    assert float(embeddings.detach()[tokenizer.convert_tokens_to_ids(" depth")].std()) < 0.03
    assert llm.get_output_embeddings().weight is not embeddings


def test_visual_tokens_carry_their_place(chat, encoder):
    llm, _ = build_small_llm([chat], width=32, layers=1, heads=2)
    vlm = SpatialVLM(encoder, llm)
    placed = SpatialVLM(encoder, llm, projector=vlm.projector, grid=(2, 2))
    ids = torch.zeros(1, 4, dtype=torch.long)
    inputs = {"input_ids": ids, "visual_mask": ids == 0, "pixel_values": torch.randn(1, 3, 32, 32)}
    difference = placed.embed(**inputs) - vlm.embed(**inputs)
    torch.testing.assert_close(difference[0], grid_code((2, 2), 32))
    assert set(placed.state_dict()) == set(vlm.state_dict())

from __future__ import annotations

import numpy as np
import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.registry import open_extractor
from tiny_networks import save_clip, save_siglip

SAVE = {"clip": save_clip, "siglip": save_siglip}


@pytest.fixture(scope="module", params=SAVE)
def network(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / request.param
    SAVE[request.param](folder)
    return request.param, folder


def views(num: int = 3) -> list[PartialCues]:
    rng = np.random.default_rng(0)
    return [
        PartialCues(rng.integers(0, 256, (40 + seed, 50, 3), dtype=np.uint8), f"{seed}.jpg", facts={"mean": 1})
        for seed in range(num)
    ]


def open_tiny(network, **options):
    return open_extractor(
        "open-vocabulary", model=str(network[1]), device="cpu", prompts="cat. dog. red ball", **options
    )


def test_probabilities_are_those_of_transformers_called_directly(network):
    from transformers import AutoModelForZeroShotImageClassification, AutoProcessor

    name, folder = network
    image = views(1)[0].image_HW3
    (found,) = open_tiny(network).probabilities([image])
    model = AutoModelForZeroShotImageClassification.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    texts = ["a photo of a cat", "a photo of a dog", "a photo of a red ball", "a photo"]
    with torch.no_grad():
        if name == "siglip":
            inputs = processor(text=texts, images=image, padding="max_length", max_length=64, return_tensors="pt")
            expected = torch.sigmoid(model(**inputs).logits_per_image[0, :3])
        else:
            inputs = processor(text=texts, images=image, padding=True, return_tensors="pt")
            logits = model(**inputs).logits_per_image[0]
            expected = torch.stack([torch.softmax(logits[[i, 3]], 0)[0] for i in range(3)])
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert len(set(found.tolist())) == 3


def test_views_with_too_little_are_left_out_with_the_numbers(network):
    everything = open_tiny(network, threshold=0.0, least=3)(views())
    assert all(set(addition["facts"]) == {"mean", "seen"} for addition in everything)
    assert list(everything[0]["facts"]["seen"]) == ["cat", "dog", "red ball"]
    for view, addition in zip(views(), open_tiny(network, threshold=1.0)(views()), strict=True):
        assert isinstance(addition, CuesError)
        best = max(everything[int(view.source[0])]["facts"]["seen"].items(), key=lambda pair: pair[1])
        assert str(addition).startswith(f"{view.source}: 0 of 3 kinds of things are seen (the clearest is {best[0]}, ")
        assert str(addition).endswith("; expected at least 2 above 1")


def test_a_batch_gives_what_single_views_give(network):
    extractor = open_tiny(network, threshold=0.0)
    for view, addition in zip(views(), extractor(views()), strict=True):
        (alone,) = extractor([view])
        assert addition["facts"]["seen"] == pytest.approx(alone["facts"]["seen"], abs=2e-4)


def test_probabilities_that_are_no_numbers_leave_the_view_out(network):
    extractor = open_tiny(network)
    with torch.no_grad():
        for weight in extractor.network.model.parameters():
            weight.fill_(float("nan"))
    (addition,) = extractor(views(1))
    assert str(addition) == f"0.jpg: {network[1]} gives probabilities that are not numbers"


def test_wrong_numbers_are_refused(network):
    with pytest.raises(SpatialBoostError, match="least is 4; expected 1 to 3, the number of prompts"):
        open_tiny(network, least=4)
    with pytest.raises(SpatialBoostError, match="threshold is -1, expected a number from 0 to 1"):
        open_tiny(network, threshold=-1)

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from spatialboost.scenes.cues import SceneObject
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.region_text import PROMPT, RegionText, clean_phrase, cut_out
from spatialboost.scenes.extract.registry import open_extractor
from tiny_networks import save_blip, save_llava

SAVE = {"blip": save_blip, "llava": save_llava}


@pytest.fixture(scope="module", params=SAVE)
def network(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / request.param
    SAVE[request.param](folder)
    return request.param, folder


def picture(seed: int = 0, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def two_things(seed: int = 0) -> PartialCues:
    masks = np.zeros((2, 60, 80), bool)
    masks[0, 10:40, 5:30] = masks[1, 20:50, 45:75] = True
    things = [SceneObject("grey object on the left", masks[0]), SceneObject("grey object on the right", masks[1])]
    return PartialCues(picture(seed), f"{seed}.jpg", objects=things, facts={"mean": 3})


def test_captions_are_those_of_transformers_called_directly(network):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    name, folder = network
    crops = [picture(seed, (30 + seed, 40)) for seed in range(3)]
    found = open_extractor("region-text", model=str(folder), device="cpu").captions(crops)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    for crop, text in zip(crops, found, strict=True):
        image = Image.fromarray(crop)
        if name == "llava":
            content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
            asked = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(images=image, text=asked, return_tensors="pt")
        else:
            inputs = processor(images=image, return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        if name == "llava":
            ids = ids[:, inputs["input_ids"].shape[1] :]
        assert text == processor.batch_decode(ids, skip_special_tokens=True)[0]
    assert any(found)


def test_objects_get_names_that_are_unique_and_a_batch_is_what_single_views_give(network):
    extractor = open_extractor("region-text", model=str(network[1]), device="cpu")
    views = [two_things(seed) for seed in range(3)] + [PartialCues(picture(), "nothing")]
    together = extractor(views)
    for view, addition in zip(views, together, strict=True):
        (alone,) = extractor([view])
        names = [thing.description for thing in addition["objects"]]
        assert names == [thing.description for thing in alone["objects"]]
        assert len(set(names)) == len(names) == len(view.objects)
        assert set(addition["facts"]) == {*view.facts, "region_text"}
    assert together[3]["objects"] == []


def test_bad_texts_keep_the_objects_and_are_counted(network, monkeypatch):
    extractor = open_extractor("region-text", model=str(network[1]), device="cpu")
    said = iter(["<image>\n\n", '<|im_start|>assistant: A "Red Chair".\nIt stands there.<|im_end|>'])
    monkeypatch.setattr(RegionText, "captions", lambda self, crops: [next(said) for _ in crops])
    (addition,) = extractor([two_things()])
    assert [thing.description for thing in addition["objects"]] == ["grey object on the left", "red chair"]
    assert addition["facts"] == {"mean": 3, "region_text": {"markup": 2, "unusable": 1}}


def test_a_name_that_another_object_has_already_drops_the_old_one(network, monkeypatch):
    extractor = open_extractor("region-text", model=str(network[1]), device="cpu")
    said = iter(["grey object", ""])
    monkeypatch.setattr(RegionText, "captions", lambda self, crops: [next(said) for _ in crops])
    view = two_things()
    view.objects[1] = SceneObject("grey object", view.objects[1].mask_HW)
    (addition,) = extractor([view])
    assert [thing.description for thing in addition["objects"]] == ["grey object"]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("A red chair.", "red chair"),
        ("a photo of the blue table", "blue table"),
        ("The image shows a white ceramic cup on the left side of a desk", "white ceramic cup"),
        ("there is a dog that is sitting", "dog"),
        ("it's a lamp", "lamp"),
        ("Answer: “Wooden desk”, with drawers", "wooden desk"),
        ("close-up of an old clock", "old clock"),
        ("the man's 'old' hat", "man's old hat"),
        ("café table", "café table"),
        ("red chair\\nIt is old", "red chair"),
        ("<b>bold</b> sofa &amp; pillow", "bold sofa pillow"),
        ("chair with a blurred background", "chair"),
        ("<image>", ""),
        ("", ""),
        ("...", ""),
        ("12", ""),
        ("<script>x", "x"),
        ("{{ evil }}", ""),
        ("a b c d e f g h i j", ""),
        ("\x00\u202ered\u2028chair", "red"),
    ],
)
def test_phrases_are_cleaned(text, phrase):
    assert clean_phrase(text)[0] == phrase


def test_what_is_not_the_object_is_blurred():
    image = np.zeros((40, 40, 3), np.uint8)
    image[::2] = 255
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    crop = cut_out(image, mask)
    assert crop.shape == (26, 26, 3)
    assert np.array_equal(crop[3:23, 3:23], image[10:30, 10:30])
    assert np.ptp(crop[:3]) < 200

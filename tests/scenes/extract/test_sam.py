from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.extract import clicks
from spatialboost.scenes.extract.clicks import click_grid, keep_masks
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.extract.sam import Segmenter
from tiny_networks import save_sam, save_sam2

SAVE = {"sam": save_sam, "sam2": save_sam2}


@pytest.fixture(scope="module", params=SAVE)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / request.param
    SAVE[request.param](path)
    return path


@pytest.fixture
def everything_counts(monkeypatch):
    """A random network is never sure: keep all its masks."""
    keep = functools.partial(keep_masks, min_score=-1e9, min_stability=-1.0, max_iou=1.0)
    monkeypatch.setattr(clicks, "keep_masks", keep)


def segmenter_of(folder) -> Segmenter:
    return Segmenter(str(folder), revision=None, device="cpu", dtype="float32")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_masks_are_those_of_transformers_called_directly(folder, everything_counts):
    from transformers import AutoModelForMaskGeneration, AutoProcessor

    image = picture(90, 120)
    (found,) = segmenter_of(folder).everything([image], clicks=3)
    model, processor = AutoModelForMaskGeneration.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    points = click_grid((90, 120), 3)[:, None].tolist()
    inputs = processor(image, input_points=[points], input_labels=[[[1]] * 9], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    sizes = {key: inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs}
    masks = processor.image_processor.post_process_masks(outputs.pred_masks, **sizes)[0].flatten(0, 1).numpy()
    scores = outputs.iou_scores.flatten().numpy()
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    expected = [(scores[i], masks[i]) for i in order if masks[i].any()]
    assert len(found) >= 9
    for region in found:
        score, mask = min(expected, key=lambda pair: abs(pair[0] - region.score))
        assert region.score == pytest.approx(float(score), abs=1e-5)
        assert (region.mask_HW != mask).mean() < 1e-3


def test_a_batch_gives_what_single_images_give(folder, everything_counts):
    segmenter = segmenter_of(folder)
    images = [picture(90, 120), picture(64, 50, seed=1)]
    together = segmenter.everything(images, clicks=2)
    for image, regions in zip(images, together, strict=True):
        (alone,) = segmenter.everything([image], clicks=2)
        assert len(alone) == len(regions) > 0
        for one, other in zip(alone, regions, strict=True):
            assert one.mask_HW.shape == image.shape[:2]
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert (one.mask_HW != other.mask_HW).mean() < 1e-3


def test_boxes_give_one_mask_each(folder):
    segmenter = segmenter_of(folder)
    boxes = np.array([[10.0, 5, 60, 70], [50, 20, 110, 85]])
    both = segmenter.in_boxes(picture(90, 120), boxes)
    assert [region.mask_HW.shape for region in both] == [(90, 120)] * 2
    (second,) = segmenter.in_boxes(picture(90, 120), boxes[1:])
    assert (second.mask_HW != both[1].mask_HW).mean() < 1e-3


def test_the_extractor_finds_objects_and_says_where_they_are_from(folder, everything_counts):
    extractor = open_extractor("sam2", model=str(folder), device="cpu", clicks=3, max_objects=3)
    views = [PartialCues(picture(90, 120, seed), f"{seed}.jpg") for seed in range(3)]
    found = extractor(views)
    assert any(addition["objects"] for addition in found)
    for addition in found:
        masks = [thing.mask_HW for thing in addition["objects"]]
        assert len(masks) <= 3
        assert not masks or np.sum(masks, 0).max() == 1
    assert extractor.provenance["model"] == str(folder)
    assert extractor.provenance["revision"].startswith("sha256:")
    assert extractor.provenance["licence"] == "not known, see the model's page"
    (again,) = pickle.loads(pickle.dumps(extractor))(views[:1])  # in another process
    assert [thing.description for thing in again["objects"]] == [each.description for each in found[0]["objects"]]


def test_a_network_that_is_not_sure_finds_nothing(folder, monkeypatch):
    extractor = open_extractor("sam2", model=str(folder), device="cpu", clicks=2)
    decode = Segmenter._decode

    def without_scores(self, *args, **options):
        logits, scores = decode(self, *args, **options)
        return logits, torch.full_like(scores, float("nan"))

    monkeypatch.setattr(Segmenter, "_decode", without_scores)
    assert extractor([PartialCues(picture(40, 60), "x")]) == [{"objects": []}]
    monkeypatch.setattr(Segmenter, "_decode", lambda self, *a, **k: (-torch.ones(4, 8, 8), torch.ones(4)))
    assert extractor([PartialCues(picture(40, 60), "x")]) == [{"objects": []}]


def test_what_cannot_be_loaded_is_said_before_anything_runs(folder, tmp_path):
    with pytest.raises(SpatialBoostError, match=r"there is no folder .*: give a folder of a model"):
        open_extractor("sam2", model=str(tmp_path / "missing"))
    with pytest.raises(SpatialBoostError, match="unknown dtype 'int8'"):
        open_extractor("sam2", model=str(folder), dtype="int8")
    with pytest.raises(SpatialBoostError, match="device is 'gpu', which torch cannot use here"):
        open_extractor("sam2", model=str(folder), device="gpu")
    for wrong in ({"clicks": 0}, {"max_objects": 0}):
        with pytest.raises(SpatialBoostError, match="is 0, expected at least one"):
            open_extractor("sam2", model=str(folder), **wrong)


def test_of_two_masks_of_one_thing_the_surer_is_kept_and_nothing_else():
    logits = torch.full((6, 16, 16), -9.0)
    logits[0, 2:8, 2:8] = 9.0  # good
    logits[1, 2:8, 2:9] = 9.0  # the same thing, surer
    logits[2, 10:14, 10:14] = 9.0  # not sure
    logits[3, 10:14, 2:6] = 0.5  # not stable
    logits[5, 10:14, 2:6] = 9.0  # no number
    scores = torch.tensor([0.85, 0.9, 0.5, 0.99, 0.99, float("nan")])
    assert keep_masks(logits, scores).tolist() == [1]

from __future__ import annotations

import numpy as np
import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.extract.grounded import match_name
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.registry import open_extractor
from tiny_networks import save_grounding_dino, save_sam2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "dino"
    save_grounding_dino(path)
    return path


def picture(seed: int = 0, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def open_tiny(folder, **options):
    return open_extractor("grounding-dino", model=str(folder), device="cpu", **({"names": "Chair."} | options))


def test_boxes_are_those_of_transformers_called_directly(folder):
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    (found,) = open_tiny(folder, threshold=0.4).boxes([picture()])
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=picture(), text="chair.", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (direct,) = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.4, text_threshold=0.4, target_sizes=[(60, 80)]
    )
    named = [number for number, label in enumerate(direct["text_labels"]) if "chair" in label]
    boxes, scores, names = found
    assert len(named) > 1
    assert names == ["chair"] * len(named)
    assert np.allclose(boxes, direct["boxes"][named].numpy(), atol=1e-4)
    assert scores == pytest.approx(direct["scores"][named].tolist(), abs=1e-5)


def test_a_batch_gives_what_single_images_give(folder):
    extractor = open_tiny(folder, threshold=0.2, names="chair. floor lamp")
    images = [picture(), picture(1, (50, 64)), picture(2)]
    for image, (boxes, scores, names) in zip(images, extractor.boxes(images), strict=True):
        ((boxes_alone, scores_alone, names_alone),) = extractor.boxes([image])
        assert np.allclose(boxes, boxes_alone, atol=1e-3)
        assert scores == pytest.approx(scores_alone, abs=1e-4)
        assert names == names_alone


def test_masks_are_the_boxes_or_what_sam_draws_in_them(folder, tmp_path):
    view = PartialCues(picture(), "x")
    plain = open_tiny(folder, threshold=0.4, max_objects=40)
    things = plain([view])[0]["objects"]
    assert things and all("chair" in thing.description for thing in things)
    boxes = plain.boxes([view.image_HW3])[0][0]
    union = np.zeros((60, 80), bool)
    for x0, y0, x1, y1 in boxes.round().astype(int).tolist():
        union[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
    assert not any((thing.mask_HW & ~union).any() for thing in things)
    save_sam2(tmp_path)
    drawn = open_tiny(folder, threshold=0.4, masks=str(tmp_path))
    regions = drawn._regions(view, *plain.boxes([view.image_HW3])[0])
    inside = drawn.segmenter.in_boxes(view.image_HW3, boxes)
    assert all(np.array_equal(a.mask_HW, b.mask_HW) for a, b in zip(regions, inside, strict=True))
    assert drawn.provenance["model"] == f"{folder.name}; {tmp_path.name}"


def test_nothing_above_the_threshold_is_no_object(folder):
    assert open_tiny(folder, threshold=1.0)([PartialCues(picture(), "x")]) == [{"objects": []}]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("floor lamp", "floor lamp"),
        ("lamp. [SEP]", "floor lamp"),
        ("lamp table", ""),
        ("chair", "chair"),
        ("dining", "dining table"),
        ("table", "table"),
        ("", ""),
        ("[CLS]", ""),
    ],
)
def test_a_label_is_one_of_the_names_or_none(label, name):
    assert match_name(label, ["chair", "table", "floor lamp", "dining table"]) == name


def test_without_names_there_is_nothing_to_look_for(folder):
    for names in ("", " . ", []):
        with pytest.raises(SpatialBoostError, match="expected what to look for, such as 'chair"):
            open_tiny(folder, names=names)

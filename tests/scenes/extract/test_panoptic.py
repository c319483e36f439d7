from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.extract.panoptic import class_name
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.registry import open_extractor
from tiny_networks import CLASSES, save_mask2former, save_oneformer

SAVE = {"mask2former": save_mask2former, "oneformer": save_oneformer}


@pytest.fixture(scope="module", params=SAVE)
def network(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / request.param
    SAVE[request.param](folder)
    return request.param, folder


def picture(seed: int = 0, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_segments_are_those_of_transformers_called_directly(network):
    from transformers import AutoModelForUniversalSegmentation, AutoProcessor

    name, folder = network
    images = [picture(seed) for seed in range(4)]
    found = open_extractor(name, model=str(folder), device="cpu", threshold=0.3).segments(images)
    model = AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    told = {"task_inputs": ["panoptic"] * 4} if name == "oneformer" else {}
    with torch.no_grad():
        outputs = model(**processor(images=images, return_tensors="pt", **told))
    direct = processor.post_process_panoptic_segmentation(
        outputs, threshold=0.3, label_ids_to_fuse=set(), target_sizes=[(60, 80)] * 4
    )
    names = {0: "chair", 1: None, 2: "tv"}
    for regions, expected in zip(found, direct, strict=True):
        wanted = {
            (names[each["label_id"]], (expected["segmentation"] == each["id"]).numpy().tobytes())
            for each in expected["segments_info"]
            if names[each["label_id"]]
        }
        assert {(region.name, region.mask_HW.tobytes()) for region in regions} == wanted
    assert sum(map(len, found)) > 2


def test_a_batch_gives_what_single_views_give(network):
    name, folder = network
    extractor = open_extractor(name, model=str(folder), device="cpu", threshold=0.3)
    views = [PartialCues(picture(seed, (60, 80 - 8 * seed)), f"{seed}.jpg") for seed in range(3)]
    together = extractor(views)
    for view, addition in zip(views, together, strict=True):
        (alone,) = extractor([view])
        pairs = list(zip(addition["objects"], alone["objects"], strict=True))
        assert all(a.description == b.description and np.array_equal(a.mask_HW, b.mask_HW) for a, b in pairs)
    words = {word for each in together for thing in each["objects"] for word in thing.description.split()}
    assert words & {"chair", "tv"}
    assert "wall" not in words


def test_scores_that_are_no_numbers_find_nothing(network):
    name, folder = network
    extractor = open_extractor(name, model=str(folder), device="cpu")
    with torch.no_grad():
        for weight in extractor.network.model.parameters():
            weight.fill_(float("nan"))
    assert extractor([PartialCues(picture(), "x")]) == [{"objects": []}]


def test_a_processor_fetches_no_other_repository(tmp_path):
    save_oneformer(tmp_path)
    path = tmp_path / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"] |= {"class_info_file": "evil.json", "repo_path": "evil/repository"}
    path.write_text(json.dumps(content))
    extractor = open_extractor("oneformer", model=str(tmp_path), device="cpu")
    assert extractor.network.processor.image_processor.class_info_file is None


def test_a_model_of_another_task_and_wrong_numbers_are_refused(network, tmp_path):
    name, folder = network
    with pytest.raises(SpatialBoostError, match="from which no AutoModelForMaskGeneration can be built"):
        open_extractor("sam2", model=str(folder))
    with pytest.raises(SpatialBoostError, match=r"threshold is 1\.5, expected a number from 0 to 1"):
        open_extractor(name, model=str(folder), threshold=1.5)


@pytest.mark.parametrize(
    ("label", "name"),
    [(CLASSES[1], "wall"), ("dining table", "dining table"), ("TV, television", "tv"), ("LABEL_7", ""), ("", "")],
)
def test_class_names(label, name):
    assert class_name(label) == name

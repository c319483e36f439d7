from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from depth_models import save_depth_anything, save_depth_pro, save_zoedepth
from hub_server import Repo
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.extract.depth import DepthAnything, DepthPro, ZoeDepth
from spatialboost.scenes.extract.networks import UNKNOWN_LICENCE, licence_of
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.protocol import KINDS, PartialCues
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.focal import make_intrinsics
from spatialboost.scenes.images.folder import Photographs
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms

NAMES = ("depth-anything", "depth-pro", "zoedepth")
POINTS = TurnPlan({"depth": 2, "closer": 2})
network = pytest.mark.skipif(
    not os.environ.get("SPATIALBOOST_NETWORK"), reason="set SPATIALBOOST_NETWORK=1 to download weights from the Hub"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("depth")
    makers = (save_depth_anything, save_depth_pro, save_zoedepth)
    return {name: save(root / name) for name, save in zip(NAMES, makers, strict=True)}


@pytest.fixture(scope="module")
def open_depth(folders):
    """Open an extractor with tiny weights; each is loaded once."""
    opened = {}

    def opener(name, **options):
        key = name, tuple(sorted(options.items()))
        if key not in opened:
            opened[key] = open_extractor(name, **{"model": str(folders[name]), "device": "cpu", **options})
        return opened[key]

    return opener


def views(sizes=((96, 128), (128, 96), (96, 128))) -> list[PartialCues]:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(size[::-1]) for size in sizes]
    return [PartialCues(np.asarray(image), f"view {number}") for number, image in enumerate(images)]


def directly(folder, image_HW3) -> np.ndarray:
    """Depth of one image, as the documentation of transformers computes it."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = transformers.AutoModelForDepthEstimation.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=Image.fromarray(image_HW3), return_tensors="pt"))
    sizes = [image_HW3.shape[:2]]
    more = {"source_sizes": sizes} if "zoe" in model.config.model_type else {}
    return processor.post_process_depth_estimation(outputs, target_sizes=sizes, **more)[0]["predicted_depth"].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_depth_is_what_transformers_gives_for_the_image(name, folders, open_depth):
    view = views()[1]
    (found,) = open_depth(name)([view])
    expected = directly(folders[name], view.image_HW3)
    assert set(found) <= set(KINDS["depth"].sets)
    valid = found["depth_HW"] > 0
    assert (valid == ((expected > 0) & (expected <= open_depth(name).largest()))).all()
    assert valid.mean() > 0.5
    assert found["depth_HW"].dtype == np.float32
    np.testing.assert_allclose(found["depth_HW"][valid], expected[valid], rtol=1e-5)
    assert np.ptp(expected[valid]) > 0.1  # the weights say something about the image
    cues = view.adding(found).to_cues()
    assert cues.size == (128, 96)
    assert cues.depth_noise == {"depth-anything": 0.15, "depth-pro": 0.1, "zoedepth": 0.12}[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_each_view_gives_alone(name, open_depth):
    extractor = open_depth(name)
    together = extractor(views())
    for view, found in zip(views(), together, strict=True):
        (alone,) = extractor([view])
        np.testing.assert_allclose(found["depth_HW"], alone["depth_HW"], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["intrinsics_33"], alone["intrinsics_33"])
        assert found["depth_HW"].shape == view.image_HW3.shape[:2]


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_gives_about_the_same(name, open_depth):
    (exact,), (rough,) = open_depth(name)(views()[:1]), open_depth(name, dtype="bfloat16")(views()[:1])
    both = (exact["depth_HW"] > 0) & (rough["depth_HW"] > 0)
    assert 0 < np.median(np.abs(rough["depth_HW"][both] / exact["depth_HW"][both] - 1)) < 0.05
    assert open_depth(name, dtype="bfloat16").name != open_depth(name).name


def test_depth_pro_uses_the_focal_length_that_it_estimates_or_a_better_one(folders, open_depth):
    view = views()[0]
    (found,) = open_depth("depth-pro")([view])
    assert found["facts"] == {"focal": "model"}
    model = transformers.DepthProForDepthEstimation.from_pretrained(folders["depth-pro"])
    processor = transformers.AutoImageProcessor.from_pretrained(folders["depth-pro"])
    with torch.no_grad():
        angle = float(model(**processor(images=Image.fromarray(view.image_HW3), return_tensors="pt")).field_of_view)
    focal = 128 / (2 * np.tan(np.radians(angle) / 2))
    np.testing.assert_allclose(found["intrinsics_33"], make_intrinsics(focal, (96, 128)), rtol=1e-5)

    known = replace(view, intrinsics_33=make_intrinsics(2 * focal, (96, 128)), facts={"focal": "exif", "other": 1})
    (of_exif,) = open_depth("depth-pro")([known])
    assert of_exif["facts"] == {"focal": "exif", "other": 1}
    assert (of_exif["intrinsics_33"] == known.intrinsics_33).all()
    both = (found["depth_HW"] > 0) & (of_exif["depth_HW"] > 0)
    np.testing.assert_allclose(of_exif["depth_HW"][both], 2 * found["depth_HW"][both], rtol=1e-3)


def test_a_focal_length_that_is_given_comes_before_all_others(open_depth):
    for name in NAMES:
        for view in (views()[0], replace(views()[0], intrinsics_33=make_intrinsics(77, (96, 128)))):
            (found,) = open_depth(name, focal="90deg")([view])
            np.testing.assert_allclose(found["intrinsics_33"], make_intrinsics(64, (96, 128)))
            assert found["facts"] == {"focal": "given"}


def test_metres_follow_the_focal_length_where_a_network_was_trained_with_one_camera(tmp_path, open_depth):
    view = views()[0]
    (assumed,) = open_depth("depth-anything")([view])
    assert assumed["facts"] == {"focal": "assumed"}
    focal = assumed["intrinsics_33"][0, 0]
    assert focal == pytest.approx(1.155 * 96, rel=0.05)  # the camera of Hypersim: 60 degrees for 4:3
    known = replace(view, intrinsics_33=make_intrinsics(0.5 * focal, (96, 128)))
    (of_source,) = open_depth("depth-anything")([known])
    assert of_source["facts"] == {"focal": "source"}
    np.testing.assert_allclose(of_source["depth_HW"], 0.5 * assumed["depth_HW"], rtol=1e-4)
    outdoor = open_extractor("depth-anything", model=str(save_depth_anything(tmp_path, max_depth=80)), device="cpu")
    (street,) = outdoor([view])
    assert street["intrinsics_33"][0, 0] == pytest.approx(1.933 * 96, rel=0.05)
    (zoe,), (zoe_known,) = open_depth("zoedepth")([view]), open_depth("zoedepth")([known])
    np.testing.assert_allclose(zoe["depth_HW"], zoe_known["depth_HW"])  # two cameras: nothing to compare with


def test_depth_pro_without_a_head_for_the_field_of_view(tmp_path):
    extractor = open_extractor("depth-pro", model=str(save_depth_pro(tmp_path, fov=False)), device="cpu")
    (found,) = extractor(views()[:1])
    assert found["facts"] == {"focal": "assumed"}
    assert found["intrinsics_33"][0, 0] == pytest.approx(1.15 * 96)


# --- what cannot be used


def test_depth_at_the_end_of_the_networks_range_is_no_reading(tmp_path, monkeypatch):
    extractor = open_extractor("depth-anything", model=str(save_depth_anything(tmp_path)), device="cpu")
    loaded = extractor.network.model
    with torch.no_grad():
        loaded.head.conv3.bias.fill_(100.0)
    (found,) = extractor(views()[:1])
    assert isinstance(found, CuesError)
    assert str(found) == "view 0: the depth that depth-anything gives is 20 to 20 m; expected 0 to 19.6 m"
    with torch.no_grad():
        loaded.head.conv3.bias.fill_(float("nan"))
    (found,) = extractor(views()[:1])
    assert "gives is not a number" in str(found)


def test_an_impossible_field_of_view_costs_only_its_view(tmp_path):
    extractor = open_extractor("depth-pro", model=str(save_depth_pro(tmp_path, angle=-40.0)), device="cpu")
    known = replace(views()[1], intrinsics_33=make_intrinsics(100, (128, 96)))
    bad, good = extractor([views()[0], known])
    assert "view 0: the field of view that depth-pro estimates is not between 0 and 180 degrees" in str(bad)
    assert good["facts"] == {"focal": "source"}


def test_wrong_models_are_refused_before_anything_is_read(tmp_path, folders):
    relative = save_depth_anything(tmp_path / "relative", metric=False)
    with pytest.raises(SpatialBoostError, match="relative depth, which has no unit; expected a metric model"):
        open_extractor("depth-anything", model=str(relative))
    with pytest.raises(SpatialBoostError, match="is a zoedepth model; depth-pro needs one of the type depth_pro"):
        open_extractor("depth-pro", model=str(folders["zoedepth"]))
    with pytest.raises(SpatialBoostError, match=r"there is no folder .*missing"):
        open_extractor("zoedepth", model=str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpatialBoostError, match=r"has no config\.json"):
        open_extractor("zoedepth", model=str(tmp_path / "empty"))
    for option, value, message in (
        ("dtype", "float8", r"unknown dtype 'float8'; .* Did you mean"),
        ("device", "gpu", "device is 'gpu', which torch cannot use here"),
        ("focal", "60", r"focal is '60'; expected a length in pixels of the view \(1200px\)"),
        ("noise", "much", "noise is much; expected a fraction"),
        ("noise", 1.0, "noise is 1.0; expected a fraction"),
    ):
        with pytest.raises(SpatialBoostError, match=message):
            open_extractor("zoedepth", model=str(folders["zoedepth"]), **{option: value})


def test_pickles_are_never_opened(tmp_path):
    folder = save_depth_anything(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    extractor = open_extractor("depth-anything", model=str(folder), device="cpu")
    with pytest.raises(SpatialBoostError, match=r"has no model\.safetensors\. Only safetensors are opened"):
        extractor(views())


def test_an_image_that_the_network_cannot_take_costs_no_other(open_depth):
    tiny = PartialCues(np.zeros((2, 300, 3), np.uint8), "strip")
    found = open_depth("zoedepth")([views()[0], tiny])
    assert "depth_HW" in found[0]
    assert isinstance(found[1], CuesError)
    assert str(found[1]).startswith("strip: the network cannot take this image")


# --- origin


def test_licences_and_revisions_are_recorded(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "spatialboost")
    folder = save_depth_anything(tmp_path / "mine")
    first = open_extractor("depth-anything", model=str(folder), device="cpu")
    assert first.provenance["model"] == "mine"  # a data set says nothing of the folders of a machine
    assert first.provenance["licence"] == UNKNOWN_LICENCE
    assert first.provenance["revision"].startswith("sha256:")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: apple-amlr\n---\n# A card\n")
    again = open_extractor("depth-anything", model=str(folder), device="cpu")
    assert again.provenance == {**first.provenance, "licence": "apple-amlr"}
    assert f"{folder}, revision sha256:" in caplog.text
    assert "the licence of mine (apple-amlr) does not allow commercial use" in caplog.text
    (folder / "README.md").write_text("---\nlicense: [broken\n---\n")
    assert open_extractor("depth-anything", model=str(folder), device="cpu").provenance["licence"] == UNKNOWN_LICENCE
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = open_extractor("depth-anything", model=str(folder), device="cpu")
    assert changed.provenance["revision"] != first.provenance["revision"]
    assert changed.name != first.name


def test_a_model_of_the_hub_is_kept_at_its_commit(tmp_path, hub, folders):
    """Weights are loaded when they are first needed; the branch may have moved by then."""
    files = {path.name: path.read_bytes() for path in folders["depth-anything"].iterdir()}
    repo = Repo()
    hub.repos["me/depth"] = repo
    sha = repo.commit({**files, "README.md": b"---\nlicense: cc-by-nc-4.0\n---\n"}, "first")
    extractor = open_extractor("depth-anything", model="me/depth", device="cpu")
    assert set(hub.downloads()) == {"config.json", "README.md"}
    assert extractor.provenance == {"model": "me/depth", "revision": sha, "licence": "cc-by-nc-4.0"}
    repo.commit({"config.json": b"{}"}, "second")
    (found,) = extractor(views()[:1])
    local = open_extractor("depth-anything", model=str(folders["depth-anything"]), device="cpu")
    assert (found["depth_HW"] == local(views()[:1])[0]["depth_HW"]).all()
    with pytest.raises(SpatialBoostError, match="'me/nothing'"):
        open_extractor("depth-anything", model="me/nothing", device="cpu")


def test_the_default_model_may_be_shipped():
    assert DepthAnything.default_model in ("depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",)
    from spatialboost.scenes.source_registry import SOURCES

    assert licence_of(DepthAnything.default_model) == "apache-2.0"
    assert SOURCES["images"].depth == SOURCES["dataset"].depth == ("depth-anything",)


def test_extractors_travel_to_other_processes_without_their_weights(open_depth):
    extractor = open_depth("depth-pro")
    (expected,) = extractor(views()[:1])
    content = pickle.dumps(extractor)
    assert len(content) < 20_000
    (found,) = pickle.loads(content)(views()[:1])
    assert (found["depth_HW"] == expected["depth_HW"]).all()


def test_the_module_loads_no_torch():
    code = (
        "import sys, spatialboost.scenes.extract.depth, spatialboost.scenes.images.table; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


# --- from photographs to conversations


def test_photographs_become_conversations(tmp_path, open_depth):
    (tmp_path / "in").mkdir()
    for number, room in enumerate(Rooms(3, size=96)):
        Image.fromarray(room.image_HW3).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "3.png").write_bytes(b"no image")
    source = Extracted(Photographs(tmp_path / "in"), [open_depth("depth-pro"), open_extractor("superpixels")])
    assert "depth-pro (depth-pro " in source.name
    report = build_dataset(source, tmp_path / "out", plan=POINTS, progress=False)
    assert report.written == 3
    assert list(report.names) == ["3.png"]
    rows = open_rows([tmp_path / "out"])
    focals = [row["intrinsics"][0][0][0] for row in rows]
    assert focals == [pytest.approx(source[number].intrinsics_33[0, 0]) for number in range(3)]
    assert source[0].facts["focal"] == "model"


@network
@pytest.mark.parametrize("factory", [DepthAnything, DepthPro, ZoeDepth])
def test_published_weights_give_plausible_depth(factory, assets):
    folder = assets / "rgbd_room"
    depth_HW = np.asarray(Image.open(folder / "depth" / "000100.png")) / 1000.0
    image = np.asarray(Image.open(folder / "rgb" / "000100.jpg").convert("RGB"))
    intrinsics_33 = np.loadtxt(folder / "intrinsics.txt")
    (found,) = factory()([PartialCues(image, "frame", intrinsics_33=intrinsics_33)])
    valid = (depth_HW > 0) & (found["depth_HW"] > 0)
    errors = np.abs(found["depth_HW"][valid] / depth_HW[valid] - 1)
    assert np.median(errors) < 0.35, f"median relative error {np.median(errors):.2f}"

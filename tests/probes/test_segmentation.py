"""The segmentation probe on features that know the classes, its scores against torchmetrics, and the sets' layouts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torchmetrics.classification import MulticlassJaccardIndex

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.class_scores import ClassCounts
from spatialboost.probes.features import Features
from spatialboost.probes.segmentation import COMMONEST, SegmentationProbe, segmentation_probe
from spatialboost.probes.segmented_images import NONE, SegmentedImages, open_segmentation

SIDE, GRID, CLASSES = 64, (8, 8), 4


def save(folder: Path, name: str, labels: np.ndarray, images: str = "images", masks: str = "labels") -> None:
    """An image whose colour is its class, and its labels."""
    for kind in (images, masks):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]])[labels % CLASSES]
    Image.fromarray(colours.astype(np.uint8)).save(folder / images / f"{name}.jpg", quality=95)
    Image.fromarray(labels.astype(np.uint8)).save(folder / masks / f"{name}.png")


def some_labels(rng) -> np.ndarray:
    """Rectangles of the four classes; their borders are those of patches."""
    return np.kron(rng.integers(0, CLASSES, (4, 4)), np.ones((SIDE // 4, SIDE // 4), int))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    rng, out = np.random.default_rng(0), tmp_path_factory.mktemp("set")
    for split, num in (("train", 12), ("test", 4)):
        for index in range(num):
            save(out / split, f"{index:03}", some_labels(rng))
    return out


def features_of(images: SegmentedImages) -> Features:
    """One-hot classes of the patches, mixed, with a little noise."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(CLASSES, 16, generator=generator)
    tokens = [
        torch.nn.functional.one_hot(torch.from_numpy(image.labels_HW[4::8, 4::8].copy()), CLASSES).float().flatten(0, 1)
        @ mix
        for image in images
    ]
    noise = 0.1 * torch.randn(len(tokens), 64, 16, generator=generator)
    return Features(torch.stack(tokens) + noise, None, GRID, (SIDE, SIDE), 0, "none")


def test_features_that_know_the_classes_give_them_back(folder):
    train, test = open_segmentation(folder)
    given = {"oracle": (features_of(train), features_of(test))}
    result = segmentation_probe(given, train, test, steps=150, batch=8, seeds=[0, 1], rates=[0.01, 0.03])
    # bilinear upsampling moves the borders by less than half a patch
    assert result.spread("oracle", "miou").mean > 0.7 > 0.4 > result.spread(COMMONEST, "miou").mean
    assert result.settings["classes"] == CLASSES and len(result.panels) == 4
    again = segmentation_probe(given, train, test, steps=150, batch=8, seeds=[0, 1], rates=[0.01, 0.03])
    assert again.values("oracle", "miou") == result.values("oracle", "miou")
    assert again.rows[0].chosen["rate"] in (0.01, 0.03)


def test_an_encoder_is_measured_on_the_folder(folder, tmp_path):
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    result = segmentation_probe({"mine": encoder}, folder, image_size=SIDE, steps=60, batch=8, seeds=[0])
    assert result.spread("mine", "miou").mean > 2 * result.spread(COMMONEST, "miou").mean
    result.save(tmp_path)
    assert (tmp_path / "segmentation.png").is_file()


def test_scores_are_those_of_torchmetrics():
    generator = torch.Generator().manual_seed(1)
    pairs = []
    for _ in range(5):
        truth = torch.randint(0, 6, (20, 30), generator=generator)
        guess = torch.where(torch.rand(20, 30, generator=generator) < 0.6, truth, truth.roll(1, 0))
        truth[:3] = NONE
        pairs.append((guess, truth))
    counts = ClassCounts(8)  # two classes never occur
    for guess, truth in pairs:
        counts.add(guess, truth)
    metrics, per_view = counts.metrics(), counts.per_view
    theirs = MulticlassJaccardIndex(num_classes=8, average="none", ignore_index=NONE)
    for guess, truth in pairs:
        theirs.update(guess, truth)
    assert metrics["miou"] == pytest.approx(float(theirs.compute()[:6].mean()), abs=1e-6)
    right = sum(int((guess == truth).sum()) for guess, truth in pairs)
    assert metrics["accuracy"] == pytest.approx(right / (5 * 17 * 30)) and len(per_view) == 5
    empty = ClassCounts(8)
    empty.add(guess, torch.full_like(truth, NONE))
    with pytest.raises(SpatialBoostError, match="nothing to measure"):
        empty.metrics()


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)


OPTIONS = {"image_size": SIDE, "steps": 60, "batch": 8, "seeds": [0], "rates": [0.01]}


def test_windows_over_an_image_of_their_size_are_the_image(folder):
    whole = segmentation_probe({"mine": tiny_vit()}, folder, **OPTIONS)
    slid = segmentation_probe({"mine": tiny_vit()}, folder, stride=0.5, **OPTIONS)
    assert slid.values("mine", "miou") == whole.values("mine", "miou")
    fresh = segmentation_probe({"mine": tiny_vit()}, folder, features="fresh", zoom=[0.8, 1.5], flips=True, **OPTIONS)
    assert fresh.spread("mine", "miou").mean > 2 * fresh.spread(COMMONEST, "miou").mean
    assert "random windows, zoom 0.8 to 1.5" in fresh.settings["trained on"]
    again = segmentation_probe({"mine": tiny_vit()}, folder, features="fresh", zoom=[0.8, 1.5], flips=True, **OPTIONS)
    assert again.to_dict() == fresh.to_dict()


def test_scales_windows_and_mirrored_images_are_averaged(folder):
    """Against a second computation, written with loops over windows and scales."""
    from spatialboost.probes import read_features
    from spatialboost.probes.features import read_patches
    from spatialboost.probes.heads import LinearHead
    from spatialboost.probes.protocol import ReadSplit
    from spatialboost.probes.segmented_images import SegmentedImage

    encoder, head = tiny_vit(), LinearHead(48, 3).eval()
    torch.nn.init.normal_(head.linear.weight, std=0.3)
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 255, (6, 9, 3)).astype(np.uint8)).resize((120, 80)))
    probe = SegmentationProbe(stride=0.5, scales=[1.0, 1.5], flips=True)
    given = ReadSplit(
        None,  # type: ignore[arg-type]
        read_features(encoder, [image], image_size=SIDE),
        [None],
        lambda images: read_patches(encoder, images, image_size=SIDE),
    )
    found = probe._predict([head], given, 0, SegmentedImage(image, np.zeros((80, 120), int), "image"))[0]

    total = 0
    for height, width in ((64, 96), (96, 144)):
        for turned in (image, image[:, ::-1]):
            small = np.asarray(Image.fromarray(turned.copy()).resize((width, height), Image.Resampling.BICUBIC))
            sums, times = torch.zeros(3, height, width), torch.zeros(height, width)
            for top in sorted({min(start, height - SIDE) for start in range(0, height, 32)}):
                for left in sorted({min(start, width - SIDE) for start in range(0, width, 32)}):
                    part = small[top : top + SIDE, left : left + SIDE].copy()
                    tokens = read_features(encoder, [part], image_size=SIDE).tokens_VND
                    with torch.no_grad():
                        logits = head(tokens).transpose(1, 2).reshape(1, 3, 8, 8)
                    logits = torch.nn.functional.interpolate(logits, (SIDE, SIDE), mode="bilinear")[0]
                    sums[:, top : top + SIDE, left : left + SIDE] += logits
                    times[top : top + SIDE, left : left + SIDE] += 1
            mean = torch.nn.functional.interpolate((sums / times)[None], (80, 120), mode="bilinear")[0].softmax(0)
            total = total + (mean.flip(2) if turned is not image else mean)
    assert float((found == total.argmax(0)).float().mean()) > 0.999 and len(found.unique()) == 3


def test_ade20k_and_voc_are_read_in_their_layouts(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        save(tmp_path / "ade", f"ADE_{split}", some_labels(rng) * 49, f"images/{split}", f"annotations/{split}")
    train, test = open_segmentation(tmp_path / "ade")
    assert (train.classes, train.first, len(train), len(test)) == (150, 1, 1, 1)
    found = np.unique(train[0].labels_HW).tolist()
    assert set(found) <= {NONE, 48, 97, 146} and NONE in found

    voc = tmp_path / "voc"
    for name in ("2007_1", "2007_2"):
        labels = some_labels(rng)
        labels[:4] = 255
        save(voc, name, labels, "JPEGImages", "SegmentationClass")
    palette = Image.open(voc / "SegmentationClass/2007_1.png").convert("P")
    palette.putpalette([*range(256)] * 3)
    palette.putdata(np.array(Image.open(voc / "SegmentationClass/2007_1.png")).ravel().tolist())
    palette.save(voc / "SegmentationClass/2007_1.png")  # VOC's files have a palette
    lists = voc / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n2007_9\n")
    (lists / "val.txt").write_text("2007_2\n")
    train, test = open_segmentation(voc)
    assert train.classes == 21 and len(train) == len(test) == 1 and "2007_9" in train.left_out[0]
    assert (train[0].labels_HW[:4] == NONE).all() and set(np.unique(train[0].labels_HW[4:])) <= set(range(CLASSES))


def test_bad_items_are_left_out_and_named(folder, tmp_path):
    import shutil

    copy = tmp_path / "set"
    shutil.copytree(folder, copy)
    labels = copy / "train/labels"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(labels / "000.png")  # another size
    Image.fromarray(np.full((SIDE, SIDE), 2000, np.uint16)).save(labels / "001.png")  # no class
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(labels / "002.png")  # colours
    (labels / "003.png").write_bytes(b"no image")
    (labels / "004.png").unlink()
    train, test = open_segmentation(copy)
    encoder = VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    result = segmentation_probe({"mine": encoder}, train, test, image_size=SIDE, steps=2, seeds=[0], rates=[0.01])
    assert result.settings["images"] == [7, 4]
    text = "\n".join(result.settings["left out"])
    for reason in ("000.png has (8, 8) labels", "class 2000", "expected one whole number", "003.png cannot be read"):
        assert reason in text
    assert "004.jpg: it has no labels" in text


def test_wrong_folders_are_refused(tmp_path, folder):
    with pytest.raises(SpatialBoostError, match="none of annotations/training"):
        open_segmentation(tmp_path)
    (tmp_path / "train" / "images").mkdir(parents=True)
    with pytest.raises(SpatialBoostError, match="no folder labels"):
        open_segmentation(tmp_path)
    with pytest.raises(SpatialBoostError, match="no test images"):
        segmentation_probe({}, open_segmentation(folder)[0])
    for wrong, said in (
        ({"rates": [0.0]}, "rates"),
        ({"stride": 1.5}, "stride is 1.5"),
        ({"scales": [1.0, 2.0]}, "need windows: give a stride"),
        ({"stride": 0.5, "scales": [0.5]}, "scales of at least 1"),
        ({"features": "new"}, "features is 'new'"),
        ({"zoom": [2.0, 1.0]}, "zoom is"),
    ):
        with pytest.raises(SpatialBoostError, match=said):
            segmentation_probe({}, folder, **wrong)
    train, test = open_segmentation(folder)
    given = {"oracle": (features_of(train), features_of(test))}
    with pytest.raises(SpatialBoostError, match=r"features of 'oracle' were given.*give the model instead"):
        segmentation_probe(given, train, test, stride=0.5)

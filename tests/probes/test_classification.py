import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.classification import CHANCE, knn_probe
from spatialboost.probes.image_folder import read_image_folder

COLOURS = {"blue": (30, 40, 220), "green": (40, 200, 60), "red": (220, 30, 40)}


def tiny_vit(class_token: bool = True) -> VisionTransformer:
    torch.manual_seed(0)
    pool = "token" if class_token else "avg"
    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0, class_token=class_token,
        global_pool=pool,
    )  # fmt: skip


@pytest.fixture
def colours(tmp_path):
    rng = np.random.default_rng(0)
    for split, num in (("train", 8), ("test", 3)):
        for name, colour in COLOURS.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(num + (name == "red")):
                pixels = np.clip(np.array(colour) + rng.normal(0, 15, (20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize(("class_token", "token"), [(True, "class token"), (False, "mean patch token")])
def test_colours_are_told_apart_and_the_token_is_named(colours, class_token: bool, token: str) -> None:
    result = knn_probe({"mine": tiny_vit(class_token)}, colours / "train", colours / "test", image_size=16, k=5)
    assert result.values("mine", "accuracy") == [1.0]
    assert result.values(CHANCE, "accuracy") == [pytest.approx(4 / 10)]
    assert result.settings["token"] == token and result.settings["images"] == [25, 10]
    assert result.settings["k"] == 5 and result.settings["resolution"] == [16, 16]


def test_votes_agree_with_scikit_learn() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    from spatialboost.probes.classification import _vote

    rng = np.random.default_rng(1)
    train, test = (rng.normal(size=(num, 6)) for num in (200, 80))
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    labels = rng.integers(0, 4, 200)
    reference = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)).fit(train, labels)
    guess = _vote(torch.tensor(train), torch.tensor(labels), torch.tensor(test), 4, 20, 0.07)
    assert guess.tolist() == reference.predict(test).tolist()


def test_base_and_boosted(colours) -> None:
    boosting = pytest.importorskip("spatialboost.boosting")
    result = knn_probe(boosting.boost(tiny_vit()), colours / "train", colours / "test", image_size=16)
    assert result.names == ["base", "boosted", CHANCE]
    assert result.values("base", "accuracy") == result.values("boosted", "accuracy")


def test_a_broken_image_is_left_out_and_named(colours) -> None:
    (colours / "test" / "red" / "0.png").write_bytes(b"")
    (colours / "test" / "red" / "link.png").symlink_to(colours / "nowhere.png")
    images = read_image_folder(colours / "test")
    assert len(images) == 9 and len(images.left_out) == 2 and "0.png" in images.left_out[0]
    assert "link.png" in images.left_out[1]


def png_of_one_colour(height: int, width: int) -> bytes:
    """A valid PNG; 400 megapixels are 400 kB."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows, packer = b"", zlib.compressobj(9)
    for _ in range(height):
        rows += packer.compress(b"\0" * (width + 1))
    chunks = ((b"IHDR", header), (b"IDAT", rows + packer.flush()), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.filterwarnings("error")
def test_images_that_are_too_large_or_have_no_known_range_are_left_out(colours, caplog) -> None:
    for index, side in enumerate((20000, 12000)):  # PIL refuses the first, and warns of the second
        (colours / "test" / "red" / f"large{index}.png").write_bytes(png_of_one_colour(side, side))
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(colours / "test" / "red" / "float.tif")
    images = read_image_folder(colours / "test")
    assert len(images) == 10 and len(images.left_out) == 3
    assert all(name in caplog.text for name in ("large0.png", "large1.png", "float.tif"))
    assert "12000 x 12000 pixels; expected at most" in caplog.text
    assert "400000000 pixels" in caplog.text and caplog.text.count("Make it smaller") == 2
    result = knn_probe({"mine": tiny_vit()}, colours / "train", colours / "test", image_size=16)
    assert result.settings["images"] == [25, 10]


def test_photographs_are_opened_as_they_are_shown(colours) -> None:
    (colours / "more" / "sixteen").mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(colours / "more" / "sixteen" / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(colours / "more" / "sixteen" / "turned.jpg", exif=exif)
    grey, turned = read_image_folder(colours / "more")
    assert (grey.image_HW3 == 128).all() and turned.image_HW3.shape == (40, 20, 3)


def test_files_and_folders_that_nobody_put_there_are_no_images_and_no_classes(colours, monkeypatch) -> None:
    before = read_image_folder(colours / "test")
    picture = (colours / "test" / "red" / "0.png").read_bytes()
    for name in (".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/0.png", ".hidden/0.png", "@eaDir/0.png"):
        (colours / "test" / name).parent.mkdir()
        (colours / "test" / name).write_bytes(picture)
    for name in ("._0.png", ".hidden.png", "Thumbs.db", ".ipynb_checkpoints/0-checkpoint.png"):
        (colours / "test" / "red" / name).parent.mkdir(exist_ok=True)
        (colours / "test" / "red" / name).write_bytes(picture)
    (colours / "test" / "red" / "folder.png").mkdir()
    os.mkfifo(colours / "test" / "red" / "pipe.png")  # opening it would wait for ever
    after = read_image_folder(colours / "test")
    assert (after.classes, after.paths, after.left_out) == (before.classes, before.paths, [])
    monkeypatch.setenv("HOME", str(colours))
    assert len(read_image_folder("~/test")) == len(before)


def test_wrong_folders(colours, tmp_path) -> None:
    with pytest.raises(SpatialBoostError, match="not a folder"):
        read_image_folder(colours / "nowhere")
    with pytest.raises(SpatialBoostError, match="no image that can be opened"):
        read_image_folder(colours / "train" / "red")
    (colours / "other" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(colours / "other" / "cat" / "0.png")
    with pytest.raises(SpatialBoostError, match="the same class folders"):
        knn_probe({"mine": tiny_vit()}, colours / "train", colours / "other", image_size=16)

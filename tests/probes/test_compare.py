from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import spatialboost as sb
from spatialboost import cli
from spatialboost.errors import SpatialBoostError
from spatialboost.probes import room_heads as heads_module
from spatialboost.probes.compare import compare_images, mutual_matches
from spatialboost.probes.room_heads import room_heads

MODEL = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def few_rooms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(heads_module, "FIT_ON", 8)
    monkeypatch.setattr(heads_module, "MEASURE_ON", 2)


def boosted() -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = sb.boost(timm.create_model(MODEL, depth=2, img_size=64, num_classes=0)).eval()
    with torch.no_grad():
        for _, parameter in sb.named_parameters(encoder):
            parameter.add_(0.02 * torch.randn_like(parameter))
    return encoder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    wide = Image.fromarray(np.kron(rng.integers(0, 255, (6, 12, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    wide.save(folder / "wide & <b>.jpg")
    wide.save(folder / "turned.jpg", exif=exif)
    wide.resize((3000, 40)).save(folder / "strip.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_pictures_of_images_of_any_size(images: Path, tmp_path: Path) -> None:
    found = compare_images(boosted(), [images], tmp_path / "out", image_size=64)
    names = sorted(path.name for path in found.pictures)
    assert names == [
        "01-strip-depth.png", "01-strip-tokens.png", "01-strip-turned-matches.png",
        "02-turned-depth.png", "02-turned-tokens.png", "02-turned-wide-b-matches.png",
        "03-wide-b-depth.png", "03-wide-b-tokens.png",
    ]  # fmt: skip
    assert len(found.left_out) == 1 and "broken.jpg" in found.left_out[0]
    page = found.page.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 8 and "broken.jpg" in page
    assert "wide &amp; &lt;b&gt;.jpg" in page and "fitted on" in page and "procedural rooms" in page
    turned, wide = (Image.open(tmp_path / "out" / f"{name}-tokens.png").size for name in ("02-turned", "03-wide-b"))
    assert turned[1] > turned[0] / 4 > wide[1]  # the EXIF orientation was applied


def test_an_encoder_that_did_not_change_gives_equal_halves(images: Path, tmp_path: Path, monkeypatch) -> None:
    drawn = {}
    module = sys.modules["spatialboost.probes.compare"]
    for name in ("token_picture", "depth_picture", "match_picture"):
        monkeypatch.setattr(module, name, lambda *given, name=name: drawn.setdefault(name, []).append(given) or b"PNG")
    encoder = sb.boost(timm.create_model(MODEL, depth=2, img_size=64, num_classes=0)).eval()
    compare_images(encoder, [images / "turned.jpg", images / "strip.png"], tmp_path / "out", image_size=64)
    for _, colours, change, most in drawn["token_picture"]:
        assert np.array_equal(colours["base"], colours["boosted"]) and change.max() == 0 and most > 0
    for image, depths in drawn["depth_picture"]:
        assert np.array_equal(depths["base"], depths["boosted"]) and depths["base"].shape == image.shape[:2]
        assert np.isfinite(depths["base"]).all() and depths["base"].min() > 0
    ((pair, grid, found),) = drawn["match_picture"]
    assert np.array_equal(found["base"], found["boosted"]) and grid == (4, 4) and pair[0].shape != pair[1].shape


def test_matches_of_an_image_with_a_moved_copy() -> None:
    torch.manual_seed(0)
    tokens, order = torch.randn(30, 16), torch.randperm(30)
    found = mutual_matches(tokens, 3 * tokens[order])
    assert len(found) == 30 and (order[found[:, 1]].numpy() == found[:, 0]).all()


def test_heads_are_fitted_once_for_the_same_weights(tmp_path: Path, monkeypatch, caplog) -> None:
    encoder = boosted()
    first = room_heads(encoder, image_size=64, layer=-1)
    assert first.rmse.keys() == {"base", "boosted"} and first.rmse["base"] != first.rmse["boosted"]
    reads = []
    real = heads_module.read_features
    monkeypatch.setattr(
        heads_module, "read_features", lambda *given, **options: reads.append(1) or real(*given, **options)
    )
    again = room_heads(encoder, image_size=64, layer=-1)
    assert (
        not reads
        and again.rmse == first.rmse
        and torch.equal(again.fits["boosted"].fit.weights_DT, first.fits["boosted"].fit.weights_DT)
    )
    (file,) = (tmp_path / "cache" / "spatialboost" / "room-heads").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert room_heads(encoder, image_size=64, layer=-1).rmse == first.rmse and len(reads) == 2
    assert "fitted again" in caplog.text
    with torch.no_grad():
        next(iter(sb.named_parameters(encoder)))[1].add_(0.1)
    assert room_heads(encoder, image_size=64, layer=-1).rmse["boosted"] != first.rmse["boosted"]


def test_mistakes_are_refused_before_anything_is_written(images: Path, tmp_path: Path) -> None:
    plain = timm.create_model(MODEL, depth=1, img_size=64, num_classes=0)
    for encoder, given, message in (
        (plain, [images], "not boosted"),
        (boosted(), [images / "broken.jpg", tmp_path / "nowhere.jpg"], "none of 2 images"),
        (boosted(), [images / "nothing"], "none of 1 images"),
    ):
        with pytest.raises(SpatialBoostError, match=message):
            compare_images(encoder, given, tmp_path / "out", image_size=64)
    with pytest.raises(SpatialBoostError, match="image_size is 0"):
        compare_images(boosted(), [images], tmp_path / "out", image_size=0)
    assert not (tmp_path / "out").exists()


def test_from_the_command_line(images: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    torch.manual_seed(0)
    base = timm.create_model(MODEL, num_classes=0)
    from safetensors.torch import save_file

    save_file(base.state_dict(), tmp_path / "base.safetensors")
    delta = sb.save_pretrained(sb.boost(base, layers=[0]), tmp_path / "delta")
    words = ["spatialboost", "compare", images / "turned.jpg", images / "broken.jpg", "--encoder", f"timm:{MODEL}"]
    words += [
        "--weights",
        tmp_path / "base.safetensors",
        "--image-size",
        32,
        "--device",
        "cpu",
        "--out",
        tmp_path / "c",
    ]
    for extra, code, said in (((), 2, "give a delta with --delta"), (("--delta", delta), 0, "2 pictures; 1 images")):
        monkeypatch.setattr(sys, "argv", [*map(str, words), *map(str, extra)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        assert stopped.value.code == code and said in printed.out + printed.err

"""Photographs of any source become upright 8-bit RGB, or raise an error of one line."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from spatialboost.encoders import open_photograph
from spatialboost.errors import SpatialBoostError


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste((255, 255, 255), (0, 0, 8, 20))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = open_photograph(tmp_path / "turned.jpg")
    assert upright.shape == (40, 20, 3) and upright.dtype == np.uint8
    assert upright[:6].min() > 240 and upright[12:].max() < 15  # the left side has become the top


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_sixteen_bits_are_scaled_and_not_cut_off(dtype):
    grey = np.array([[0, 257, 32768, 65535]], dtype)
    kind = "PNG" if dtype == np.uint16 else "TIFF"
    pixels = open_photograph(saved(Image.fromarray(grey), kind))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255] and (pixels == pixels[..., :1]).all()


def test_transparent_pixels_become_white():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    assert open_photograph(saved(clear)).tolist() == [[[255, 255, 255], [255, 0, 0]]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert open_photograph(saved(palette)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert open_photograph(saved(palette, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    colours = Image.new("RGB", (2, 1), (9, 8, 7))
    colours.putpixel((1, 0), (1, 2, 3))
    assert open_photograph(saved(colours, transparency=(9, 8, 7))).tolist() == [[[255, 255, 255], [1, 2, 3]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK"])
def test_other_modes_become_rgb(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    pixels = open_photograph(saved(Image.new("RGB", (3, 2), "white").convert(mode), kind))
    assert pixels.shape == (2, 3, 3) and (pixels == 255).all()


def test_unreadable_images_raise_one_line(tmp_path, monkeypatch):
    for pixels, message in [
        (np.zeros((2, 2), np.float32), "mode F have no known range"),
        (np.full((2, 2), -1, np.int32), "grey values from -1 to -1 have no known range"),
        (np.full((2, 2), 200, np.int32), "grey values from 200 to 200 have no known range"),
    ]:
        with pytest.raises(SpatialBoostError, match=message) as caught:
            open_photograph(saved(Image.fromarray(pixels), "TIFF"))
        assert "\n" not in str(caught.value)
    with pytest.raises(SpatialBoostError, match=r"none.jpg cannot be read as an image: .*No such file"):
        open_photograph(tmp_path / "none.jpg")
    with pytest.raises(SpatialBoostError, match="an image of 4 bytes cannot be read"):
        open_photograph(b"text")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(SpatialBoostError, match=r"cannot be read as an image: .*truncated"):
        open_photograph(saved(Image.fromarray(noise), "JPEG")[:-2000])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(SpatialBoostError, match="64 x 64 pixels; expected at most 4000"):
        open_photograph(saved(Image.fromarray(noise)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SpatialBoostError, match=r"cannot be read as an image: .*bomb"):
        open_photograph(saved(Image.fromarray(noise)))

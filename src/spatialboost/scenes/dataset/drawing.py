"""HTML pages of a data set, and their images: coloured depth maps, outlines of objects, and data URIs."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from PIL import Image

from spatialboost.scenes.camera import project

# Shape legend: H, W = image height and width in pixels.

COLOURS = ["#ff4d4d", "#2f9bff", "#25b34b", "#ffab00", "#c457ff", "#00bfb3", "#ff6fb5", "#9a8c00", "#8a5a44", "#6b7cff"]
_CORNERS = [(i, j, k) for k, j, i in product((0, 1), repeat=3)]


def decode_pixels(image: dict[str, Any]) -> np.ndarray:
    """Decode an image in a row to its stored pixels."""
    return np.asarray(Image.open(io.BytesIO(image["bytes"])))


def colour_depth(millimetres_HW: np.ndarray) -> dict[str, Any]:
    """Draw a depth map in millimetres as a palette PNG; pixels without a reading (0, 65535) are grey.

    Returns:
        ``uri`` of the image, ``near`` and ``far`` ends of the colour range in metres, colours of the ``bar`` between
        them, and the percentage of pixels that are ``missing``.
    """
    from matplotlib import colormaps

    valid = (millimetres_HW > 0) & (millimetres_HW < 2**16 - 1)
    near, far = np.percentile(millimetres_HW[valid], (1, 99)) if valid.any() else (0, 1)
    steps = np.clip((millimetres_HW - near) / max(far - near, 1) * 254, 0, 254).astype(np.uint8)
    palette = (colormaps["turbo_r"](np.linspace(0, 1, 255))[:, :3] * 255).astype(np.uint8)
    image = Image.fromarray(np.where(valid, steps, 255).astype(np.uint8), "P")
    image.putpalette([*palette.ravel().tolist(), 150, 150, 150])
    bar = [f"rgb({r},{g},{b})" for r, g, b in palette[::28].tolist()]
    return {
        "uri": as_uri(_png(image)),
        "near": near / 1000,
        "far": far / 1000,
        "bar": ", ".join(bar),
        "missing": 100 * (1 - valid.mean()),
    }


def draw_outlines(labels_HW: np.ndarray, count: int) -> str:
    """Draw the outline of every object (1 to ``count``; 0 = no object) in its colour on a transparent image."""
    border = np.zeros(labels_HW.shape, bool)
    border[:, 1:] |= labels_HW[:, 1:] != labels_HW[:, :-1]
    border[:, :-1] |= labels_HW[:, 1:] != labels_HW[:, :-1]
    border[1:] |= labels_HW[1:] != labels_HW[:-1]
    border[:-1] |= labels_HW[1:] != labels_HW[:-1]
    image = Image.fromarray(np.where(border, labels_HW, 0).astype(np.uint8), "P")
    colours = [bytes.fromhex(COLOURS[i % len(COLOURS)][1:]) for i in range(count)]
    image.putpalette([0, 0, 0, *b"".join(colours)])
    return as_uri(_png(image, transparency=0))


def draw_box(extent_m: Sequence[float], intrinsics_33: np.ndarray) -> str:
    """The twelve edges of an object's box in the image, as the path of an SVG. Empty if it reaches behind the camera.

    Example:
        >>> draw_box([-1, -1, 2, 1, 1, 4], np.array([[10.0, 0, 9.5], [0, 10.0, 9.5], [0, 0, 1]]))[:29]
        'M5.0,5.0L15.0,5.0M5.0,5.0L5.0'
    """
    corners = [np.array([extent_m[0 + 3 * i], extent_m[1 + 3 * j], extent_m[2 + 3 * k]]) for i, j, k in _CORNERS]
    pixels = project(np.array(corners), intrinsics_33) + 0.5  # SVG counts from the corner of the first pixel
    if not np.isfinite(pixels).all():
        return ""
    return "".join(
        f"M{pixels[a][0]:.1f},{pixels[a][1]:.1f}L{pixels[b][0]:.1f},{pixels[b][1]:.1f}"
        for a, b in combinations(range(8), 2)
        if sum(first != second for first, second in zip(_CORNERS[a], _CORNERS[b], strict=True)) == 1
    )


def render_page(template: str, **values: Any) -> str:
    """An HTML template of this folder with its values; all text is escaped."""
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("spatialboost.scenes.dataset")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def as_uri(content: bytes) -> str:
    """Encode a PNG or JPEG file as a data URI."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

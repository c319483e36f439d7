"""A tiny catalogue of furniture, written by the tests: boxes of known size, with textures."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float, float, float]  # x0, y0, z0, x1, y1, z1; y up, z to the front


def obj_of_boxes(boxes: Sequence[Box], material: str = "wood") -> str:
    """An OBJ file of boxes, each with the whole texture on its front and back."""
    lines = ["mtllib boxes.mtl", f"usemtl {material}", "vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    for x0, y0, z0, x1, y1, z1 in boxes:
        corners = [(x, y, z) for z in (z0, z1) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        lines += ["v {} {} {}".format(*corner) for corner in corners]
    for k in range(len(boxes)):
        quads = ((5, 6, 7, 8), (2, 1, 4, 3), (1, 2, 6, 5), (4, 8, 7, 3), (1, 5, 8, 4), (2, 3, 7, 6))
        for quad in quads:
            lines.append("f " + " ".join(f"{8 * k + number}/{t}" for t, number in enumerate(quad, 1)))
    return "\n".join(lines) + "\n"


def two_colours(left: str = "red", right: str = "blue") -> bytes:
    """A PNG whose left half has one colour and whose right half another."""
    image = Image.new("RGB", (64, 32), left)
    image.paste(right, (32, 0, 64, 32))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


MTL = "newmtl wood\nKd 1 1 1\nmap_Kd wood.png\nnewmtl grey\nKd 0.5 0.5 0.5\n"
TABLE = obj_of_boxes([(-6, 7, -4, 6, 7.5, 4), (-6, 0, -4, -5.5, 7, -3.5), (5.5, 0, 3.5, 6, 7, 4)])
BOX = obj_of_boxes([(0, 0, 0, 2, 3, 1)])


def entry(number: int, name: str, model: str, size: Sequence[float] = (60, 80, 50), **more: object) -> str:
    """One entry of a catalogue; size is width, height, depth in centimetres."""
    facts = {"name": name, "model": model, "width": size[0], "height": size[1], "depth": size[2], **more}
    return "".join(f"{key}#{number}={value}\n" for key, value in facts.items())


ENTRIES = (
    entry(1, "Table", "/models/table.obj", (120, 75, 80), creator="Ada", category="Living room"),
    entry(2, "Chair", "/models/box.obj", (45, 90, 45), creator="Ada"),
    entry(3, "Sofa 2 seats", "/models/box.obj", (180, 80, 90), creator="Bo"),
    entry(4, "Small vase", "/models/box.obj", (12, 24, 12), creator="Bo"),
    entry(5, "Crate", "/models/box.obj", (60, 60, 60), creator="Bo"),
)


def write_catalogue(path: Path, entries: Sequence[str] = ENTRIES, files: dict[str, bytes] | None = None) -> Path:
    """Write a ``.sh3f`` file with a table and a box."""
    content = {
        "PluginFurnitureCatalog.properties": "license=CC0 for tests\n" + "".join(entries),
        "models/table.obj": TABLE,
        "models/box.obj": BOX,
        "models/boxes.mtl": MTL,
        "models/wood.png": two_colours(),
        **(files or {}),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), value)
    return path


def box_depth(origin: np.ndarray, rays: np.ndarray, low: np.ndarray, high: np.ndarray, *, inner: bool) -> np.ndarray:
    """Ray parameter at which rays enter a box, or leave it if they start inside; inf where they miss it."""
    with np.errstate(divide="ignore"):
        a, b = (low - origin) / rays, (high - origin) / rays
    near, far = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
    return far if inner else np.where((near < far) & (near > 0), near, np.inf)

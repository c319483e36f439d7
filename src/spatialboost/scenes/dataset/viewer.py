"""One HTML page that shows a dataset as it is: images, depth, objects, conversations and what the checker says."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.writer import dataset_facts, dataset_files
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.questions.kinds import KINDS

_COLOURS = (
    "#ff4d4d",
    "#2f9bff",
    "#25b34b",
    "#ffab00",
    "#c457ff",
    "#00bfb3",
    "#ff6fb5",
    "#9a8c00",
    "#8a5a44",
    "#6b7cff",
)


@dataclass(frozen=True)
class Page:
    """What :func:`write_page` wrote.

    Attributes:
        path: the HTML file.
        shown: conversations on the page.
        rows: conversations in the dataset.
        wrong: how many of those shown the checker objects to.
    """

    path: Path
    shown: int
    rows: int
    wrong: int


def write_page(dataset_folder: Path | str, html_path: Path | str, *, limit: int = 24) -> Page:
    """Show a dataset's first conversations on one self-contained page.

    Example:
        >>> from spatialboost.scenes.dataset.viewer import write_page
        >>> write_page("data/rooms", "rooms.html", limit=8)  # doctest: +SKIP

    Depth maps and outlines need a dataset built ``with_depth=True``; without them the points are drawn on the image.
    All text is escaped.

    Args:
        dataset_folder: where ``build_dataset`` wrote.
        html_path: the page; its folder is created.
        limit: the most conversations to show.

    Raises:
        SpatialBoostError: no dataset there, a column is missing, or a limit below one.
    """
    from jinja2 import Environment, PackageLoader

    if limit < 1:
        raise SpatialBoostError(f"limit is {limit}; expected at least one conversation")
    folder, html_path = Path(dataset_folder), Path(html_path)
    files = dataset_files(folder)
    facts = dataset_facts(files[0])
    rows, skipped = 0, 0
    for path in files:
        part = dataset_facts(path)
        rows, skipped = rows + part["rows"], skipped + len(part["skipped"])
    cards = [_card(row) for row in _first_rows(files, limit)]
    loader = PackageLoader("spatialboost.scenes.dataset")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("page.html.j2").render(
        title=folder.resolve().name,
        facts=facts,
        rows=rows,
        skipped=skipped,
        cards=cards,
        wrong=sum(bool(card["problems"]) for card in cards),
    )
    html_path.parent.mkdir(parents=True, exist_ok=True)
    html_path.write_text(page, encoding="utf-8")
    return Page(html_path, len(cards), rows, sum(bool(card["problems"]) for card in cards))


def _first_rows(files: list[Path], limit: int) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for path in files:
        file = pq.ParquetFile(path)
        missing = {"images", "messages", "meta"} - set(file.schema_arrow.names)
        if missing:
            raise SpatialBoostError(f"{path} has no column {sorted(missing)}; found {file.schema_arrow.names}")
        for batch in file.iter_batches(batch_size=16):
            for row in batch.to_pylist():
                if limit == 0:
                    return
                limit -= 1
                yield row


def _card(row: dict[str, Any]) -> dict[str, Any]:
    """What the template needs to know about one conversation."""
    meta = json.loads(row["meta"])
    height, width = meta["size"]
    labels = _decode(row["labels"][0]) if row.get("labels") else None
    depth = _colour_depth(_decode(row["depths"][0])) if row.get("depths") else None
    turns = [
        {
            "number": i + 1,
            "kind": KINDS[turn["kind"]].title if turn["kind"] in KINDS else turn["kind"],
            "question": row["messages"][2 * i]["content"].removeprefix("<image>\n"),
            "answer": row["messages"][2 * i + 1]["content"],
        }
        for i, turn in enumerate(meta["turns"])
    ]
    return {
        "meta": meta,
        "truth": _lines(meta),
        "size": (width, height),
        "image": _as_uri(row["images"][0]["bytes"]),
        "outlines": None if labels is None else _outlines(labels, len(meta["objects"])),
        "depth": depth,
        "points": list(_points(meta)),
        "objects": list(_objects(meta, labels)),
        "turns": turns,
        "problems": check_conversation(row["messages"], meta),
    }


def _objects(meta: dict[str, Any], labels_HW: np.ndarray | None) -> Iterator[dict[str, Any]]:
    """Name, colour and the place of each object's number: above it where its outline is known, else in its middle."""
    height, width = meta["size"]
    for number, fact in enumerate(meta["objects"], start=1):
        x, y = fact["centre_xy"][0] * width, fact["centre_xy"][1] * height
        if labels_HW is not None and (labels_HW == number).any():
            top = int(np.flatnonzero((labels_HW == number).any(1))[0])
            x, y = float(np.flatnonzero(labels_HW[top] == number).mean()), max(top - 0.02 * width, 0.025 * width)
        colour = _COLOURS[(number - 1) % len(_COLOURS)]
        yield {
            "number": number,
            "name": fact["description"],
            "colour": colour,
            "x": x,
            "y": y,
            "depth": fact["depth_m"],
        }


def _points(meta: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every point that is asked about, its name placed where it covers no other point or name."""
    height, width = meta["size"]
    asked = []
    for number, turn in enumerate(meta["turns"], start=1):
        points = turn.get("points", [])
        for which, (x, y) in enumerate(points, start=1):
            name = str(number) if len(points) == 1 else f"{number}.{which}"
            asked.append((name, x * width, y * height, turn["depths"][which - 1]))
    unit = width / 100
    taken = [(x - 2 * unit, y - 2 * unit, x + 2 * unit, y + 2 * unit) for _, x, y, _ in asked]
    for name, x, y, depth in asked:
        wide, high = 2.6 * unit * len(name), 4 * unit
        corners = [(2, -2), (-2 - wide / unit, -2), (-wide / 2 / unit, -6.2), (-wide / 2 / unit, 2.2), (2, -5), (2, 1)]
        boxes = [(x + dx * unit, y + dy * unit, x + dx * unit + wide, y + dy * unit + high) for dx, dy in corners]
        inside = [box for box in boxes if box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height]
        free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
        left, _, _, bottom = box = (free or inside or boxes)[0]
        taken.append(box)
        yield {"name": name, "x": x, "y": y, "depth": depth, "name_x": left, "name_y": bottom - 0.4 * unit}


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _decode(image: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image["bytes"])))


def _colour_depth(millimetres_HW: np.ndarray) -> dict[str, Any]:
    """A palette PNG of the depth and the range that its colours span; grey where there is no reading."""
    from matplotlib import colormaps

    valid = millimetres_HW > 0
    near, far = np.percentile(millimetres_HW[valid], (1, 99)) if valid.any() else (0, 1)
    steps = np.clip((millimetres_HW - near) / max(far - near, 1) * 254, 0, 254).astype(np.uint8)
    palette = (colormaps["turbo_r"](np.linspace(0, 1, 255))[:, :3] * 255).astype(np.uint8)
    image = Image.fromarray(np.where(valid, steps, 255).astype(np.uint8), "P")
    image.putpalette([*palette.ravel().tolist(), 150, 150, 150])
    bar = [f"rgb({r},{g},{b})" for r, g, b in palette[::28].tolist()]
    return {
        "uri": _as_uri(_png(image)),
        "near": near / 1000,
        "far": far / 1000,
        "bar": ", ".join(bar),
        "missing": 100 * (1 - valid.mean()),
    }


def _outlines(labels_HW: np.ndarray, count: int) -> str:
    """A transparent picture with the border of every object in its colour."""
    border = np.zeros(labels_HW.shape, bool)
    border[:, 1:] |= labels_HW[:, 1:] != labels_HW[:, :-1]
    border[:, :-1] |= labels_HW[:, 1:] != labels_HW[:, :-1]
    border[1:] |= labels_HW[1:] != labels_HW[:-1]
    border[:-1] |= labels_HW[1:] != labels_HW[:-1]
    image = Image.fromarray(np.where(border, labels_HW, 0).astype(np.uint8), "P")
    colours = [bytes.fromhex(_COLOURS[i % len(_COLOURS)][1:]) for i in range(count)]
    image.putpalette([0, 0, 0, *b"".join(colours)])
    return _as_uri(_png(image, transparency=0))


def _png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def _lines(meta: dict[str, Any]) -> str:
    """JSON with one line for each key, object and turn."""
    lines = []
    for key, value in meta.items():
        many = key in ("objects", "turns") and value
        text = ",\n".join(f"   {json.dumps(one)}" for one in value) if many else json.dumps(value)
        lines.append(f' "{key}": [\n{text}\n ]' if many else f' "{key}": {text}')
    return "{\n" + ",\n".join(lines) + "\n}"


def _as_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

"""Write an HTML page that shows a data set: images, depth, objects, conversations and the errors in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.drawing import (
    COLOURS,
    as_uri,
    colour_depth,
    decode_pixels,
    draw_box,
    draw_outlines,
    render_page,
)
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.scenes.dataset.reader import open_image
from spatialboost.scenes.dataset.schema import NEEDED, dataset_facts, dataset_files, open_parquet, validate_file
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.questions.kinds import KINDS, kind_named
from spatialboost.scenes.questions.meta import facts_of_views


@dataclass(frozen=True)
class Page:
    """The result of :func:`write_page`."""

    path: Path  # the HTML file
    shown: int  # number of conversations on the page
    rows: int  # number of conversations in the data set
    wrong: int  # number of conversations on the page in which the checker found problems
    left_out: Mapping[str, str]  # row that cannot be shown -> why


def write_page(
    dataset_folder: Path | str,
    html_path: Path | str,
    *,
    limit: int = 24,
    kind: str | None = None,
    search: str | None = None,
) -> Page:
    """Show the first conversations of a data set on one self-contained page.

    Example:
        >>> write_page("data/rooms", "rooms.html", limit=8)  # doctest: +SKIP

    Depth maps and outlines need a data set that was built with ``with_depth=True``. Without them, the points are drawn
    on the image. All text is escaped.

    Args:
        dataset_folder: output folder of ``build_dataset``.
        html_path: HTML file to write; its folder is created.
        limit: maximum number of conversations to show.
        kind: show only conversations with a turn of this kind.
        search: show only conversations that contain this text, in upper or lower case, in a message or in the name of
            the view.

    A row that cannot be shown, because it is damaged or not as a build writes it, is left out and named. The page is
    written whole or not at all.

    Raises:
        SpatialBoostError: the folder has no data set, a column is missing, no row can be shown or none is found, the
            kind is unknown, or the limit is below one.
    """
    if limit < 1:
        raise SpatialBoostError(f"limit is {limit}; expected at least one conversation")
    if kind is not None:
        kind_named(kind)
    folder, html_path = user_path(dataset_folder), user_path(html_path)
    if html_path.is_dir() or html_path.suffix == ".parquet":
        raise SpatialBoostError(f"the page cannot be written to {html_path}; expected the name of an HTML file")
    files = dataset_files(folder)
    facts = [dataset_facts(path) for path in files]
    rows = sum(fact["rows"] for fact in facts)
    skipped = {name: reason for fact in facts for name, reason in fact["skipped"].items()}
    cards, shown, wrong, left_out = [], [], 0, {}
    wanted = None if kind is None and search is None else lambda row: _is_wanted(row, kind, search)
    for name, row in islice(_named_rows(files, wanted), limit):
        try:
            if isinstance(row, SpatialBoostError):
                raise row
            card = _card(row)
            cards.append(render_page("card.html.j2", card=card))
            shown.append({"turns": card["turns"]})
            wrong += bool(card["problems"])
        except Exception as error:  # a row may hold anything
            reason = " ".join(str(error).split())[:200]
            left_out[name] = reason if isinstance(error, SpatialBoostError) else f"{type(error).__name__}: {reason}"
    if left_out and not cards:
        name, reason = next(iter(left_out.items()))
        raise SpatialBoostError(f"{folder}: none of its first {len(left_out)} rows can be shown; {name}: {reason}")
    if not cards and wanted is not None:
        asked = " and ".join(filter(None, (kind and f"a turn of {kind}", search and f"the text {search!r}")))
        raise SpatialBoostError(f"{folder}: none of its {rows} conversations has {asked}")
    page = render_page(
        "page.html.j2",
        title=folder.resolve().name,
        facts=facts[0],
        rows=rows,
        skipped=skipped,
        cards=cards,
        wrong=wrong,
        left_out=left_out,
        kinds=sorted({str(turn["kind"]) for card in shown for turn in card["turns"]}),
        chosen=[text for text in (kind and f"with a turn of {kind}", search and f"with the text {search!r}") if text],
    )
    html_path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(html_path, page.encode("utf-8", "replace"))
    return Page(html_path, len(cards), rows, wrong, left_out)


def _named_rows(
    files: list[Path], wanted: Callable[[dict[str, Any]], bool] | None
) -> Iterator[tuple[str, dict[str, Any] | SpatialBoostError]]:
    """Each wanted row with its name, or why it cannot be read. Images are read only of row groups with a wanted row."""
    for path in files:
        with open_parquet(path) as file:
            validate_file(path, file, NEEDED)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        first = 0
        for group, size in enumerate(sizes):
            rows: list[Any]
            try:
                with open_parquet(path, f"row group {group}") as file:
                    texts = [] if wanted is None else file.read_row_group(group, ["messages", "meta"]).to_pylist()
                    chosen = [number for number, row in enumerate(texts) if wanted is None or wanted(row)]
                    chosen = list(range(size)) if wanted is None else chosen
                    rows = file.read_row_group(group).to_pylist() if chosen else []
            except SpatialBoostError as error:
                chosen, rows = list(range(size)), [error] * size
            for number in chosen:
                yield f"{path.name}, row {first + number}", rows[number]
            first += size


def _is_wanted(row: dict[str, Any], kind: str | None, search: str | None) -> bool:
    """Whether a row has a turn of a kind, and a text. A row that is not as a build writes it has neither."""
    try:
        meta = json.loads(row["meta"])
        has_kind = kind is None or any(turn["kind"] == kind for turn in meta["turns"])
        texts = [str(meta["source"]), *(message["content"] for message in row["messages"])]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return False
    return has_kind and (search is None or search.casefold() in "\n".join(texts).casefold())


def _card(row: dict[str, Any]) -> dict[str, Any]:
    """The values of one conversation for the template."""
    meta = json.loads(row["meta"])
    turns = [
        {
            "number": i + 1,
            "kind": KINDS[turn["kind"]].title if turn["kind"] in KINDS else turn["kind"],
            "question": re.sub(r"\A(<image>\n)+", "", row["messages"][2 * i]["content"]),
            "answer": row["messages"][2 * i + 1]["content"],
        }
        for i, turn in enumerate(meta["turns"])
    ]
    views = [_view(row, meta, facts, number) for number, facts in enumerate(facts_of_views(meta))]
    return {
        "meta": meta,
        "truth": _lines(meta),
        "views": views,
        "turns": turns,
        "problems": check_conversation(row["messages"], meta),
    }


def _view(row: dict[str, Any], meta: dict[str, Any], facts: dict[str, Any], number: int) -> dict[str, Any]:
    """The values of one view of a conversation for the template: its images, points and objects."""
    height, width = facts["size"]
    open_image(row["images"][number])  # an error if it is no image
    labels = decode_pixels(row["labels"][number]) if row.get("labels") else None
    return {
        "name": f"item {meta['item']}" + (f", image {number + 1}" if len(row["images"]) > 1 else ""),
        "number": number + 1,
        "size": (width, height),
        "image": as_uri(row["images"][number]["bytes"]),
        "outlines": None if labels is None else draw_outlines(labels, len(facts["objects"])),
        "depth": colour_depth(decode_pixels(row["depths"][number])) if row.get("depths") else None,
        "depth_noise": facts["depth_noise"],
        "points": list(_points(meta, number, (height, width))),
        "objects": list(_objects(facts, labels)),
    }


def _objects(facts: dict[str, Any], labels_HW: np.ndarray | None) -> Iterator[dict[str, Any]]:
    """Name and colour of each object, and the position of its number: above its mask if known, else at its centre."""
    height, width = facts["size"]
    for number, fact in enumerate(facts["objects"], start=1):
        x, y = fact["centre_xy"][0] * width, fact["centre_xy"][1] * height
        if labels_HW is not None and (labels_HW == number).any():
            top = int(np.flatnonzero((labels_HW == number).any(1))[0])
            x, y = float(np.flatnonzero(labels_HW[top] == number).mean()), max(top - 0.02 * width, 0.025 * width)
        colour = COLOURS[(number - 1) % len(COLOURS)]
        yield {
            "number": number,
            "name": fact["description"],
            "colour": colour,
            "x": x,
            "y": y,
            "depth": fact["depth_m"],
            "box": draw_box(fact["extent_m"], np.asarray(facts["intrinsics"], np.float64)),
        }


def _points(meta: dict[str, Any], view: int, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The points of a view that questions ask about. Each name is placed so that it covers no other point or name."""
    height, width = size
    asked = []
    for number, turn in enumerate(meta["turns"], start=1):
        points = turn.get("points", []) if turn.get("view", 0) == view else []
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


def _lines(meta: dict[str, Any]) -> str:
    """JSON with one line for each key, object and turn."""
    lines = []
    for key, value in meta.items():
        many = key in ("objects", "turns") and value
        text = ",\n".join(f"   {json.dumps(one)}" for one in value) if many else json.dumps(value)
        lines.append(f' "{key}": [\n{text}\n ]' if many else f' "{key}": {text}')
    return "{\n" + ",\n".join(lines) + "\n}"

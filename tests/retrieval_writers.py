"""Tiny image sets in the layouts in which the sets for retrieval are handed out, and the rule of one of them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def save_image(file: Path, seed: int, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """A random image without loss where the ending allows it; its pixels as they are stored."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file)
    return np.asarray(Image.open(file))


def write_revisited(folder: Path, num: int = 12, queries: int = 4, name: str = "roxford5k") -> dict:
    """Images in `jpg/`, and the truth as a pickle: lists for some queries, arrays of numpy for the others."""
    rng = np.random.default_rng(3)
    names = [f"all_souls_{number:06d}" for number in range(num)]
    asked = [f"radcliffe_{number:06d}" for number in range(queries)]
    for number, each in enumerate([*names, *asked]):
        save_image(folder / "jpg" / f"{each}.jpg", number)
    gnd = []
    for number in range(queries):
        order = rng.permutation(num)
        lists = {"easy": order[:2], "hard": order[2:5], "junk": order[5:7]}
        if number == 0:
            lists["easy"] = np.array([], int)  # not measured in the easy setting
        if number % 2:
            lists = {key: [int(value) for value in values] for key, values in lists.items()}
        gnd.append({"bbx": [2.0, 1.2, 9.7, 8.0], **lists})
    truth = {"imlist": names, "qimlist": asked, "gnd": gnd}
    (folder / f"gnd_{name}.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    return truth


def write_met(folder: Path, *, tuning: bool = True) -> None:
    """Three exhibits with two photographs each; queries of exhibits and of other things."""
    database, queries, tuned = [], [], []
    for exhibit in (7, 30, 111):
        for number in range(2):
            path = f"MET/{exhibit}/{number}.jpg"
            save_image(folder / "images" / path, exhibit + number)
            database.append({"id": exhibit, "path": path})
        for entries, kind in ((queries, "test_met"), (tuned, "val_met")):
            path = f"{kind}/{exhibit}.jpg"
            save_image(folder / "images" / path, 1000 + exhibit)
            entries.append({"path": path, "MET_id": exhibit})
    for entries, kind in ((queries, "test_other"), (tuned, "val_other")):
        for number in range(2):
            save_image(folder / "images" / kind / f"{number}.jpg", 2000 + number)
            entries.append({"path": f"{kind}/{number}.jpg"})
    truth = folder / "ground_truth"
    truth.mkdir()
    (truth / "MET_database.json").write_text(json.dumps(database))
    (truth / "mini_MET_database.json").write_text(json.dumps(database[:4]))
    (truth / "testset.json").write_text(json.dumps(queries))
    if tuning:
        (truth / "valset.json").write_text(json.dumps(tuned))


def write_amstertime(folder: Path, num: int = 5) -> None:
    """Pairs of the same name; one old photograph has no new one."""
    for number in range(num):
        save_image(folder / "old" / f"{number:04d}.jpg", number)
        save_image(folder / "new" / f"{number:04d}.png", 100 + number)
    save_image(folder / "old" / f"{num:04d}.jpg", 999)


def by_definition(ranked: list[int], relevant: set[int], ignored: set[int]) -> float:
    """The rule of the revisited benchmark, image by image."""
    area, hits, seen = 0.0, 0, 0
    for image in ranked:
        if image in ignored:
            continue
        if image in relevant:
            before = 1.0 if seen == 0 else hits / seen
            after = (hits + 1) / (seen + 1)
            area += (before + after) / 2 / len(relevant)
            hits += 1
        seen += 1
    return area

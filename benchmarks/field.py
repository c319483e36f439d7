"""What a trained field renders of views that it has not seen, before and after boosting: a table and a picture.

    spatialboost data build --source rooms --num 1000 --size 112 --views 4 --out data/rooms-views
    spatialboost train --config spa3r/tiny
    python benchmarks/field.py runs/spa3r-tiny --out runs/rendered

The run may be any run of the teacher `field`, such as `seed0/field` of a proof, whose probes compare the encoders.
Measured on rooms that no training saw, every second view of which is a target. In OUT: `rendered.json` and
`rendered.png`.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from spatialboost.probes.token_colours import principal_colours
from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.scene import Scene
from spatialboost.teachers.field import feature_maps, measure_rendering
from spatialboost.teachers.field.measures import GUESSES
from spatialboost.teachers.protocol import Example, Teacher
from spatialboost.training.run import open_teacher

SHOWN, CELL = 4, 112  # rooms in the picture, and the side of a map in pixels


def examples(teacher: Teacher, source: Any) -> tuple[list[Example], list[Scene], int]:
    """The examples of scenes: every second view is a target; the scenes; and how many have no overlap."""
    make, found, kept, skipped = teacher.make_example(None, [], []), [], [], 0
    for number in range(len(source)):
        scene = source[number]
        order = [*range(0, len(scene.views), 2), *range(1, len(scene.views), 2)]
        own = Scene([scene.views[i] for i in order])
        try:
            found.append(make.of_scene(own, (len(order) + 1) // 2))  # type: ignore[attr-defined]
            kept.append(own)
        except BAD_ITEM:
            skipped += 1
    return found, kept, skipped


def picture(rows: list[tuple[list[np.ndarray], Mapping[str, torch.Tensor]]]) -> Image.Image:
    """For each scene: a context view, the target view, then its features as colours: the truth and each guess."""
    names = ("true", *GUESSES)
    colours = principal_colours(torch.stack([torch.stack([maps[name][0] for name in names]) for _, maps in rows]))
    sheet = []
    for (views, _), maps_Mhw3 in zip(rows, colours, strict=True):
        cells = [Image.fromarray(view).resize((CELL, CELL)) for view in views]
        maps = [Image.fromarray((each * 255).byte().numpy()) for each in maps_Mhw3]
        cells += [each.resize((CELL, CELL), Image.Resampling.NEAREST) for each in maps]
        sheet.append(
            np.concatenate([np.pad(np.asarray(c), ((2, 2), (2, 2), (0, 0)), constant_values=255) for c in cells], 1)
        )
    whole = Image.fromarray(np.concatenate([np.full((14, sheet[0].shape[1], 3), 255, np.uint8), *sheet]))
    for column, title in enumerate(("a context view", "the view to render", "its true features", *GUESSES)):
        ImageDraw.Draw(whole).text((column * (CELL + 4) + 4, 1), title, fill="black")
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of the teacher `field`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rooms", type=int, default=48, help="rooms to measure on")
    parser.add_argument("--views", type=int, default=4, help="views of each")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    args.out.mkdir(parents=True, exist_ok=True)
    teachers: dict[str, Any] = {
        "before boosting": open_teacher(args.run, until="field"),
        "boosted": open_teacher(args.run),
    }
    size = teachers["boosted"].images.size[0]
    rooms = Rooms(args.rooms, first=600_000, size=size, views=args.views)
    made, kept, skipped = examples(teachers["boosted"], rooms)
    found = {name: measure_rendering(teacher.objective, made) for name, teacher in teachers.items()}
    one = found["boosted"]
    print(f"{one.views} views of {len(made)} rooms, {skipped} rooms without overlap left out")
    print("| | cosine | distance | most similar at | depth error |\n|---|---|---|---|---|")
    for name, each in found.items():
        shares = f"{each.cosine['rendered']:.3f} | {each.distance['rendered']:.3f} | {each.wins['rendered']:.1%}"
        print(f"| field, {name} | {shares} | {each.depth_error:.3f} |")
    for guess in GUESSES[1:]:
        print(f"| {guess} | {one.cosine[guess]:.3f} | {one.distance[guess]:.3f} | {one.wins[guess]:.1%} | |")
    print(f"| median depth | | | | {one.depth_guess_error:.3f} |")
    (args.out / "rendered.json").write_text(
        json.dumps({name: each.to_dict() for name, each in found.items()}, indent=1)
    )
    field = teachers["before boosting"].objective
    shown = [
        ([kept[i].views[0].image_HW3, kept[i].views[int(made[i]["contexts"])].image_HW3], feature_maps(field, made[i]))
        for i in range(min(SHOWN, len(made)))
    ]
    picture(shown).save(args.out / "rendered.png")


if __name__ == "__main__":
    main()

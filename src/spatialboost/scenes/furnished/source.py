"""Furnished rooms and gardens as a source of views: one place for each seed, rendered when it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, CuesError, SceneObject
from spatialboost.scenes.furnished.assembly import Triangles
from spatialboost.scenes.furnished.catalogue import DEFAULT_PATH, list_authors, read_catalogue
from spatialboost.scenes.furnished.describing import describe, look_at_things
from spatialboost.scenes.furnished.gardens import ROLES, sample_garden
from spatialboost.scenes.furnished.library import Library
from spatialboost.scenes.furnished.light import render_view
from spatialboost.scenes.furnished.place import Place
from spatialboost.scenes.furnished.rooms import sample_room
from spatialboost.scenes.rooms.shading import apply_camera_effects
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sizes import validate_size
from spatialboost.scenes.source_registry import SourceOptions
from spatialboost.scenes.views.mix import ViewMix

_DEFAULT_NUM, _DEFAULT_SIZE = 1000, 224
_OUTDOORS = 0.2  # fraction of the places that are gardens or streets
_SMALLEST_SHARE = 0.003  # fraction of the image: a thing that covers less is not listed as an object
_PIXELS_PER_FACE = 5  # a place has about one face for this many pixels
_NOTICED = 0.0008  # fraction of the image: a thing that covers more may be what a description means


class Furnished:
    """Rooms and gardens with models of real furniture, with the seeds ``first`` to ``first + num - 1``.

    Example:
        >>> rooms = Furnished(3, size=64)  # doctest: +SKIP
        >>> view = rooms[0]  # doctest: +SKIP
        >>> [thing.description for thing in view.objects]  # doctest: +SKIP
        ['sofa', 'coffee table', 'armchair by the window', ...]

    ``rooms[i]`` is a view (``Cues``). With ``views`` above one it is a ``Scene`` with cameras on a path. The same seed
    and the same models give the same pixels, whatever else was rendered before.

    Args:
        num: number of places.
        path: folder with ``.sh3f`` files, or with models of your own (``.obj``, ``.glb``), see `read_catalogue`.
        first: seed of the first place. Use different seeds for training and for testing.
        size: side of a square image, or ``(height, width)``, in pixels.
        views: number of cameras in each place, or a mix of numbers.

    Raises:
        SpatialBoostError: the folder has no model that can be used, or a number is out of range.
    """

    def __init__(
        self,
        num: int,
        path: Path | str = DEFAULT_PATH,
        *,
        first: int = 0,
        size: int | tuple[int, int] = _DEFAULT_SIZE,
        views: int | ViewMix = 1,
    ) -> None:
        if num < 1 or first < 0:
            raise SpatialBoostError(
                f"num is {num} and first {first}; expected at least one room, and a first seed of 0 or more"
            )
        self.mix = ViewMix.of(views)
        validate_size(size, self.mix.counts[-1])
        self.num, self.first = num, first
        self.size = (size, size) if isinstance(size, int) else size
        self.catalogue = read_catalogue(path)
        self.library = Library(self.catalogue)
        self.name = f"furnished {self.catalogue.hash} {first}-{first + num - 1} {size} px" + (
            f" {self.mix.name}" if self.mix.counts != (1,) else ""
        )

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int, /) -> Cues | Scene:
        if not 0 <= index < self.num:
            raise IndexError(f"room {index} of {self.num}")
        seed = self.first + index
        views = self.mix.draw(seed)
        rendered = render_place(sample_place(seed, self.library, views), self.size)
        return rendered[0] if views == 1 else Scene(rendered)

    @property
    def provenance(self) -> dict[str, Any]:
        """Who made the models, under which licences, and which could not be used."""
        return {
            "source": "furnished",
            "catalogue": self.catalogue.hash,
            "models": len(self.catalogue.pieces),
            "authors": list_authors(self.catalogue.pieces),
            "skipped": {**self.catalogue.skipped, **self.library.problems},
        }


def open_furnished(options: SourceOptions) -> Furnished:
    """Open the places that the command line options describe.

    Raises:
        SpatialBoostError: see `Furnished`; or an option of another source is given.
    """
    given = options.reader.describe() or options.reader.depth_scale or options.column
    if given or options.stride is not None or options.measure is not None:
        raise SpatialBoostError(
            f"{given or 'stride or choose'} is an option of other sources; furnished rooms are generated: leave it out"
        )
    return Furnished(
        options.num or _DEFAULT_NUM,
        options.path or DEFAULT_PATH,
        first=options.first,
        size=options.size or _DEFAULT_SIZE,
        views=options.views,
    )


def sample_place(seed: int, library: Library, views: int = 1) -> Place:
    """The room or garden of a seed. One in five is outdoors, if the catalogue has things for outdoors."""
    outdoors = [role for role in ROLES if role in library.uses]
    indoors = [role for role in library.uses if role not in ROLES]
    inside = np.random.default_rng([seed, 0x0D]).random() >= _OUTDOORS
    if outdoors and (not indoors or (not inside and len(outdoors) > 1)):
        return sample_garden(seed, library, views)
    return sample_room(seed, library, views)


def render_place(place: Place, size: tuple[int, int]) -> list[Cues]:
    """Render every camera of a place in images of ``(height, width)`` pixels."""
    height, width = size
    focal = width / 2 / np.tan(np.radians(place.fov) / 2)
    triangles = Triangles(place, 1.0 / focal, max(6000, height * width // _PIXELS_PER_FACE))
    rendered = [render_view(place, triangles, pose, focal, size) for pose in place.poses]
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    names = [f"furnished:{place.seed}" + (f"/view{number}" if number else "") for number in range(len(rendered))]
    images, shown = [], []
    for number, view in enumerate(rendered):
        if not np.isfinite(view.depth_HW).any():
            raise CuesError(f"{names[number]}: the camera sees nothing but sky")
        light = torch.from_numpy(view.light_3HW)[None]
        image = apply_camera_effects(light, [place], [number])[0]  # type: ignore[list-item]
        images.append(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
        shown.append(look_at_things(images[-1], view.thing_HW, max(_NOTICED * height * width, 4)))
    descriptions = describe(place, shown)
    views = []
    for number, view in enumerate(rendered):
        listed = [
            thing
            for thing, seen in shown[number].items()
            if seen.pixels >= max(_SMALLEST_SHARE * height * width, 4) and thing in descriptions
        ]
        pose = place.poses[number]
        views.append(
            Cues(
                image_HW3=images[number],
                depth_HW=view.depth_HW,
                intrinsics_33=intrinsics.copy(),
                source=names[number],
                objects=tuple(
                    SceneObject(descriptions[n][0], view.thing_HW == n, descriptions[n][1:], identity=str(n))
                    for n in listed
                ),
                pose_44=pose.copy(),
                facts=_facts(place, pose, listed, len(shown[number]), descriptions),
                up_3=pose[:3, :3].T @ np.array([0.0, -1.0, 0.0]),
            )
        )
    return views


def _facts(
    place: Place, pose_44: np.ndarray, listed: Sequence[int], noticed: int, descriptions: dict[int, tuple[str, ...]]
) -> dict[str, Any]:
    """Facts about a view as JSON-compatible values; lengths in metres."""

    def metres(values: Sequence[float]) -> list[float]:
        return [round(float(value), 3) for value in values]

    used = {thing.use.piece.file: thing.use.piece for thing in place.things}
    return {
        "place": place.kind,
        "room_size": None
        if place.outdoors
        else dict(zip(("width", "height", "depth"), metres(place.size), strict=True)),
        "camera_height": round(float(-pose_44[1, 3]), 3),
        "horizontal_fov": round(place.fov, 2),
        "floor": place.surfaces[0 if place.outdoors else 3].name,
        "number_of_objects": len(listed),
        "number_of_things": len(place.things),
        "without_description": noticed - sum(1 for _ in listed),
        "objects": [
            {
                "description": descriptions[number][0],
                "noun": place.things[number].use.noun,
                "extent": metres(place.things[number].size),
                "centre": metres(place.things[number].position),
                "on": None if place.things[number].on is None else place.things[place.things[number].on].use.noun,  # type: ignore[index]
            }
            for number in listed
        ],
        "models": [
            {"name": piece.name, "creator": piece.creator, "licence": piece.licence, "file": piece.file}
            for piece in used.values()
        ],
    }

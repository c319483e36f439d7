"""Render procedural rooms: views with exact depth, masks, descriptions and poses.

A seed always gives the same room. It does not matter which other rooms are rendered in the same call.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, SceneObject
from spatialboost.scenes.rooms import raycast
from spatialboost.scenes.rooms.materials import PALETTE
from spatialboost.scenes.rooms.room import Material, Room, Thing, look, scale
from spatialboost.scenes.rooms.sampling import sample_room
from spatialboost.scenes.rooms.shading import apply_camera_effects, render_rays
from spatialboost.scenes.rooms.viewpoints import sample_poses
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.threads import limited_threads
from spatialboost.scenes.views.mix import ViewMix

__all__ = ["look", "render_rooms", "render_scenes", "render_views", "sample_room"]

SMALLEST_SHARE = 0.003  # fraction of the image: a thing that covers less is not listed as an object
# On a CPU, as many rays as fit into the caches of a core. On a GPU, enough to keep it busy with about 2 GB of memory.
RAYS_AT_ONCE = {"cpu": 1 << 14, "cuda": 1 << 22}


def render_rooms(
    seeds: Sequence[int], *, size: int | tuple[int, int] = 128, device: str | torch.device = "cpu"
) -> list[Cues]:
    """Render one view of the room of each seed.

    The result for a seed depends only on the seed, the size and the kind of device, not on the other seeds.

    Example:
        >>> cues = render_rooms([0, 1, 2], size=64)[2]
        >>> cues.image_HW3.shape, cues.source
        ((64, 64, 3), 'synthetic:2')

    Args:
        seeds: non-negative integers.
        size: side of a square image, or ``(height, width)``, in pixels.
        device: device of the ray casting; results are always numpy arrays.

    Returns:
        Cues with exact depth, pose (camera to world), objects with masks, and facts for captions.
    """
    return _render([_first_shot(sample_room(int(seed))) for seed in seeds], size, device)


def render_scenes(
    seeds: Sequence[int],
    *,
    views: int | ViewMix,
    size: int | tuple[int, int] = 128,
    device: str | torch.device = "cpu",
) -> list[Scene]:
    """Render several views of the room of each seed. The first view is the same as from ``render_rooms``.

    Example:
        >>> scene = render_scenes([2], views=2, size=32)[0]
        >>> [view.source for view in scene.views]
        ['synthetic:2', 'synthetic:2/view1']

    A thing has the same description in every view. ``views`` is a number, or a mix from which one is drawn for each
    seed; size and device are those of `render_rooms`.
    """
    shots: list[Shot] = []
    starts, mix = [0], ViewMix.of(views)
    for seed in seeds:
        room = sample_room(int(seed))
        _, *further = sample_poses(room, mix.draw(room.seed))
        shots.append(_first_shot(room))
        shots += [Shot(room, pose, f"synthetic:{room.seed}/view{i}", i) for i, pose in enumerate(further, start=1)]
        starts.append(len(shots))
    rendered = _render(shots, size, device)
    return [Scene(rendered[start:end]) for start, end in pairwise(starts)]


def render_views(
    room: Room,
    poses: Sequence[np.ndarray],
    *,
    size: int | tuple[int, int] = 128,
    device: str | torch.device = "cpu",
) -> list[Cues]:
    """Render one room from several cameras.

    Example:
        >>> room = sample_room(3)
        >>> views = render_views(room, [room.pose_44, look((0.5, -1.4, -1.0), yaw=-0.2, pitch=0.2)], size=32)
        >>> len(views)
        2

    Raises:
        SpatialBoostError: a camera is outside of the room.
    """
    width, height, depth = room.size
    for number, pose in enumerate(poses):
        x, y, z = pose[:3, 3]
        if not (abs(x) < width / 2 and -height < y < 0 and abs(z) < depth / 2):
            raise SpatialBoostError(
                f"camera {number} is at ({x:.2f}, {y:.2f}, {z:.2f}), outside of the room of seed {room.seed}; expected "
                f"|x| < {width / 2:.2f}, {-height:.2f} < y < 0, |z| < {depth / 2:.2f}"
            )
    return _render(
        [Shot(room, pose, f"synthetic:{room.seed}/view{i}", i) for i, pose in enumerate(poses)], size, device
    )


class Shot(NamedTuple):
    """One view to render: the room, the camera pose, the view's ``source``, and its number in the room."""

    room: Room
    pose_44: np.ndarray
    source: str
    number: int


def _first_shot(room: Room) -> Shot:
    return Shot(room, room.pose_44, f"synthetic:{room.seed}", 0)


def _render(shots: Sequence[Shot], size: int | tuple[int, int], device: str | torch.device) -> list[Cues]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise SpatialBoostError(f"size is {size}, expected a positive edge or (height, width) in pixels")
    device = torch.device(device)
    rays_at_once = RAYS_AT_ONCE.get(device.type, RAYS_AT_ONCE["cpu"])
    at_once = max(1, rays_at_once // (height * width))
    views: list[Cues] = []
    with limited_threads(1):
        for start in range(0, len(shots), at_once):
            views.extend(_render_chunk(shots[start : start + at_once], height, width, device, rays_at_once))
    return views


@torch.no_grad()
def _render_chunk(
    shots: Sequence[Shot], height: int, width: int, device: torch.device, rays_at_once: int
) -> list[Cues]:
    rooms = [shot.room for shot in shots]
    orders = [_order(room) for room in rooms]
    batch = _tables(rooms, orders, device)
    focals = [width / 2 / np.tan(np.radians(room.fov) / 2) for room in rooms]
    poses = torch.tensor(np.stack([shot.pose_44 for shot in shots]), dtype=torch.float64)
    directions_B3N = _directions(poses, focals, height, width).to(device)
    origin_B3 = poses[:, :3, 3].float().to(device)
    angle_B = torch.tensor([1.0 / focal for focal in focals], dtype=torch.float32, device=device)
    chunks = [
        render_rays(batch, origin_B3, rays.contiguous(), angle_B)
        for rays in directions_B3N.split(max(1, rays_at_once // len(rooms)), dim=2)
    ]
    t_BN, index_BN, light_B3N = (torch.cat(tensors, -1) for tensors in zip(*chunks, strict=True))
    image = apply_camera_effects(light_B3N.unflatten(-1, (height, width)), rooms, [shot.number for shot in shots])
    images = image.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    depths = t_BN.unflatten(-1, (height, width)).cpu().numpy()
    indices = index_BN.unflatten(-1, (height, width)).cpu().numpy()
    views = []
    for b, (room, pose, source, _) in enumerate(shots):
        intrinsics = np.array([[focals[b], 0, (width - 1) / 2], [0, focals[b], (height - 1) / 2], [0, 0, 1]])
        rows = _rows_of(orders[b], batch.counts)
        objects, seen = [], []
        for thing, row in zip(room.things, rows, strict=True):
            mask = indices[b] == row
            if mask.sum() >= max(SMALLEST_SHARE * mask.size, 4):
                objects.append(SceneObject(thing.description, mask, thing.aliases, identity=thing.description))
                seen.append(thing)
        views.append(
            Cues(
                image_HW3=images[b].copy(),
                depth_HW=depths[b].copy(),
                intrinsics_33=intrinsics,
                source=source,
                objects=tuple(objects),
                pose_44=pose.copy(),
                up_3=-pose[1, :3],  # the world's y axis points down
                facts=_facts(room, pose, seen),
            )
        )
    return views


def _directions(poses: Tensor, focals: Sequence[float], height: int, width: int) -> Tensor:
    """World directions of the pixels' rays, with z = 1 in the camera's frame: (B, 3, N) float32."""
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    rays = []
    for pose, focal in zip(poses, focals, strict=True):
        x, y = ((u - (width - 1) / 2) / focal).flatten(), ((v - (height - 1) / 2) / focal).flatten()
        rays.append(torch.stack([pose[i, 0] * x + pose[i, 1] * y + pose[i, 2] for i in range(3)]))
    return torch.stack(rays).float()


def _order(room: Room) -> tuple[list[int], list[int], list[int]]:
    """Indices of the things that are boxes, balls and cylinders."""
    kinds = {"box": 0, "panel": 0, "sphere": 1, "cylinder": 2}
    return tuple([i for i, thing in enumerate(room.things) if kinds[thing.shape] == kind] for kind in range(3))  # type: ignore[return-value]


def _rows_of(order: tuple[list[int], ...], counts: tuple[int, int, int]) -> list[int]:
    """The row of each thing in the batch's table."""
    rows = {}
    start = raycast.SIDES
    for members, count in zip(order, counts, strict=True):
        rows.update({thing: start + place for place, thing in enumerate(members)})
        start += count
    return [rows[i] for i in range(len(rows))]


def _tables(rooms: Sequence[Room], orders: Sequence[tuple[list[int], ...]], device: torch.device) -> raycast.Batch:
    counts = tuple(max(len(order[kind]) for order in orders) for kind in range(3))
    total = raycast.SIDES + sum(counts)
    table = np.zeros((len(rooms), total, raycast.COLUMNS), np.float32)
    # Padding rows: tiny things far outside of any room, so that every ray hits a side of the room first.
    table[:, :, raycast.CENTRE] = 1e4
    table[:, :, raycast.HALF] = 1e-3
    table[:, :, raycast.COS] = 1.0
    samples = [_light_samples(room) for room in rooms]
    # Padding rows: lamps without light. They add zero, so they do not change the sum.
    lights = np.tile(np.array([0, -1, 0, 0, 0, 0], np.float32), (len(rooms), max(map(len, samples)), 1))
    for b, (room, order) in enumerate(zip(rooms, orders, strict=True)):
        width, height, depth = room.size
        for side, material in enumerate(room.sides):
            table[b, side] = _row((0, -height / 2, 0), (width / 2, height / 2, depth / 2), 0.0, material)
        for i, row in enumerate(_rows_of(order, counts)):  # type: ignore[arg-type]
            thing = room.things[i]
            table[b, row] = _row(thing.centre, thing.half, thing.yaw, thing.material)
        lights[b, : len(samples[b])] = samples[b]
    return raycast.Batch(
        torch.from_numpy(table).to(device),
        counts,  # type: ignore[arg-type]
        torch.from_numpy(lights).to(device),
        torch.tensor([room.ambient for room in rooms], dtype=torch.float32, device=device),
        torch.from_numpy(_lattice()).to(device),
    )


def _row(centre: Sequence[float], half: Sequence[float], yaw: float, material: Material) -> np.ndarray:
    # Squared, because the renderer works in linear light and takes the square root at the end.
    first, second = (np.square(shade) for shade in (material.first, material.second))
    texture = raycast.TEXTURES.index(material.texture)
    looks = [*first, *second, *material.axis, *material.frequency, *material.phase, texture, material.gloss]
    return np.array([*centre, *half, np.cos(yaw), np.sin(yaw), *looks], np.float32)


def _light_samples(room: Room) -> np.ndarray:
    """Sample points of the lamps: one for each lamp, or four on a small disc for a lamp with soft shadows."""
    points = []
    for light in room.lights:
        samples = 4 if light.radius > 0 else 1
        for k in range(samples):
            angle = 2 * np.pi * (k + 0.3) / samples
            offset = (light.radius * np.cos(angle), 0.0, light.radius * np.sin(angle))
            points.append([*np.add(light.position, offset), *scale(light.colour, 1.0 / samples)])
    return np.array(points, np.float32)


@functools.cache
def _lattice() -> np.ndarray:
    return np.random.default_rng(2603).random(4096, dtype=np.float32)


def _facts(room: Room, pose_44: np.ndarray, seen: Sequence[Thing]) -> dict[str, Any]:
    """Facts about a view for captions, as JSON-compatible values; lengths in metres."""

    def metres(values: Sequence[float]) -> list[float]:
        return [round(float(value), 3) for value in values]

    return {
        "room_size": dict(zip(("width", "height", "depth"), metres(room.size), strict=True)),
        "camera_height": round(float(-pose_44[1, 3]), 3),
        "horizontal_fov": round(room.fov, 2),
        "lights": [metres(light.position) for light in room.lights],
        "walls": room.sides[5].colour,
        "floor": {"colour": room.sides[3].colour, "texture": room.sides[3].texture},
        "ceiling": room.sides[2].colour,
        "absent": _absent(room),
        "number_of_objects": len(seen),
        "number_of_things": len(room.things),
        "objects": [
            {
                "description": thing.description,
                "shape": thing.shape,
                "colour": thing.material.colour,
                "texture": thing.material.texture,
                "size": thing.size,
                "place": thing.place,
                "extent": metres([2 * half for half in thing.half]),
                "centre": metres(thing.centre),
            }
            for thing in seen
        ],
    }


def _absent(room: Room) -> list[str]:
    """What is nowhere in the room, such as "red box", for questions about absent things.

    The colours of walls and floor, which no thing has, are left out.
    """
    there = {(thing.material.colour, thing.shape) for thing in room.things}
    sides = {room.sides[5].colour, room.sides[3].colour}
    shapes = sorted({thing.shape for thing in room.things})
    return [
        f"{colour} {shape}"
        for colour in PALETTE
        if colour not in sides
        for shape in shapes
        if (colour, shape) not in there
    ]

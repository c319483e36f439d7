"""Put all triangles of a place together: its things, its walls with holes for doors and windows, or its ground."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from spatialboost.scenes.furnished.gardens import GROUND
from spatialboost.scenes.furnished.meshes import Material, Mesh
from spatialboost.scenes.furnished.place import Opening, Place
from spatialboost.scenes.furnished.textures import TextureTable
from spatialboost.scenes.furnished.tracing import Tracer

# Shape legend: V = vertices, F = faces, M = materials, K = things.

_CLOSEST = 0.7  # metres: things are not simplified for cameras that are closer
_DETAIL = 0.8  # of a pixel: how far apart merged vertices are
_FACES_PER_PIXEL = 0.3  # of the square that a thing covers; a thing with more is simplified further
_GLOSS = {"tiles": 0.12, "marble": 0.15, "parquet": 0.06, "wood": 0.05}  # of a surface; none for others
_FEWEST = 150  # faces: no thing is simplified further because of the number of its faces


class Triangles:
    """All triangles of a place, for one size of image.

    Args:
        pixel_angle: 1 / focal length in pixels. What is finer than a pixel at its distance is simplified.
        budget: about how many faces the things may have together.

    Attributes:
        tracer: casts rays at the triangles.
        vertices_V3, faces_F3: the triangles, in the world.
        thing_F: number of the thing of each face; -1 for walls, floor, ceiling and ground.
        normals_F33, uv_F32, material_F: as in `Mesh`, in the world.
        tint_M3, gloss_M, glass_M, cutout_M: of all materials.
        textures: of all materials.
        density_F: texture coordinates per metre.
    """

    def __init__(self, place: Place, pixel_angle: float, budget: int) -> None:
        shell = _shell(place)
        meshes = _simplify(place, pixel_angle, budget)
        materials = [*shell.materials, *(material for mesh in meshes for material in mesh.materials)]
        vertices, normals = [shell.vertices_V3], [shell.normals_F33]
        for thing, mesh in zip(place.things, meshes, strict=True):
            cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
            turn_33 = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], np.float32)  # for rows
            flat_3 = np.array([1, thing.flat, 1], np.float32)
            vertices.append(mesh.vertices_V3 * flat_3 @ turn_33 + np.array(thing.position, np.float32))
            normals.append((mesh.normals_F33.reshape(-1, 3) @ turn_33).reshape(-1, 3, 3))
        parts = [shell, *meshes]
        starts = np.cumsum([0, *(len(part.vertices_V3) for part in parts)])
        first = np.cumsum([0, *(len(part.materials) for part in parts)])
        self.vertices_V3 = np.concatenate(vertices)
        self.faces_F3 = np.concatenate(
            [part.faces_F3 + np.int32(start) for part, start in zip(parts, starts, strict=False)]
        )
        self.normals_F33 = np.concatenate(normals)
        self.uv_F32 = np.concatenate([part.uv_F32 for part in parts])
        self.material_F = np.concatenate(
            [part.material_F + np.int32(at) for part, at in zip(parts, first, strict=False)]
        )
        self.thing_F = np.repeat(np.arange(-1, len(meshes)), [len(part.faces_F3) for part in parts])
        self.tint_M3 = np.array([material.tint for material in materials], np.float32)
        self.gloss_M = np.array([material.gloss for material in materials], np.float32)
        self.glass_M = np.array([material.glass for material in materials])
        self.cutout_M = np.array([material.texture.cutout for material in materials])
        self.textures = TextureTable([material.texture for material in materials])
        self.density_F = self._density()
        self.tracer = Tracer(self.vertices_V3, self.faces_F3)

    def _density(self) -> np.ndarray:
        a, b, c = (self.vertices_V3.take(self.faces_F3[:, corner], 0) for corner in range(3))
        (x1, y1, z1), (x2, y2, z2) = (b - a).T, (c - a).T
        area_F = np.sqrt((y1 * z2 - z1 * y2) ** 2 + (z1 * x2 - x1 * z2) ** 2 + (x1 * y2 - y1 * x2) ** 2)
        (u1, v1), (u2, v2) = ((self.uv_F32[:, corner] - self.uv_F32[:, 0]).T for corner in (1, 2))
        return np.sqrt(np.abs(u1 * v2 - u2 * v1) / np.maximum(area_F, 1e-12))


def _simplify(place: Place, pixel_angle: float, budget: int) -> list[Mesh]:
    """The meshes of all things with the detail that their distances from the first camera need."""
    pixels, squares = [], []
    for thing in place.things:
        away = float(np.linalg.norm(np.subtract(thing.position, place.poses[0][:3, 3])))
        pixels.append(max(_CLOSEST, away - max(thing.size) / 2) * pixel_angle)  # metres
        squares.append((max(thing.size) / pixels[-1]) ** 2)
    share = _FACES_PER_PIXEL
    for _ in range(3):
        meshes = [
            thing.mesh.simplify(pixel * _DETAIL, int(np.clip(share * square, _FEWEST, budget / 3)))
            for thing, pixel, square in zip(place.things, pixels, squares, strict=True)
        ]
        total = sum(len(mesh.faces_F3) for mesh in meshes)
        if total <= budget:
            break
        share *= 0.7 * budget / total
    return meshes


def _shell(place: Place) -> Mesh:
    """Walls, ceiling and floor, or the ground, as rectangles around the openings."""
    corners: list[np.ndarray] = []
    uvs: list[np.ndarray] = []
    numbers: list[int] = []
    for side, (origin_3, along, up, across, upwards) in enumerate(_sides(place)):
        surface = place.surfaces[side]
        for (a0, a1), (b0, b1) in _around(across, upwards, [hole for hole in place.openings if hole.side == side]):
            corners_42 = np.array([[a0, b0], [a1, b0], [a1, b1], [a0, b1]])
            corners.append(np.array(origin_3, float) + corners_42 @ np.array([along, up], float))
            uvs.append(corners_42 / surface.period)
            numbers.append(side)
    vertices_V3 = np.concatenate(corners).astype(np.float32)
    starts = 4 * np.arange(len(corners))
    faces_F3 = (starts[:, None, None] + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3).astype(np.int32)
    uv_F32 = np.concatenate(uvs).astype(np.float32)[faces_F3]
    corner = vertices_V3[faces_F3]
    normal_F3 = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal_F3 /= np.linalg.norm(normal_F3, axis=1, keepdims=True)
    return Mesh(
        vertices_V3,
        faces_F3,
        np.repeat(normal_F3[:, None], 3, axis=1),
        uv_F32,
        np.repeat(np.array(numbers, np.int32), 2),
        tuple(Material(surface.tint, surface.texture, _GLOSS.get(surface.name, 0.0)) for surface in place.surfaces),
    )


_Range = tuple[float, float]


def _sides(place: Place) -> list[tuple[Sequence[float], Sequence[float], Sequence[float], _Range, _Range]]:
    """Each side: a point on it, its two axes, and their ranges."""
    x, height, z = place.size[0] / 2, place.size[1], place.size[2] / 2
    right, up, forward = (1, 0, 0), (0, -1, 0), (0, 0, 1)
    if place.outdoors:
        return [((0, 0, 0), right, forward, (-GROUND, GROUND), (-GROUND, GROUND))]
    return [
        ((-x, 0, 0), forward, up, (-z, z), (0.0, height)),
        ((x, 0, 0), forward, up, (-z, z), (0.0, height)),
        ((0, -height, 0), right, forward, (-x, x), (-z, z)),
        ((0, 0, 0), right, forward, (-x, x), (-z, z)),
        ((0, 0, -z), right, up, (-x, x), (0.0, height)),
        ((0, 0, z), right, up, (-x, x), (0.0, height)),
    ]


def _around(across: _Range, upwards: _Range, holes: Sequence[Opening]) -> list[tuple[_Range, _Range]]:
    """Rectangles that cover a wall except for its holes."""
    xs = sorted({*across, *(edge for hole in holes for edge in hole.along)})
    ys = sorted({*upwards, *(edge for hole in holes for edge in hole.heights)})
    return [
        ((a0, a1), (b0, b1))
        for a0, a1 in pairwise(xs)
        for b0, b1 in pairwise(ys)
        if not any(
            hole.along[0] <= (a0 + a1) / 2 <= hole.along[1] and hole.heights[0] <= (b0 + b1) / 2 <= hole.heights[1]
            for hole in holes
        )
    ]

"""Render a view of a place: what each pixel sees, and its colour: lamps with soft shadows, daylight, textures."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from spatialboost.scenes.furnished.assembly import Triangles
from spatialboost.scenes.furnished.place import Lamp, Place

# Shape legend: H, W = image size in pixels, N = H W rays, L = lamps and ambient light, A = rays that hit something.

_LEAVES = 6  # how many transparent texels a ray may pass
_OCCLUSION = 0.6  # metres: what is closer darkens the ambient light
_TOO_NEAR = 2e-3  # metres: shadow rays start this far from the surface
_TAPS = ((1, 2.0), (2, 1.4), (3, 0.8))  # distance and weight of the pixels in the blur; the middle has 2


class Rendered(NamedTuple):
    """One rendered view."""

    light_3HW: np.ndarray  # float32 linear light
    depth_HW: np.ndarray  # float32 z in metres, NaN where the sky is seen
    thing_HW: np.ndarray  # number of the thing at each pixel; -1 for walls and ground, -2 for the sky


class _Seen(NamedTuple):
    """What the rays of a view hit first; vectors are lists of x, y, z."""

    at: np.ndarray  # pixels
    face_A: np.ndarray
    t_A: np.ndarray
    texel_A4: np.ndarray
    ray: np.ndarray  # (3, A)
    point_A3: np.ndarray
    normal: np.ndarray  # (3, A), towards the camera
    flat_A3: np.ndarray  # of the face, towards the camera


def render_view(
    place: Place, triangles: Triangles, pose_44: np.ndarray, focal: float, size: tuple[int, int]
) -> Rendered:
    """Render one view: the pose is camera to world, focal length and size ``(height, width)`` are in pixels."""
    height, width = size
    x, y = (part / focal for part in _pixels(height, width))
    ray_N3 = np.empty((height * width, 3), np.float32)
    for axis in range(3):
        ray_N3[:, axis] = pose_44[axis, 0] * x + pose_44[axis, 1] * y + pose_44[axis, 2]
    eye_3 = pose_44[:3, 3].astype(np.float32)
    seen = _look(triangles, eye_3, ray_N3, 1.0 / focal)
    depth_N = np.full(len(ray_N3), np.nan, np.float32)
    thing_N = np.full(len(ray_N3), -2)
    depth_N[seen.at], thing_N[seen.at] = seen.t_A, triangles.thing_F.take(seen.face_A)
    light_3N = np.empty((3, len(ray_N3)), np.float32)
    if len(seen.at) < len(ray_N3):
        light_3N[:] = _sky(place, np.ascontiguousarray(ray_N3.T))
    if len(seen.at):
        free_LA = _smooth(_find_light(place, triangles, seen, size), seen, thing_N, size)
        light_3N[:, seen.at] = _shade(place, triangles, seen, free_LA)
    return Rendered(light_3N.reshape(3, height, width), depth_N.reshape(size), thing_N.reshape(size))


def _look(triangles: Triangles, eye_3: np.ndarray, ray_N3: np.ndarray, pixel_angle: float) -> _Seen:
    """Follow each ray to the first hit that is not a hole in a texture."""
    hits = triangles.tracer.first(np.broadcast_to(eye_3, ray_N3.shape), ray_N3)
    at = np.flatnonzero(hits.face_N >= 0)
    t, face, u, v, flat = (part if len(at) == len(ray_N3) else part[at] for part in hits)
    ray = np.ascontiguousarray(ray_N3[at].T)
    length = np.sqrt(_dot(ray, ray))
    texel = _texels(triangles, face, u, v, t * length * pixel_angle)
    material = triangles.material_F.take(face)
    rays = np.flatnonzero(triangles.cutout_M[material] & (texel[:, 3] < 128))
    lost = np.zeros(len(at), bool)
    for _ in range(_LEAVES if len(rays) else 0):
        start = t[rays] + 1e-3
        beam = ray_N3[at[rays]]
        further = triangles.tracer.first(eye_3 + start[:, None] * beam, beam)
        t[rays], face[rays], u[rays], v[rays] = start + further.t_N, further.face_N, further.u_N, further.v_N
        flat[rays] = further.flat_N3
        lost[rays] = further.face_N < 0
        rays = rays[further.face_N >= 0]
        texel[rays] = _texels(triangles, face[rays], u[rays], v[rays], t[rays] * length[rays] * pixel_angle)
        rays = rays[triangles.cutout_M[triangles.material_F[face[rays]]] & (texel[rays, 3] < 128)]
        if not len(rays):
            break
    if lost.any():
        kept = np.flatnonzero(~lost)
        at, t, face, u, v, flat, texel = (part[kept] for part in (at, t, face, u, v, flat, texel))
        ray = np.ascontiguousarray(ray[:, kept])
    flat_3A = np.ascontiguousarray(flat.T)
    flat_3A *= np.sign(-_dot(flat_3A, ray)) / np.maximum(np.sqrt(_dot(flat_3A, flat_3A)), 1e-20)
    return _Seen(
        at,
        face,
        t,
        texel,
        ray,
        eye_3 + t[:, None] * ray_N3[at],
        _normals(triangles, face, u, v, flat_3A, ray),
        np.ascontiguousarray(flat_3A.T),
    )


def _texels(triangles: Triangles, face: np.ndarray, u: np.ndarray, v: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Texel at each hit; ``width`` is that of a pixel there, in metres."""
    corners = triangles.uv_F32.reshape(-1, 6).take(face, 0).T
    weight = 1 - u - v
    uv_2 = [corners[k] * weight + corners[2 + k] * u + corners[4 + k] * v for k in range(2)]
    return triangles.textures.look_up(
        triangles.material_F.take(face), uv_2[0], uv_2[1], width * triangles.density_F.take(face)
    )


def _normals(
    triangles: Triangles, face: np.ndarray, u: np.ndarray, v: np.ndarray, flat: np.ndarray, ray: np.ndarray
) -> np.ndarray:
    """Unit normals ``(3, A)``, interpolated. Many models have faces that are wound the wrong way round."""
    corners = triangles.normals_F33.reshape(-1, 9).take(face, 0).T
    weight = 1 - u - v
    normal = corners[:3] * weight + corners[3:6] * u + corners[6:] * v
    normal *= np.sign(_dot(normal, flat)) / np.maximum(np.sqrt(_dot(normal, normal)), 1e-20)
    bad = np.flatnonzero((_dot(normal, ray) > 0) | (_dot(normal, normal) < 0.5))
    normal[:, bad] = flat[:, bad]
    return normal


def _find_light(
    place: Place, triangles: Triangles, seen: _Seen, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """One ray for each pixel, to one of the lamps or to the surroundings. The neighbours follow the others.

    Returns:
        Which light each pixel has looked for, ``(A,)``, and whether its way is free, float32 ``(A,)``.
    """
    number_A = _noise(*size).take(seen.at)
    kinds = len(place.lamps) + 1
    kind_A = (number_A * kinds).astype(np.int64)
    sample_A = ((number_A * kinds - kind_A) * 16).astype(np.int64)
    beam_A3 = np.empty_like(seen.point_A3)
    for kind in range(kinds):
        mine = np.flatnonzero(kind_A == kind)
        if kind < len(place.lamps):
            beam_A3[mine] = _beams(place.lamps[kind], seen.point_A3.take(mine, 0), sample_A.take(mine))
        else:
            reach = np.float32(_OCCLUSION * (2 if place.outdoors else 1))
            aside = _directions().take(sample_A.take(mine), 0) * np.float32(0.98)
            beam_A3[mine] = (seen.normal.take(mine, 1).T + aside) * reach
    free_A = np.zeros(len(beam_A3), np.float32)
    towards = np.flatnonzero(_dot(seen.normal, beam_A3.T) > 0)
    start = seen.point_A3.take(towards, 0) + seen.flat_A3.take(towards, 0) * np.float32(_TOO_NEAR)
    free_A[towards] = ~triangles.tracer.blocked(start, beam_A3.take(towards, 0))
    return kind_A, free_A


def _smooth(
    found: tuple[np.ndarray, np.ndarray], seen: _Seen, thing_N: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """How much of each light reaches each pixel ``(L, A)``: a blur over the pixels of the same surface."""
    kind_A, free_A = found
    height, width = size
    kinds = int(kind_A.max()) + 1
    flat = np.zeros((2 * kinds, height * width), np.float32)  # what is free, and the weights
    flat[kind_A, seen.at] = free_A
    flat[kinds + kind_A, seen.at] = 1.0
    values: np.ndarray = flat.reshape(2 * kinds, height, width)
    # Neighbours on one surface: the same thing, and nearly the same plane.
    distance: np.ndarray = np.full(height * width, -99.0, np.float32)
    distance[seen.at] = seen.t_A
    normal: np.ndarray = np.zeros((3, height * width), np.float32)
    normal[:, seen.at] = seen.normal
    distance, normal, thing = distance.reshape(size), normal.reshape(3, height, width), thing_N.reshape(size)
    near = 0.06 * distance
    for axis in (1, 0):
        total = 2.0 * values
        for shift, tap in _TAPS:
            here = (slice(shift, None), slice(None)) if axis == 0 else (slice(None), slice(shift, None))
            there = (slice(None, -shift), slice(None)) if axis == 0 else (slice(None), slice(None, -shift))
            same = np.abs(distance[here] - distance[there]) < near[here]
            same &= thing[here] == thing[there]
            same &= _dot(normal[(slice(None), *here)], normal[(slice(None), *there)]) > 0.9
            share = same * np.float32(tap)
            product = np.multiply(values[(slice(None), *there)], share)
            total[(slice(None), *here)] += product
            total[(slice(None), *there)] += np.multiply(values[(slice(None), *here)], share, out=product)
        values = total
    flat = values.reshape(2 * kinds, -1)[:, seen.at]
    return np.where(flat[kinds:] > 0, flat[:kinds] / np.maximum(flat[kinds:], 1e-6), 1.0)


def _shade(place: Place, triangles: Triangles, seen: _Seen, free_LA: np.ndarray) -> np.ndarray:
    """Linear light ``(3, A)`` of the pixels that see something."""
    material = triangles.material_F.take(seen.face_A)
    tint, gloss = triangles.tint_M3.T, triangles.gloss_M.take(material)
    albedo = np.square(seen.texel_A4[:, :3].T * np.float32(1 / 255))
    for axis in range(3):
        albedo[axis] *= tint[axis].take(material)
    up = -seen.normal[1]
    floor_3 = triangles.tint_M3[0 if place.outdoors else 3]
    fill_3 = np.array(place.sky[0] if place.outdoors else (1.0, 1.0, 1.0), np.float32)
    open_A = place.ambient * (0.35 + 0.65 * free_LA[-1])
    light = np.empty_like(albedo)
    for axis in range(3):
        above, below = 0.5 + 0.5 * float(fill_3[axis]), 0.4 + 0.6 * float(floor_3[axis])
        light[axis] = open_A * ((0.62 * above + 0.38 * below) + (0.38 * above - 0.38 * below) * up)
    glossy = np.flatnonzero(gloss > 0.02)
    shine = np.zeros((3, len(glossy)), np.float32)
    view = seen.ray[:, glossy] / np.sqrt(_dot(seen.ray[:, glossy], seen.ray[:, glossy]))
    for k, lamp in enumerate(place.lamps):
        # Each pixel has its own sample for the shadow, which is smoothed; the rest is as from the lamp's middle.
        beam = np.ascontiguousarray(_beams(lamp, seen.point_A3, None).T)
        squared = np.maximum(_dot(beam, beam), 1e-6)
        lit = np.maximum(_dot(seen.normal, beam), 0.0) / np.sqrt(squared) * free_LA[k]
        if not lamp.sun:
            lit /= 1.0 + 0.12 * squared
        for axis in range(3):
            light[axis] += np.float32(lamp.colour[axis]) * lit
        if len(glossy):
            halfway = beam[:, glossy] / np.sqrt(squared[glossy]) - view
            cosine = _dot(halfway, seen.normal[:, glossy]) / np.sqrt(np.maximum(_dot(halfway, halfway), 1e-6))
            shine += np.maximum(cosine, 0.0) ** 32 * lit[glossy] * np.array(lamp.colour, np.float32)[:, None]
    colour = albedo * light
    colour[:, glossy] += shine * gloss[glossy]
    return _transparent_and_glowing(place, triangles, colour, albedo, material, seen)


def _transparent_and_glowing(
    place: Place, triangles: Triangles, colour: np.ndarray, albedo: np.ndarray, material: np.ndarray, seen: _Seen
) -> np.ndarray:
    """Window panes show the sky behind them, other glass a little of it; lamps at the ceiling glow."""
    roles = [thing.use.role for thing in place.things]
    roles.append("")  # walls, floor and ground are number -1
    thing = triangles.thing_F.take(seen.face_A)
    glass = triangles.glass_M.take(material)
    outer = np.array([role in ("window", "door") for role in roles]).take(thing)
    pane, other = np.flatnonzero(glass & outer), np.flatnonzero(glass & ~outer)
    colour[:, pane] = 0.1 * colour[:, pane] + 1.5 * _sky(place, seen.ray[:, pane])
    colour[:, other] = 0.6 * colour[:, other] + 0.14
    glowing = np.flatnonzero(np.array([role == "ceiling" for role in roles]).take(thing))
    colour[:, glowing] += 0.8 * albedo[:, glowing]
    return colour


def _beams(lamp: Lamp, point_A3: np.ndarray, sample_A: np.ndarray | None) -> np.ndarray:
    """From each point to its sample of a lamp, or to the lamp's middle: ``(A, 3)``."""
    middle_3 = np.array(lamp.position, np.float32)
    spots_163 = middle_3[None] if sample_A is None else middle_3 + _square() * np.array(lamp.spread, np.float32)
    if lamp.sun:
        spots_163 = 200.0 * spots_163 / np.linalg.norm(spots_163, axis=1, keepdims=True)
    spot = spots_163.astype(np.float32) if sample_A is None else spots_163.astype(np.float32).take(sample_A, 0)
    return np.broadcast_to(spot, point_A3.shape) if lamp.sun else spot - point_A3


@functools.lru_cache(4)
def _pixels(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the pixels of an image, counted from its middle."""
    v, u = np.mgrid[:height, :width].reshape(2, -1)
    return u - (width - 1) / 2, v - (height - 1) / 2


@functools.lru_cache(4)
def _noise(height: int, width: int) -> np.ndarray:
    """Interleaved gradient noise (Jimenez 2014) in [0, 1): neighbours have numbers that are far apart."""
    row, column = np.divmod(np.arange(height * width), width)
    return 52.9829189 * ((0.06711056 * column + 0.00583715 * row) % 1.0) % 1.0


@functools.cache
def _square() -> np.ndarray:
    """``(16, 3)``: samples in a cube such that each pair of axes has one in each cell of a 4x4 grid."""
    k = np.arange(16)
    x, z = (k % 4 + 0.5) / 2 - 1, (k // 4 + 0.5) / 2 - 1
    return np.stack([x, (z + x) % 2 - 1, z], 1).astype(np.float32)


@functools.cache
def _directions() -> np.ndarray:
    """``(16, 3)``: directions that cover the sphere. Added to a normal, they are spread as diffuse light is."""
    k = np.arange(16)
    y = 1 - (2 * k + 1) / 16
    angle = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], 1).astype(np.float32)


def _sky(place: Place, ray: np.ndarray) -> np.ndarray:
    """Light from outside ``(3, A)``: the sky above the horizon, haze and ground below it."""
    up = -ray[1] / np.sqrt(_dot(ray, ray))
    share = np.sqrt(np.clip(up, 0.0, 1.0))
    below = np.clip(-6.0 * up, 0.0, 1.0)
    light = np.empty_like(ray)
    for axis, ground in enumerate((0.30, 0.36, 0.24)):
        zenith, horizon = place.sky[0][axis], place.sky[1][axis]
        light[axis] = (horizon + (zenith - horizon) * share) * (1 - below) + ground * horizon * below
    return light


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products of vectors whose first axis is x, y, z."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]

"""Render a view of a place: what each pixel sees, and its colour: lamps with soft shadows, daylight, textures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spatialboost.scenes.furnished.assembly import Triangles
from spatialboost.scenes.furnished.place import Lamp, Place

# Shape legend: H, W = image size in pixels, N = H W rays, L = lamps, A = rays that hit something.

_LEAVES = 6  # how many transparent texels a ray may pass
_OCCLUSION = 0.6  # metres: what is closer darkens the ambient light
_TOO_NEAR = 2e-3  # metres: shadow rays start this far from the surface
# Which of 16 samples of a lamp each pixel of a 4x4 block takes. The blur afterwards takes in each of them equally.
_ORDER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
_TAPS = ((1, 2.0), (2, 1.0))  # beside the middle's 2: over any 5 pixels, each of 4 samples weighs the same


class Rendered(NamedTuple):
    """One rendered view.

    Attributes:
        light_HW3: float32 linear light.
        depth_HW: float32 z in metres, NaN where the sky is seen.
        thing_HW: number of the thing at each pixel; -1 for walls and ground, -2 for the sky.
    """

    light_HW3: np.ndarray
    depth_HW: np.ndarray
    thing_HW: np.ndarray


def render_view(place: Place, triangles: Triangles, pose_44: np.ndarray, focal: float, size: tuple[int, int]) -> Rendered:
    """Render one view.

    Args:
        place: the place.
        triangles: of the place.
        pose_44: camera to world.
        focal: focal length in pixels.
        size: ``(height, width)`` in pixels.
    """
    height, width = size
    v, u = np.mgrid[:height, :width]
    local = np.stack([(u - (width - 1) / 2) / focal, (v - (height - 1) / 2) / focal, np.ones(size)], -1)
    ray_N3 = (local.reshape(-1, 3) @ pose_44[:3, :3].T).astype(np.float32)
    eye_3 = pose_44[:3, 3].astype(np.float32)
    t_N, face_N, weights_N3, texel_N4 = _first_opaque(triangles, eye_3, ray_N3, 1.0 / focal)
    at = np.flatnonzero(face_N >= 0)
    light_N3 = _sky(place, ray_N3) if len(at) < len(face_N) else np.empty_like(ray_N3)
    thing_N = np.full(len(ray_N3), -2)
    if len(at):
        face = face_N[at]
        thing_N[at] = triangles.thing_F[face]
        surface = _surface(triangles, eye_3, ray_N3[at], t_N[at], face, weights_N3[at])
        light_N3[at] = _shade(place, triangles, surface, face, texel_N4[at], ray_N3[at], at, size)
    depth_N = np.where(face_N >= 0, t_N, np.float32(np.nan))
    return Rendered(light_N3.reshape(height, width, 3), depth_N.reshape(size), thing_N.reshape(size))


class _Surface(NamedTuple):
    point_A3: np.ndarray
    normal_A3: np.ndarray
    flat_A3: np.ndarray
    t_A: np.ndarray


def _first_opaque(
    triangles: Triangles, eye_3: np.ndarray, ray_N3: np.ndarray, pixel_angle: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each ray the depth, the face, the weights of its corners and the texel of the first hit that is not a hole."""
    origin_N3 = np.broadcast_to(eye_3, ray_N3.shape)
    hits = triangles.tracer.first(origin_N3, ray_N3)
    t_N, face_N = hits.t_N.copy(), hits.face_N.copy()
    weights_N3 = np.stack([1 - hits.u_N - hits.v_N, hits.u_N, hits.v_N], 1)
    texel_N4 = np.full((len(ray_N3), 4), 255, np.uint8)
    length_N = np.linalg.norm(ray_N3, axis=1)
    rays = np.flatnonzero(face_N >= 0)
    for _ in range(_LEAVES):
        face = face_N[rays]
        uv = (triangles.uv_F32[face] * weights_N3[rays, :, None]).sum(1)
        width = t_N[rays] * length_N[rays] * pixel_angle * triangles.density_F[face]
        texel_N4[rays] = triangles.textures.look_up(triangles.material_F[face], uv, width)
        holes = rays[triangles.cutout_M[triangles.material_F[face]] & (texel_N4[rays, 3] < 128)]
        if not holes.size:
            break
        start = t_N[holes] + 1e-3
        hits = triangles.tracer.first(eye_3 + start[:, None] * ray_N3[holes], ray_N3[holes])
        t_N[holes], face_N[holes] = start + hits.t_N, hits.face_N
        weights_N3[holes] = np.stack([1 - hits.u_N - hits.v_N, hits.u_N, hits.v_N], 1)
        rays = holes[hits.face_N >= 0]
    return t_N, face_N, weights_N3, texel_N4


def _surface(
    triangles: Triangles,
    eye_3: np.ndarray,
    ray_A3: np.ndarray,
    t_A: np.ndarray,
    face_A: np.ndarray,
    weights_A3: np.ndarray,
) -> _Surface:
    """Points and normals. Normals look to the camera: many models have faces that are wound the wrong way round."""
    corner = triangles.vertices_V3[triangles.faces_F3[face_A]]
    flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    flat *= -np.sign((flat * ray_A3).sum(1, keepdims=True))
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-20)
    normal = (triangles.normals_F33[face_A] * weights_A3[:, :, None]).sum(1)
    normal *= np.sign((normal * flat).sum(1, keepdims=True))
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    bad = (length[:, 0] < 0.1) | ((normal * ray_A3).sum(1) > 0)
    normal = np.where(bad[:, None], flat, normal / np.maximum(length, 1e-20))
    return _Surface(eye_3 + t_A[:, None] * ray_A3, normal, flat, t_A)


def _shade(
    place: Place,
    triangles: Triangles,
    surface: _Surface,
    face_A: np.ndarray,
    texel_A4: np.ndarray,
    ray_A3: np.ndarray,
    pixel_A: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """Linear light of the pixels that see something."""
    material_A = triangles.material_F[face_A]
    albedo_A3 = triangles.tint_M3[material_A] * np.square(texel_A4[:, :3].astype(np.float32) * (1 / 255))
    point, normal = surface.point_A3, surface.normal_A3
    row, column = np.divmod(pixel_A, size[1])
    sample_A = _ORDER[row % 4, column % 4]
    start_A3 = point + surface.flat_A3 * _TOO_NEAR
    seen_LA = np.zeros((len(place.lamps) + 1, len(point)), np.float32)
    for k, lamp in enumerate(place.lamps):
        beam = _beams(lamp, point, sample_A)
        lit = np.flatnonzero(np.einsum("ij,ij->i", normal, beam) > 0)
        seen_LA[k, lit] = ~triangles.tracer.blocked(start_A3[lit], beam[lit])
    around = normal + _directions()[sample_A] * np.float32(0.98)
    seen_LA[-1] = ~triangles.tracer.blocked(start_A3, around * np.float32(_OCCLUSION * (2 if place.outdoors else 1)))
    seen_LA = _smooth(seen_LA, surface, triangles.thing_F[face_A], pixel_A, size)
    up_A1 = -normal[:, 1:2]
    floor_3 = triangles.tint_M3[0 if place.outdoors else 3]
    fill_3 = np.array(place.sky[0] if place.outdoors else (1.0, 1.0, 1.0), np.float32)
    ambient_A3 = (0.62 + 0.38 * up_A1) * (0.5 + 0.5 * fill_3) + (0.38 - 0.38 * up_A1) * (0.4 + 0.6 * floor_3)
    colour = albedo_A3 * (ambient_A3 * (place.ambient * (0.35 + 0.65 * seen_LA[-1]))[:, None])
    length_A = np.sqrt(np.einsum("ij,ij->i", ray_A3, ray_A3))
    gloss_A = triangles.gloss_M[material_A]
    glossy = np.flatnonzero(gloss_A > 0.02)
    for k, lamp in enumerate(place.lamps):
        # Each pixel has its own sample for the shadow, which is smoothed afterwards; the rest is as from the middle.
        beam = _beams(lamp, point, None)
        distance = np.sqrt(np.einsum("ij,ij->i", beam, beam)) + np.float32(1e-6)
        falloff = 1.0 if lamp.sun else 1.0 / (1.0 + 0.12 * distance * distance)
        lit = np.maximum(np.einsum("ij,ij->i", normal, beam) / distance, 0.0) * falloff * seen_LA[k]
        colour += albedo_A3 * lit[:, None] * np.array(lamp.colour, np.float32)
        if len(glossy):
            halfway = beam[glossy] / distance[glossy, None] - ray_A3[glossy] / length_A[glossy, None]
            halfway /= np.maximum(np.linalg.norm(halfway, axis=1, keepdims=True), 1e-6)
            shine = np.maximum((halfway * normal[glossy]).sum(1), 0.0) ** 32 * gloss_A[glossy] * lit[glossy]
            colour[glossy] += shine[:, None] * np.array(lamp.colour, np.float32)
    return _transparent_and_glowing(place, triangles, colour, albedo_A3, material_A, face_A, ray_A3)


def _beams(lamp: Lamp, point_A3: np.ndarray, sample_A: np.ndarray | None) -> np.ndarray:
    """From each point to its sample of a lamp, or to the lamp's middle."""
    spread_163 = _square() * np.array(lamp.spread, np.float32)
    spots_163 = np.array(lamp.position, np.float32) + (spread_163 if sample_A is not None else 0 * spread_163[:1])
    if sample_A is None:
        sample_A = np.zeros(1, np.int64)
    if lamp.sun:
        beam = (200.0 * spots_163 / np.linalg.norm(spots_163, axis=1, keepdims=True)).astype(np.float32)[sample_A]
        return np.broadcast_to(beam, point_A3.shape)
    return spots_163[sample_A] - point_A3


def _square() -> np.ndarray:
    """``(16, 3)``: samples in a cube such that each pair of axes has one in each cell of a 4x4 grid."""
    k = np.arange(16)
    x, z = (k % 4 + 0.5) / 2 - 1, (k // 4 + 0.5) / 2 - 1
    return np.stack([x, (z + x) % 2 - 1, z], 1).astype(np.float32)


def _directions() -> np.ndarray:
    """``(16, 3)``: directions that cover the sphere. Added to a normal, they are spread as diffuse light is."""
    k = np.arange(16)
    y = 1 - (2 * k + 1) / 16
    angle = np.pi * (1 + 5**0.5) * k
    radius = np.sqrt(1 - y * y)
    return np.stack([radius * np.cos(angle), y, radius * np.sin(angle)], 1).astype(np.float32)


def _smooth(
    seen_LA: np.ndarray, surface: _Surface, thing_A: np.ndarray, pixel_A: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Blur over pixels of the same surface, so that the 16 samples of a 4x4 block become one soft shadow."""
    height, width = size

    def image(values: np.ndarray, empty: float) -> np.ndarray:
        full = np.full((*values.shape[:-1], height * width), empty, np.float32)
        full[..., pixel_A] = values
        return full.reshape(*values.shape[:-1], height, width)

    values = image(seen_LA, 0.0)
    near = 0.06 * image(surface.t_A, 0.0)
    distance, thing = image(surface.t_A, -99.0), image(thing_A.astype(np.float32), -99.0)
    normal = image(np.ascontiguousarray(surface.normal_A3.T), 0.0)
    for axis in (-1, -2):
        total, weight = 2.0 * values, np.full((height, width), 2.0, np.float32)
        for shift, tap in _TAPS:
            a = [slice(None)] * 3
            b = [slice(None)] * 3
            a[axis], b[axis] = slice(shift, None), slice(None, -shift)
            here, there = tuple(a), tuple(b)
            same = np.abs(distance[here[1:]] - distance[there[1:]]) < near[here[1:]]
            same &= thing[here[1:]] == thing[there[1:]]
            same &= (normal[here] * normal[there]).sum(0) > 0.9
            share = same.astype(np.float32) * np.float32(tap)
            total[here] += values[there] * share
            total[there] += values[here] * share
            weight[here[1:]] += share
            weight[there[1:]] += share
        values = total / weight
    return values.reshape(len(seen_LA), -1)[:, pixel_A]


def _transparent_and_glowing(
    place: Place,
    triangles: Triangles,
    colour: np.ndarray,
    albedo_A3: np.ndarray,
    material_A: np.ndarray,
    face_A: np.ndarray,
    ray_A3: np.ndarray,
) -> np.ndarray:
    """Window panes show the sky behind them, other glass a little of it; lamps at the ceiling glow."""
    thing_A = triangles.thing_F[face_A]
    roles = [thing.use.role for thing in place.things]
    glass = triangles.glass_M[material_A]
    pane = np.flatnonzero(glass & np.isin(thing_A, [k for k, role in enumerate(roles) if role in ("window", "door")]))
    other = np.flatnonzero(glass & ~np.isin(np.arange(len(glass)), pane))
    colour[pane] = 0.1 * colour[pane] + 1.5 * _sky(place, ray_A3[pane])
    colour[other] = 0.6 * colour[other] + 0.14
    glowing = np.flatnonzero(np.isin(thing_A, [k for k, role in enumerate(roles) if role == "ceiling"]))
    colour[glowing] += 0.8 * albedo_A3[glowing]
    return colour


def _sky(place: Place, ray_N3: np.ndarray) -> np.ndarray:
    """Light from outside: the sky above the horizon, haze and ground below it."""
    up = -ray_N3[:, 1] / np.sqrt(np.einsum("ij,ij->i", ray_N3, ray_N3))
    zenith, horizon = (np.array(colour, np.float32) for colour in place.sky)
    share = np.sqrt(np.clip(up, 0.0, 1.0))[:, None].astype(np.float32)
    ground = np.array([0.30, 0.36, 0.24], np.float32) * horizon
    below = np.clip(-6.0 * up, 0.0, 1.0)[:, None].astype(np.float32)
    return (horizon * (1 - share) + zenith * share) * (1 - below) + ground * below

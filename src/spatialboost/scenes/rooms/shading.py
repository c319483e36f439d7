"""Colours of an image: solid textures, lamps with shadows, and the effects of a camera."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spatialboost.scenes.rooms.raycast import (
    AXIS,
    FIRST,
    FREQUENCY,
    GLOSS,
    PHASE,
    SECOND,
    TEXTURE,
    TEXTURES,
    Batch,
    Vector,
    dot,
    find_shadows,
    first_hits,
    rows,
    surface_at,
    vector,
)
from spatialboost.scenes.rooms.room import Room

# Shape legend: B = rooms, N = rays, S = samples of lights, F = columns of a table, H, W = image size in pixels.


def render_rays(
    batch: Batch, origin_B3: Tensor, directions_B3N: Tensor, pixel_angle_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the ray parameter, the index of the primitive, and the colour for each ray.

    Args:
        batch: the rooms.
        origin_B3, directions_B3N: of the rays, as in `first_hits`.
        pixel_angle_B: 1 / focal length in pixels. A texture that is finer than a pixel fades to its mean.

    Returns:
        ``t_BN``, ``index_BN`` (rows in ``primitives_BMF``; 0-5 are the room's sides), ``colour_B3N`` in linear light.
    """
    ray = rows(directions_B3N)
    t_BN, index_BN = first_hits(batch, origin_B3, directions_B3N)
    found_BFN = torch.gather(
        batch.primitives_BMF.mT.contiguous(), 2, index_BN[:, None].expand(-1, batch.primitives_BMF.shape[2], -1)
    )
    points_B3N = origin_B3[:, :, None] + t_BN[:, None] * directions_B3N
    local, normal = surface_at(batch, index_BN, found_BFN, rows(points_B3N))
    length_BN = dot(ray, ray).sqrt()
    facing_BN = -dot(normal, ray) / length_BN
    footprint_BN = t_BN * pixel_angle_B[:, None] / facing_BN.clamp_min(0.15)
    albedo_B3N = _albedo(batch, found_BFN, local, footprint_BN)
    return t_BN, index_BN, _shade(batch, index_BN, found_BFN, albedo_B3N, points_B3N, normal, ray, length_BN)


def _albedo(batch: Batch, found_BFN: Tensor, local: Vector, footprint_BN: Tensor) -> Tensor:
    """Solid textures: the colour depends on the point in the primitive's own axes, so it continues around edges."""
    frequency, phase = rows(found_BFN[:, FREQUENCY]), rows(found_BFN[:, PHASE])
    u, v, w = (p * f + a for p, f, a in zip(local, frequency, phase, strict=True))
    ax, ay, az = rows(found_BFN[:, AXIS])
    kind = found_BFN[:, TEXTURE]
    band = local[0] * ax + local[1] * ay + local[2] * az + phase[0]
    stripe = ((band - band.floor()) < 0.5).float()
    cells = u.floor() + v.floor() + w.floor()
    checker = ((cells * 0.5 - (cells * 0.5).floor()) > 0.25).float()
    noise = torch.zeros_like(band)
    noisy = kind >= TEXTURES.index("speckled")  # noise is the slowest texture: compute it only where it is used
    noise[noisy] = _noise(batch.lattice, u[noisy], v[noisy], w[noisy])
    speckle = ((noise - 0.42) * 5.0).clamp(0.0, 1.0)
    ring = noise * 5.0
    grain = ((ring - ring.floor()) * 2.0 - 1.0).abs() * 0.8
    share = torch.where(kind == 1, checker, torch.where(kind == 2, stripe, torch.where(kind == 3, speckle, grain)))
    # A period of less than about two pixels would give aliasing: fade to the mean.
    fastest = torch.where(
        kind == 2, ax.abs() + ay.abs() + az.abs(), frequency[0].maximum(frequency[1]).maximum(frequency[2])
    )
    seen = (1.4 - fastest * footprint_BN * 1.6).clamp(0.0, 1.0)
    share = torch.where(kind == 0, 0.0, 0.4 + (share - 0.4) * seen)[:, None]
    return found_BFN[:, FIRST] * (1.0 - share) + found_BFN[:, SECOND] * share


def _noise(lattice: Tensor, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Value noise: random numbers on an integer lattice, interpolated in between."""
    iu, iv, iw = u.floor(), v.floor(), w.floor()
    fu, fv, fw = (f * f * (3.0 - 2.0 * f) for f in (u - iu, v - iv, w - iw))
    cell = (iu * 1.0 + iv * 57.0 + iw * 1013.0).to(torch.int32)

    def corner(offset: int) -> Tensor:
        return lattice[(cell + offset) & 4095]

    def along(offset: int) -> Tensor:
        return torch.lerp(corner(offset), corner(offset + 1), fu)

    return torch.lerp(torch.lerp(along(0), along(57), fv), torch.lerp(along(1013), along(1070), fv), fw)


def _shade(
    batch: Batch,
    index_BN: Tensor,
    found_BFN: Tensor,
    albedo_B3N: Tensor,
    points_B3N: Tensor,
    normal: Vector,
    ray: Vector,
    length_BN: Tensor,
) -> Tensor:
    """Lambert shading plus a small highlight, with shadows from every sample of every light."""
    # Ambient light is a little stronger from above (world y points down).
    sky_BN = batch.ambient_B[:, None] * (0.85 - 0.15 * normal[1])
    colour_B3N = albedo_B3N * sky_BN[:, None]
    gloss_BN = found_BFN[:, GLOSS]
    b, n = glossy = gloss_BN.nonzero(as_tuple=True)
    glossy_normal = vector(torch.stack(normal)[:, b, n])
    glossy_view = vector((torch.stack(ray) / length_BN)[:, b, n])
    dark_BSN = find_shadows(batch, points_B3N, index_BN)
    for sample in range(dark_BSN.shape[1]):
        light_B6 = batch.lights_BS6[:, sample]
        beam_B3N = points_B3N - light_B6[:, :3, None]
        beam = rows(beam_B3N)
        squared_BN = dot(beam, beam)
        distance_BN = squared_BN.sqrt()
        cosine_BN = -dot(beam, normal) / distance_BN
        lit_BN = (cosine_BN.clamp_min_(0.0) / (1.0 + squared_BN * 0.12)).masked_fill_(dark_BSN[:, sample], 0.0)
        reflected_B3N = albedo_B3N * lit_BN[:, None]
        if len(b):
            towards = vector((beam_B3N / distance_BN[:, None])[b, :, n].T)
            halfway = vector(torch.stack([-(t + v) for t, v in zip(towards, glossy_view, strict=True)]))
            shine = dot(halfway, glossy_normal) / dot(halfway, halfway).sqrt()
            shine = shine.clamp_min(0.0).square().square().square().square().square()  # ** 32
            sheen = gloss_BN[glossy] * shine
            reflected_B3N[b, :, n] = (albedo_B3N[b, :, n] + sheen[:, None]) * lit_BN[glossy][:, None]
        colour_B3N += light_B6[:, 3:6, None] * reflected_B3N
    return colour_B3N


@functools.cache
def _sensor_noise() -> np.ndarray:
    return np.random.default_rng(22057).standard_normal(1 << 20, dtype=np.float32)


def apply_camera_effects(light_B3HW: Tensor, rooms: Sequence[Room], numbers: Sequence[int]) -> Tensor:
    """Convert linear light to uint8, with the effects of a camera: tone curve, gamma 2, slight blur, sensor noise.

    Args:
        light_B3HW: from ``render_rays``.
        rooms: the room of each image.
        numbers: number of each image in its room, so that two images of one room have different noise.
    """
    shoulder = light_B3HW * (1.0 + 0.15 * light_B3HW) / (1.0 + 0.55 * light_B3HW)
    image = (shoulder * 1.25).clamp(0.0, 1.0).sqrt()
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = 0.14 * padded[:, :, :-2] + 0.72 * padded[:, :, 1:-1] + 0.14 * padded[:, :, 2:]
    image = 0.14 * rows[..., :-2] + 0.72 * rows[..., 1:-1] + 0.14 * rows[..., 2:]
    normal = _sensor_noise()
    count = image[0].numel()
    for b, (room, number) in enumerate(zip(rooms, numbers, strict=True)):
        offset = (room.seed * 7919 + number * 104729) % len(normal)
        fits = offset + count <= len(normal)
        noise = normal[offset : offset + count] if fits else normal.take(np.arange(offset, offset + count), mode="wrap")
        image[b] += room.noise * torch.from_numpy(noise).to(image.device).view_as(image[b])
    return (image.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)

"""Analytic ray casting of boxes, spheres and cylinders in a box-shaped room, batched in torch.

Every intersection is closed form, so the depth is exact up to float32. Only additions, products, divisions and square
roots are used per pixel: the picture of a room depends neither on its place in a batch nor on vectorised libm variants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Shape legend: B = rooms, P = primitives of one kind, M = primitives of all kinds with the 6 sides of the room first,
# N = rays, L = lights, F = columns of a table. Vectors are kept as separate x, y, z tensors: (B, P, N) stays in cache.

BOX, BALL, CYLINDER = 0, 1, 2
TEXTURES = ("plain", "checkered", "striped", "speckled", "wooden")

# Columns of the primitives' table, (B, M, F).
CENTRE, HALF, COS, SIN = slice(0, 3), slice(3, 6), 6, 7
FIRST, SECOND, AXIS, FREQUENCY, PHASE = slice(8, 11), slice(11, 14), slice(14, 17), slice(17, 20), slice(20, 23)
TEXTURE, GLOSS = 23, 24
COLUMNS = 25

SIDES = 6  # -x, +x, -y (ceiling), +y (floor), -z, +z
MISS = float("inf")
NUDGE = 1e-12  # keeps 1 / d finite where a ray is parallel to a plane; lost in rounding everywhere else

Vector = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """Tables of B rooms, padded to the same counts with primitives that no ray hits.

    Attributes:
        primitives_BMF: sides of the room first, then boxes, balls and cylinders, each kind padded on its own.
        counts: boxes, balls and cylinders in each room, after padding.
        lights_BL6: position and colour of each sample of each light.
        ambient_B: light that comes from everywhere.
        lattice: (4096,) random numbers in [0, 1] behind the noise textures.
    """

    primitives_BMF: Tensor
    counts: tuple[int, int, int]
    lights_BL6: Tensor
    ambient_B: Tensor
    lattice: Tensor


def cast(
    batch: Batch, origin_B3: Tensor, directions_B3N: Tensor, pixel_angle_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What rays see: parameter along the ray, index of the primitive, and colour.

    Args:
        origin_B3: one origin for all rays of a room.
        directions_B3N: not normalised; with camera-frame z = 1 the ray's parameter *is* the depth z.
        pixel_angle_B: 1 / focal length in pixels; finer textures than a pixel fade to their mean.

    Returns:
        ``t_BN``, ``index_BN`` into ``primitives_BMF`` (0-5 are the room's sides), ``colour_B3N`` in linear light.
    """
    origin = _columns(origin_B3)
    ray = _rows(directions_B3N)
    t_BN, index_BN = _nearest(batch, origin, ray)
    found_BFN = torch.gather(
        batch.primitives_BMF.mT.contiguous(), 2, index_BN[:, None].expand(-1, batch.primitives_BMF.shape[2], -1)
    )
    point = tuple(o + t_BN * d for o, d in zip(origin, ray, strict=True))
    local, normal = _surface(batch, index_BN, found_BFN, point)
    length_BN = (ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]).sqrt()
    facing_BN = -(normal[0] * ray[0] + normal[1] * ray[1] + normal[2] * ray[2]) / length_BN
    footprint_BN = t_BN * pixel_angle_B[:, None] / facing_BN.clamp_min(0.15)
    albedo_B3N = _albedo(batch, found_BFN, local, footprint_BN)
    colour_B3N = _shade(batch, found_BFN, albedo_B3N, point, normal, ray, length_BN)
    return t_BN, index_BN, colour_B3N


def _rows(x_B3N: Tensor) -> Vector:
    return x_B3N[:, 0], x_B3N[:, 1], x_B3N[:, 2]


def _columns(x_B3: Tensor) -> Vector:
    return x_B3[:, 0:1], x_B3[:, 1:2], x_B3[:, 2:3]


def _kind(batch: Batch, kind: int) -> Tensor:
    """Rows of one kind with a ray axis to broadcast over: (B, P, F, 1)."""
    start = SIDES + sum(batch.counts[:kind])
    return batch.primitives_BMF[:, start : start + batch.counts[kind], :, None]


def _slab(half: Tensor, origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Where a ray enters and leaves |x| <= half."""
    inverse = 1.0 / (ray + NUDGE)
    middle = -origin * inverse
    reach = half * inverse.abs()
    return middle - reach, middle + reach


def _disc(radius: Tensor, along: Tensor, gap_squared: Tensor, length_squared: Tensor) -> tuple[Tensor, Tensor]:
    """Where a ray enters and leaves a ball (or circle), from its closest approach: stable far away from small balls."""
    inside = radius * radius - gap_squared
    reach = (inside.clamp_min(0.0) / length_squared).sqrt()
    return torch.where(inside > 0, along - reach, MISS), along + reach


def _entries(batch: Batch, origin: Vector, ray: Vector) -> list[Tensor]:
    """Ray parameters where rays enter the convex primitives, inf where they miss: (B, P, N) for each kind."""
    ox, oy, oz = (o[:, None] for o in origin)
    dx, dy, dz = (d[:, None] for d in ray)
    entries = []
    if batch.counts[BOX]:
        table = _kind(batch, BOX)
        centre, half, cos, sin = table[:, :, CENTRE], table[:, :, HALF], table[:, :, COS], table[:, :, SIN]
        x, z = ox - centre[:, :, 0], oz - centre[:, :, 2]
        in_x, out_x = _slab(half[:, :, 0], cos * x - sin * z, cos * dx - sin * dz)
        in_y, out_y = _slab(half[:, :, 1], oy - centre[:, :, 1], dy)
        in_z, out_z = _slab(half[:, :, 2], sin * x + cos * z, sin * dx + cos * dz)
        entries.append(_enter(in_x.maximum(in_y).maximum(in_z), out_x.minimum(out_y).minimum(out_z)))
    if batch.counts[BALL]:
        table = _kind(batch, BALL)
        centre, radius = table[:, :, CENTRE], table[:, :, HALF][:, :, 0]
        x, y, z = ox - centre[:, :, 0], oy - centre[:, :, 1], oz - centre[:, :, 2]
        length = dx * dx + dy * dy + dz * dz
        along = -(x * dx + y * dy + z * dz) / length
        gap = (x + along * dx).square_() + (y + along * dy).square_() + (z + along * dz).square_()
        entries.append(_enter(*_disc(radius, along, gap, length)))
    if batch.counts[CYLINDER]:
        table = _kind(batch, CYLINDER)
        centre, half = table[:, :, CENTRE], table[:, :, HALF]
        x, z = ox - centre[:, :, 0], oz - centre[:, :, 2]
        length = dx * dx + dz * dz + NUDGE
        along = -(x * dx + z * dz) / length
        gap = (x + along * dx).square_() + (z + along * dz).square_()
        in_r, out_r = _disc(half[:, :, 0], along, gap, length)
        in_y, out_y = _slab(half[:, :, 1], oy - centre[:, :, 1], dy)
        entries.append(_enter(in_r.maximum(in_y), out_r.minimum(out_y)))
    return entries


def _enter(near: Tensor, far: Tensor) -> Tensor:
    return torch.where((near < far) & (near > 0), near, MISS)


def _nearest(batch: Batch, origin: Vector, ray: Vector) -> tuple[Tensor, Tensor]:
    sides = batch.primitives_BMF[:, 0, HALF]
    middle = batch.primitives_BMF[:, 0, CENTRE]
    # The viewer is inside the room: the first side that a ray leaves by is the one it shows.
    exits = []
    for axis in range(3):
        d = ray[axis] + NUDGE
        wall = torch.where(d > 0, sides[:, axis : axis + 1], -sides[:, axis : axis + 1]) + middle[:, axis : axis + 1]
        exits.append((wall - origin[axis]) / d)
    t_BN, axis_BN = torch.stack(exits, 1).min(1)
    direction_BN = torch.stack(ray, 1).gather(1, axis_BN[:, None])[:, 0]
    index_BN = axis_BN * 2 + (direction_BN + NUDGE > 0)
    entries = _entries(batch, origin, ray)
    if entries:
        first_BN, which_BN = torch.cat(entries, 1).min(1)
        nearer_BN = first_BN < t_BN
        t_BN = torch.where(nearer_BN, first_BN, t_BN)
        index_BN = torch.where(nearer_BN, which_BN + SIDES, index_BN)
    return t_BN, index_BN


def _surface(batch: Batch, index_BN: Tensor, found_BFN: Tensor, point: tuple[Tensor, ...]) -> tuple[Vector, Vector]:
    """Coordinates in the primitive's own axes, and the normal in the world's."""
    x, y, z = (p - c for p, c in zip(point, _rows(found_BFN[:, CENTRE]), strict=True))
    cos, sin = found_BFN[:, COS], found_BFN[:, SIN]
    x, z = cos * x - sin * z, sin * x + cos * z
    hx, hy, hz = _rows(found_BFN[:, HALF])
    ax, ay, az = (x / hx).abs(), (y / hy).abs(), (z / hz).abs()
    boxes, balls, _ = batch.counts
    inside = index_BN < SIDES
    round_ = index_BN >= SIDES + boxes + balls
    ball = (index_BN >= SIDES + boxes) & ~round_
    # Box: the axis on which the point is farthest out. The room's sides look inwards.
    flat_y = ay >= ax.maximum(az)
    flat_x = ~flat_y & (ax >= az)
    nx = torch.where(flat_x, x.sign(), 0.0)
    ny = torch.where(flat_y, y.sign(), 0.0)
    nz = torch.where(flat_x | flat_y, 0.0, z.sign())
    nx, ny, nz = (torch.where(inside, -n, n) for n in (nx, ny, nz))
    cap = (ay * ay) >= (ax * ax + az * az)
    nx = torch.where(ball, x / hx, torch.where(round_, torch.where(cap, 0.0, x / hx), nx))
    ny = torch.where(ball, y / hx, torch.where(round_, torch.where(cap, y.sign(), 0.0), ny))
    nz = torch.where(ball, z / hx, torch.where(round_, torch.where(cap, 0.0, z / hx), nz))
    return (x, y, z), (cos * nx + sin * nz, ny, cos * nz - sin * nx)


def _albedo(batch: Batch, found_BFN: Tensor, local: Vector, footprint_BN: Tensor) -> Tensor:
    """Solid textures: a function of the point in the primitive's own axes, so that they wrap around edges."""
    frequency, phase = _rows(found_BFN[:, FREQUENCY]), _rows(found_BFN[:, PHASE])
    u, v, w = (p * f + a for p, f, a in zip(local, frequency, phase, strict=True))
    ax, ay, az = _rows(found_BFN[:, AXIS])
    kind = found_BFN[:, TEXTURE]
    band = local[0] * ax + local[1] * ay + local[2] * az + phase[0]
    stripe = ((band - band.floor()) < 0.5).float()
    cells = u.floor() + v.floor() + w.floor()
    checker = ((cells * 0.5 - (cells * 0.5).floor()) > 0.25).float()
    noise = _noise(batch.lattice, u, v, w)
    speckle = ((noise - 0.42) * 5.0).clamp(0.0, 1.0)
    ring = noise * 5.0
    grain = ((ring - ring.floor()) * 2.0 - 1.0).abs() * 0.8
    share = torch.where(kind == 1, checker, torch.where(kind == 2, stripe, torch.where(kind == 3, speckle, grain)))
    # A period of less than about two pixels cannot be seen: fade to the mean instead of aliasing.
    fastest = torch.where(
        kind == 2, ax.abs() + ay.abs() + az.abs(), frequency[0].maximum(frequency[1]).maximum(frequency[2])
    )
    seen = (1.4 - fastest * footprint_BN * 1.6).clamp(0.0, 1.0)
    share = torch.where(kind == 0, 0.0, 0.4 + (share - 0.4) * seen)[:, None]
    return found_BFN[:, FIRST] * (1.0 - share) + found_BFN[:, SECOND] * share


def _noise(lattice: Tensor, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Value noise: random numbers on an integer lattice, blended in between."""
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
    found_BFN: Tensor,
    albedo_B3N: Tensor,
    point: tuple[Tensor, ...],
    normal: Vector,
    ray: Vector,
    length_BN: Tensor,
) -> Tensor:
    """Lambert plus a small highlight, with shadows from every sample of every light."""
    # Light from everywhere is a little stronger from above (world y points down).
    sky_BN = batch.ambient_B[:, None] * (0.85 - 0.15 * normal[1])
    colour_B3N = albedo_B3N * sky_BN[:, None]
    gloss = found_BFN[:, GLOSS]
    for sample in range(batch.lights_BL6.shape[1]):
        light = batch.lights_BL6[:, sample]
        lamp = _columns(light[:, :3])
        # From the lamp to the point: one origin for all rays, as for the camera.
        beam = tuple(p - o for p, o in zip(point, lamp, strict=True))
        squared = beam[0] * beam[0] + beam[1] * beam[1] + beam[2] * beam[2]
        distance = squared.sqrt()
        cosine = -(beam[0] * normal[0] + beam[1] * normal[1] + beam[2] * normal[2]) / distance
        lit = cosine.clamp_min(0.0) / (1.0 + squared * 0.12)
        for entry in _entries(batch, lamp, (beam[0], beam[1], beam[2])):
            lit = torch.where((entry < 0.999).any(1), 0.0, lit)
        halfway = tuple(-(b / distance + d / length_BN) for b, d in zip(beam, ray, strict=True))
        norm = (halfway[0] * halfway[0] + halfway[1] * halfway[1] + halfway[2] * halfway[2]).sqrt()
        shine = (halfway[0] * normal[0] + halfway[1] * normal[1] + halfway[2] * normal[2]) / norm
        shine = shine.clamp_min(0.0).square().square().square().square().square()  # ** 32
        colour_B3N = colour_B3N + light[:, 3:6, None] * ((albedo_B3N + (gloss * shine)[:, None]) * lit[:, None])
    return colour_B3N

"""Analytic ray casting of boxes, spheres and cylinders in a box-shaped room, batched in torch.

Every intersection has a closed formula, so the depth is exact up to float32. The formulas use only additions, products,
divisions and square roots. Every CPU rounds these in the same way, so the image of a room does not depend on its
position in a batch or on the vector instructions of the CPU.
Most rays miss most primitives. So a fast test against the bounding ball of each primitive comes first. It never rejects
a hit, and it leaves few pairs of a ray and a primitive for the exact test.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Shape legend: B = rooms, P = primitives of one kind, M = primitives of all kinds, the 6 sides of the room first,
# N = rays, S = samples of lights, F = columns of a table, K = pairs of a ray and a primitive that it may hit.
# Vectors are kept as separate x, y, z tensors.

BOX, BALL, CYLINDER = 0, 1, 2
TEXTURES = ("plain", "checkered", "striped", "speckled", "wooden")

# Columns of the primitives' table, (B, M, F).
CENTRE, HALF, COS, SIN = slice(0, 3), slice(3, 6), 6, 7
FIRST, SECOND, AXIS, FREQUENCY, PHASE = slice(8, 11), slice(11, 14), slice(14, 17), slice(17, 20), slice(20, 23)
TEXTURE, GLOSS = 23, 24
COLUMNS = 25

SIDES = 6  # -x, +x, -y (ceiling), +y (floor), -z, +z
MISS = float("inf")
EPSILON = 1e-12  # keeps 1 / d finite where a ray is parallel to a plane; in all other places rounding removes it

Vector = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Batch:
    """Tables of B rooms. Padding gives all rooms the same number of primitives; no ray hits the added ones."""

    # table of the sides of the room, then boxes, balls and cylinders; each kind is padded separately
    primitives_BMF: Tensor
    counts: tuple[int, int, int]  # number of boxes, balls and cylinders in each room, after padding
    lights_BS6: Tensor  # position and colour of each sample of each light
    ambient_B: Tensor  # strength of the ambient light
    lattice: Tensor  # (4096,) random numbers in [0, 1] for the noise textures


def first_hits(batch: Batch, origin_B3: Tensor, directions_B3N: Tensor) -> tuple[Tensor, Tensor]:
    """Find the first hit of each ray.

    Args:
        batch: the rooms.
        origin_B3: one origin for all rays of a room, inside the room and outside of its things.
        directions_B3N: directions of the rays, not normalised. With z = 1 in the camera's frame, the ray parameter is
            the depth z.

    Returns:
        ``t_BN``, the ray parameter, and ``index_BN``, the row in ``primitives_BMF`` (0-5 are the room's sides).
    """
    t_BN, index_BN = _sides(batch, origin_B3, directions_B3N)
    num = sum(batch.counts)
    if num == 0:
        return t_BN, index_BN
    entries_BPN = torch.full((*t_BN.shape[:1], num, t_BN.shape[1]), MISS, device=t_BN.device)
    near_BPN = _may_hit(batch, origin_B3, directions_B3N)
    for kind in (BOX, BALL, CYLINDER):
        b, p, n = near_BPN[:, _places(batch, kind)].nonzero().unbind(1)
        p = p + _places(batch, kind).start
        enter, hit = _intersect(batch, kind, b, p, vector(origin_B3.T[:, b]), vector(_pick(directions_B3N, b, n)))
        entries_BPN[b, p, n] = torch.where(hit, enter, MISS)
    first_BN, which_BN = entries_BPN.min(1)
    nearer_BN = first_BN < t_BN
    return torch.where(nearer_BN, first_BN, t_BN), torch.where(nearer_BN, which_BN + SIDES, index_BN)


def find_shadows(batch: Batch, points_B3N: Tensor, index_BN: Tensor) -> Tensor:
    """Find the points that are in the shadow of each light sample: bool ``(B, S, N)``.

    A convex thing cannot hide a lamp from its own points that face the lamp. So the primitive of a point itself is not
    tested. A point that faces away from the lamp is dark because of its normal.
    """
    lamps_BS3 = batch.lights_BS6[:, :, :3]
    dark_BSN = torch.zeros((*lamps_BS3.shape[:2], index_BN.shape[1]), dtype=torch.bool, device=index_BN.device)
    num = sum(batch.counts)
    if num == 0:
        return dark_BSN
    other_BPN = torch.arange(SIDES, SIDES + num, device=index_BN.device)[:, None] != index_BN[:, None]
    near_SBPN = [
        _may_hit(batch, lamp_B3, points_B3N - lamp_B3[:, :, None]) & other_BPN for lamp_B3 in lamps_BS3.unbind(1)
    ]
    for kind in (BOX, BALL, CYLINDER):
        # All samples at once: there are few pairs, so the time depends on the number of operations, not on their size.
        pairs = [near_BPN[:, _places(batch, kind)].nonzero() for near_BPN in near_SBPN]
        b, p, n = torch.cat(pairs).unbind(1)
        counts = torch.tensor([len(pair) for pair in pairs], device=b.device)
        s = torch.arange(len(pairs), device=b.device).repeat_interleave(counts, output_size=len(b))
        lamp = vector(lamps_BS3.reshape(-1, 3).T[:, b * len(pairs) + s])
        # Rays go from the lamp to the points, so that all have one origin, as for the camera.
        beam = subtract(vector(_pick(points_B3N, b, n)), lamp)
        enter, hit = _intersect(batch, kind, b, p + _places(batch, kind).start, lamp, beam)
        hit &= enter < 0.999
        dark_BSN[b[hit], s[hit], n[hit]] = True
    return dark_BSN


def _pick(x_B3N: Tensor, b: Tensor, n: Tensor) -> Tensor:
    """``x[b, :, n]`` as ``(3, K)``. It uses one index tensor, which is much faster than two."""
    return x_B3N.movedim(1, 0).reshape(3, -1).index_select(1, b * x_B3N.shape[2] + n)


def vector(x: Tensor) -> Vector:
    """The three rows of ``(3, ...)``."""
    return x[0], x[1], x[2]


def rows(x_B3N: Tensor) -> Vector:
    """The three rows of ``(B, 3, N)``."""
    return x_B3N[:, 0], x_B3N[:, 1], x_B3N[:, 2]


def dot(a: Vector, b: Vector) -> Tensor:
    """Scalar products, always summed in the same order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def subtract(a: Vector, b: Vector) -> Vector:
    """The difference of two vectors."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _places(batch: Batch, kind: int) -> slice:
    """Rows of the primitives of a kind, counted without the sides."""
    start = sum(batch.counts[:kind])
    return slice(start, start + batch.counts[kind])


def _may_hit(batch: Batch, origin_B3: Tensor, directions_B3N: Tensor) -> Tensor:
    """Rays that hit the bounding balls of primitives: bool ``(B, P, N)``. Every true hit is included."""
    things_BPF = batch.primitives_BMF[:, SIDES:]
    away_BP3 = things_BPF[:, :, CENTRE] - origin_B3[:, None]
    radius_BP = things_BPF[:, :, HALF].norm(dim=-1) * 1.01 + 0.002  # larger than any rounding error
    outside_BP = away_BP3.square().sum(-1) - radius_BP.square()
    along_BPN = torch.bmm(away_BP3, directions_B3N).clamp_(min=0.0).square_()
    return along_BPN >= outside_BP[:, :, None] * directions_B3N.square().sum(1, keepdim=True)


def _slab(half: Tensor, origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameters where a ray enters and leaves the slab |x| <= half."""
    inverse = 1.0 / (ray + EPSILON)
    middle = -origin * inverse
    reach = half * inverse.abs()
    return middle - reach, middle + reach


def _disc(radius: Tensor, along: Tensor, gap_squared: Tensor, length_squared: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameters where a ray enters and leaves a ball or circle. Accurate also for small, distant balls."""
    inside = radius * radius - gap_squared
    reach = (inside.clamp_min(0.0) / length_squared).sqrt()
    return torch.where(inside > 0, along - reach, MISS), along + reach


def _intersect(
    batch: Batch, kind: int, room_K: Tensor, place_K: Tensor, origin: Vector, ray: Vector
) -> tuple[Tensor, Tensor]:
    """Ray parameters where rays enter primitives, and whether they do so in front of their origin."""
    table = batch.primitives_BMF[..., : FIRST.start].flatten(0, 1)
    found_FK = table.T.index_select(1, room_K * batch.primitives_BMF.shape[1] + SIDES + place_K)
    centre, (half_x, half_y, half_z) = vector(found_FK[CENTRE]), vector(found_FK[HALF])
    x, y, z = subtract(origin, centre)
    dx, dy, dz = ray
    if kind == BOX:
        cos, sin = found_FK[COS], found_FK[SIN]
        in_x, out_x = _slab(half_x, cos * x - sin * z, cos * dx - sin * dz)
        in_y, out_y = _slab(half_y, y, dy)
        in_z, out_z = _slab(half_z, sin * x + cos * z, sin * dx + cos * dz)
        enter, leave = in_x.maximum(in_y).maximum(in_z), out_x.minimum(out_y).minimum(out_z)
    elif kind == BALL:
        length = dx * dx + dy * dy + dz * dz
        along = -(x * dx + y * dy + z * dz) / length
        gap = (x + along * dx).square() + (y + along * dy).square() + (z + along * dz).square()
        enter, leave = _disc(half_x, along, gap, length)
    else:
        length = dx * dx + dz * dz + EPSILON
        along = -(x * dx + z * dz) / length
        in_r, out_r = _disc(half_x, along, (x + along * dx).square() + (z + along * dz).square(), length)
        in_y, out_y = _slab(half_y, y, dy)
        enter, leave = in_r.maximum(in_y), out_r.minimum(out_y)
    return enter, (enter < leave) & (enter > 0)


def _sides(batch: Batch, origin_B3: Tensor, directions_B3N: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays hit the room's sides. The origin is inside, so it is the nearest plane in the direction of the ray."""
    half_B31, middle_B31 = batch.primitives_BMF[:, 0, HALF, None], batch.primitives_BMF[:, 0, CENTRE, None]
    ray_B3N = directions_B3N + EPSILON
    wall_B3N = torch.where(ray_B3N > 0, half_B31, -half_B31) + middle_B31
    t_BN, axis_BN = ((wall_B3N - origin_B3[:, :, None]) / ray_B3N).min(1)
    forward_BN = ray_B3N.gather(1, axis_BN[:, None])[:, 0] > 0
    return t_BN, axis_BN * 2 + forward_BN


def surface_at(batch: Batch, index_BN: Tensor, found_BFN: Tensor, point: Vector) -> tuple[Vector, Vector]:
    """Coordinates of the point in the primitive's own axes, and the normal in world axes."""
    x, y, z = (p - c for p, c in zip(point, rows(found_BFN[:, CENTRE]), strict=True))
    cos, sin = found_BFN[:, COS], found_BFN[:, SIN]
    x, z = cos * x - sin * z, sin * x + cos * z
    hx, hy, hz = rows(found_BFN[:, HALF])
    ax, ay, az = (x / hx).abs(), (y / hy).abs(), (z / hz).abs()
    boxes, balls, _ = batch.counts
    inside = index_BN < SIDES
    round_ = index_BN >= SIDES + boxes + balls
    ball = (index_BN >= SIDES + boxes) & ~round_
    # Box: the normal is along the axis on which the point is farthest out. The room's sides have inward normals.
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

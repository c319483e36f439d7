from __future__ import annotations

import numpy as np
import pytest
import torch

from spatialboost.scenes.rooms.raycast import SIDES, Batch, find_shadows, first_hits
from spatialboost.scenes.rooms.render import _order, _rows_of, _tables, sample_room

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
SEEDS = range(12)


def inside(thing, points, grow: float = 1.0):
    """Whether points ``(..., 3)`` are inside a thing that is enlarged by a factor, in float64."""
    local = points - np.array(thing.centre)
    cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
    x, y, z = cos * local[..., 0] - sin * local[..., 2], local[..., 1], sin * local[..., 0] + cos * local[..., 2]
    hx, hy, hz = np.array(thing.half) * grow
    if thing.shape == "sphere":
        return x * x + y * y + z * z < hx * hx
    if thing.shape == "cylinder":
        return (x * x + z * z < hx * hx) & (np.abs(y) < hy)
    return (np.abs(x) < hx) & (np.abs(y) < hy) & (np.abs(z) < hz)


def cast(seed: int, device: str = "cpu", num: int = 400):
    """A room, its batch, random rays from its camera, and their hits."""
    room = sample_room(seed)
    order = _order(room)
    batch: Batch = _tables([room], [order], torch.device(device))
    rng = np.random.default_rng(seed)
    rays = room.pose_44[:3, :3] @ np.stack([rng.uniform(-0.8, 0.8, num), rng.uniform(-0.8, 0.8, num), np.ones(num)])
    origin = room.pose_44[:3, 3]
    t, index = first_hits(
        batch,
        torch.tensor(origin[None], dtype=torch.float32, device=device),
        torch.tensor(rays[None], dtype=torch.float32, device=device),
    )
    things = {row: room.things[i] for i, row in enumerate(_rows_of(order, batch.counts))}
    points = origin + t[0].double().cpu().numpy()[:, None] * rays.T
    return room, batch, things, origin, points, index


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", SEEDS)
def test_rays_end_on_the_surface_they_name(seed, device):
    room, _, things, _, points, index = cast(seed, device)
    half = np.array(room.size) / 2
    for point, row in zip(points, index[0].tolist(), strict=True):
        if row < SIDES:
            axis, sign = row // 2, 1 if row % 2 else -1
            centred = point + np.array([0, half[1], 0])
            assert abs(centred[axis] - sign * half[axis]) < 1e-4
        else:
            assert inside(things[row], point, 1.0005)
            assert not inside(things[row], point, 0.9995)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_lies_before_what_a_ray_hits(seed):
    room, _, things, origin, points, _ = cast(seed)
    on_the_way = origin + np.linspace(0.01, 0.998, 200)[:, None, None] * (points - origin)
    for thing in things.values():
        assert not inside(thing, on_the_way, 0.998).any()
    half = np.array(room.size) / 2
    assert (np.abs(on_the_way + np.array([0, half[1], 0])) < half + 1e-4).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_shadows_are_where_a_thing_hides_the_lamp(seed):
    _, batch, things, _, points, index = cast(seed, num=200)
    dark = find_shadows(batch, torch.tensor(points.T[None], dtype=torch.float32), index)[0].numpy()
    assert dark.shape == (batch.lights_BS6.shape[1], 200)
    rows = index[0].numpy()
    for lamp, dark_N in zip(batch.lights_BS6[0, :, :3].double().numpy(), dark, strict=True):
        way = lamp + np.linspace(0.001, 0.995, 400)[:, None, None] * (points - lamp)
        surely, maybe = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        for row, thing in things.items():
            surely |= inside(thing, way, 0.99).any(0) & (rows != row)
            maybe |= inside(thing, way, 1.02).any(0) & (rows != row)
        assert dark_N[surely].all()
        assert not dark_N[~maybe].any()


def test_an_empty_room_has_walls_and_no_shadows():
    _, batch, _, _, _, _ = cast(0)
    bare = Batch(batch.primitives_BMF[:, :SIDES], (0, 0, 0), batch.lights_BS6, batch.ambient_B, batch.lattice)
    origin, ray = torch.tensor([[0.0, -1.0, 0.0]]), torch.tensor([[[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]])
    t, index = first_hits(bare, origin, ray)  # each ray is parallel to four sides
    half = batch.primitives_BMF[0, 0, 3:6]
    assert index.tolist() == [[5, 1]]
    torch.testing.assert_close(t[0], torch.stack([half[2], half[0]]))
    assert not find_shadows(bare, ray, index).any()

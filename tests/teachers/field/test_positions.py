"""PRoPE and the grid positions: against a plain computation, and the invariances of the paper's minimal tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spatialboost.teachers.field.positions import CameraPositions, GridPositions, grid_places, rotate

HEADS, WIDTH, GRID = 2, 16, (2, 3)


def random_poses(*shape: int) -> Tensor:
    """Rigid world-to-camera matrices, float64."""
    turn, _ = torch.linalg.qr(torch.randn(*shape, 3, 3, dtype=torch.float64))
    turn = turn * torch.where(torch.linalg.det(turn) < 0, -1.0, 1.0)[..., None, None]
    poses = torch.eye(4, dtype=torch.float64).repeat(*shape, 1, 1)
    poses[..., :3, :3], poses[..., :3, 3] = turn, torch.randn(*shape, 3, dtype=torch.float64)
    return poses


def attend(qkv: tuple[Tensor, Tensor, Tensor], projections: Tensor, front: int = 0) -> Tensor:
    positions = CameraPositions(projections, GRID, front=front)
    q, k, v = qkv
    out = nn.functional.scaled_dot_product_attention(positions.queries(q), positions.keys(k), positions.values(v))
    return positions.outputs(out)


def tokens(count: int) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(1, HEADS, count, WIDTH) for _ in range(3))  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_prope_is_invariant_to_the_world_until_tokens_without_a_camera_join():
    """Minimal test 3. Right-multiplying all world-to-camera matrices is another choice of the world's frame."""
    projections, other = random_poses(1, 2), random_poses(1)
    patches = GRID[0] * GRID[1] * 2
    alone = tokens(patches)
    torch.testing.assert_close(attend(alone, projections), attend(alone, projections @ other), atol=2e-4, rtol=1e-3)
    joined = tokens(patches + 3)
    moved = attend(joined, projections @ other, front=3) - attend(joined, projections, front=3)
    assert moved.abs().max() > 0.1


def test_with_the_identity_the_first_half_is_plain_attention():
    """The logits of the first half of the channels are plain products, and its outputs are plain sums."""
    q, k, v = tokens(12)
    positions = CameraPositions(torch.eye(4).expand(1, 2, 4, 4), GRID)
    half = WIDTH // 2
    plain = q[..., :half] @ k[..., :half].mT
    ours = positions.queries(q)[..., :half] @ positions.keys(k)[..., :half].mT
    torch.testing.assert_close(ours, plain)
    assert torch.equal(positions.outputs(positions.values(v))[..., :half], v[..., :half])
    assert not torch.allclose(positions.queries(q)[..., half:], q[..., half:])


def test_prope_is_what_whole_matrices_say():
    """Each token's matrix, written out: blocks of P, and turns by x and by y."""
    projections = random_poses(1, 2) @ torch.diag(torch.tensor([0.8, 1.1, 1.0, 1.0], dtype=torch.float64))
    places = grid_places(GRID).double()
    matrices = []
    for view in range(2):
        for y, x in places:
            turns = [
                torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])
                for place in (x, y)
                for a in (place * 100.0 ** (-torch.arange(2, dtype=torch.float64) / 2))
            ]
            order = [0, 2, 1, 3]  # channel i and channel i + C/2 are turned together
            blocks = torch.block_diag(*turns)
            swap = torch.eye(4, dtype=torch.float64)[order]
            swap = torch.block_diag(swap, swap)
            matrices.append(torch.block_diag(projections[0, view], projections[0, view], swap.T @ blocks @ swap))
    whole = torch.stack(matrices)
    q, k, v = (each.double() for each in tokens(12))
    positions = CameraPositions(projections, GRID)
    turned = whole.clone()
    turned[:, :8, :8] = torch.linalg.inv(whole[:, :8, :8]).mT  # queries have P transposed, and turns as they are
    expected_q = torch.einsum("nij,bhnj->bhni", torch.linalg.inv(turned), q)
    expected_q[..., 8:] = torch.einsum("nij,bhnj->bhni", whole, q)[..., 8:]
    torch.testing.assert_close(positions.queries(q)[..., 8:], expected_q[..., 8:], atol=1e-5, rtol=1e-5)
    logits = positions.queries(q) @ positions.keys(k).mT
    for m in (0, 5, 11):
        for n in (1, 6):
            relative = whole[m, :8, :8] @ torch.linalg.inv(whole[n, :8, :8])
            turn = whole[m, 8:, 8:].T @ whole[n, 8:, 8:]
            expected = q[0, 0, m, :8] @ relative @ k[0, 0, n, :8] + q[0, 0, m, 8:] @ turn @ k[0, 0, n, 8:]
            torch.testing.assert_close(logits[0, 0, m, n], expected, atol=1e-4, rtol=1e-4)
    there = positions.values(v)
    torch.testing.assert_close(positions.outputs(there), v, atol=1e-4, rtol=1e-4)


def test_grid_positions_depend_on_the_difference_of_places_only():
    q, k, _ = tokens(6)
    places = grid_places(GRID)
    here, there = GridPositions(places), GridPositions(places + torch.tensor([5.0, 2.0]))
    torch.testing.assert_close(
        here.queries(q) @ here.keys(k).mT, there.queries(q) @ there.keys(k).mT, atol=1e-4, rtol=1e-4
    )
    assert torch.equal(rotate(rotate(q, places[:, 0]), torch.zeros(6)), rotate(q, places[:, 0]))
    torch.testing.assert_close(rotate(rotate(q, places[:, 0]), places[:, 0], back=True), q)

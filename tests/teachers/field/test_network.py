"""The network: its size in the paper, and batches that are filled up."""

from __future__ import annotations

import pytest
import torch

from spatialboost.teachers.field.cameras import Cameras
from spatialboost.teachers.field.network import FieldNetwork


def count(module: torch.nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


def test_the_paper_s_field_has_the_paper_s_size():
    """Millions of parameters, part by part."""
    with torch.device("meta"):
        field = FieldNetwork(
            2048, {"geometric": 2048, "semantic": 1024}, width=768, depth=6, heads=12, latents=256, posed=True
        )
    assert count(field.encoder) == count(field.decoder) == 42.53
    assert (count(field.project), round(field.queries.numel() / 1e6, 2)) == (1.57, 0.20)
    assert (count(field.heads["geometric"]), count(field.heads["semantic"]), count(field.depth_probe)) == (
        8.66,
        5.51,
        2.37,
    )
    assert round(count(field), 1) == 103.4


@pytest.mark.parametrize("camera", ["prope", "pluecker"])
@pytest.mark.parametrize("posed", [False, True])
def test_views_that_fill_up_a_batch_change_nothing(camera, posed):
    torch.manual_seed(0)
    field = FieldNetwork(12, {"semantic": 8}, width=16, depth=2, heads=2, latents=3, camera=camera, posed=posed)
    poses = torch.eye(4).repeat(2, 3, 1, 1)
    poses[..., :3, 3] = torch.randn(2, 3, 3)
    cameras = Cameras(poses, torch.tensor([1.0, 1, 0, 0]).expand(2, 3, 4), (2, 2))
    context = torch.randn(2, 3, 4, 12)
    known = torch.tensor([[True, True, True], [True, False, False]])
    latents = field.encode(context, cameras, known)
    torch.testing.assert_close(latents[0], field.encode(context, cameras)[0], atol=1e-5, rtol=1e-4)
    alone = field.encode(context[1:, :1], cameras[1:, :1])
    torch.testing.assert_close(latents[1], alone[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(latents[1], field.encode(context, cameras)[1], atol=1e-3)

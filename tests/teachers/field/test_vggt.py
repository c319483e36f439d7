"""VGGT as the geometry: the mask on any blocks of torch's attention, and the true class where it is installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.field.vggt import VGGTGeometry, masked, open_vggt, read_pose_encoding

ALLOWED = torch.tensor([[True, True, False], [True, True, False], [True, True, True]])  # two context views, one target


@pytest.fixture
def blocks() -> SimpleNamespace:
    torch.manual_seed(0)
    return SimpleNamespace(global_blocks=nn.ModuleList(Block(16, 2, qk_norm=True) for _ in range(3)).eval())


def run(aggregator: SimpleNamespace, x: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    with torch.no_grad(), masked(aggregator, allowed):
        for block in aggregator.global_blocks:
            x = block(x)
    return x


def test_the_mask_hides_target_views_and_nothing_else(blocks):
    """What context views see is bit-equal when a target changes; target views see all."""
    x = torch.randn(1, 12, 16)
    other = x.clone()
    other[:, 8:] += 1
    ours, theirs = run(blocks, x, ALLOWED), run(blocks, other, ALLOWED)
    assert torch.equal(ours[:, :8], theirs[:, :8]) and not torch.equal(ours[:, 8:], theirs[:, 8:])
    context = x.clone()
    context[:, 0] += 1
    assert not torch.equal(run(blocks, context, ALLOWED)[:, 8:], ours[:, 8:])
    torch.testing.assert_close(ours[:, :8], run(blocks, x[:, :8], None), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run(blocks, x, torch.ones(3, 3, dtype=torch.bool)), run(blocks, x, None))


def test_blocks_that_do_not_take_the_mask_are_refused_and_left_as_they_were(blocks):
    blocks.global_blocks[1].attn.fused_attn = False
    with pytest.raises(SpatialBoostError, match="called torch's attention 0 times; expected one call"):
        run(blocks, torch.randn(1, 12, 16), ALLOWED)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in blocks.global_blocks)
    x = torch.randn(1, 2, 3, 4)
    assert torch.equal(
        nn.functional.scaled_dot_product_attention(x, x, x), nn.functional.scaled_dot_product_attention(x, x, x)
    )


def test_a_model_that_is_no_vggt_is_refused():
    with pytest.raises(SpatialBoostError, match="Linear has no aggregator; expected a VGGT"):
        VGGTGeometry(nn.Linear(2, 2), (28, 28))


def test_a_missing_package_or_file_is_told(tmp_path):
    try:
        import vggt.models.vggt  # noqa: F401
    except ImportError:
        with pytest.raises(SpatialBoostError, match=r"needs the package vggt .*: pip install git\+https"):
            open_vggt(str(tmp_path))
    else:
        with pytest.raises(SpatialBoostError, match=r"has no model.safetensors; expected a Hub id"):
            open_vggt(str(tmp_path))


# --- the true class


@pytest.fixture(scope="module")
def vggt():
    """VGGT with its 24 pairs of blocks, very narrow: the class takes no other depth."""
    aggregators = pytest.importorskip(
        "vggt.models.aggregator", reason="pip install git+https://github.com/facebookresearch/vggt"
    )
    from vggt.heads.camera_head import CameraHead
    from vggt.heads.dpt_head import DPTHead

    torch.manual_seed(0)
    narrow = nn.Module()
    narrow.aggregator = aggregators.Aggregator(
        img_size=28, embed_dim=16, num_heads=1, patch_embed="conv", init_values=1.0
    )
    narrow.camera_head = CameraHead(dim_in=32, trunk_depth=1, num_heads=1)
    narrow.depth_head = DPTHead(dim_in=32, output_dim=2, activation="exp", features=16, out_channels=[8, 8, 8, 8])
    return narrow.eval()


def batch(views: int = 3, contexts: int = 2) -> dict[str, torch.Tensor]:
    images = torch.randint(0, 256, (views, 3, 28, 42), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return {"geometry_images": images, "frames": torch.tensor([views]), "contexts": torch.tensor([contexts])}


def test_the_norms_are_those_of_vggt_and_an_unmasked_pass_is_its_own(vggt):
    """Minimal test 4."""
    block = vggt.aggregator.global_blocks[0]
    assert type(block.attn.q_norm) is nn.LayerNorm and block.attn.q_norm.bias is not None
    geometry = VGGTGeometry(vggt, (28, 42))
    images = batch()["geometry_images"].float() / 255
    with torch.no_grad():
        ours, first = geometry.aggregate(images)
        theirs, _ = vggt.aggregator(images[None])
    assert first == 5 and torch.equal(ours[-1], theirs[-1])


@pytest.mark.parametrize("aggregation", ["masked", "two passes"])
def test_a_target_image_does_not_change_context_features(vggt, aggregation):
    """Minimal test 1: bit-equal. What is rendered does change, and the first camera is the world."""
    geometry = VGGTGeometry(vggt, (28, 42), aggregation=aggregation)
    before = batch()
    after = {**before, "geometry_images": before["geometry_images"].clone()}
    after["geometry_images"][2] = 255 - after["geometry_images"][2]
    one, other = geometry(before), geometry(after)
    assert torch.equal(one.context[:2], other.context[:2])
    assert not torch.equal(one.features[2], other.features[2])
    assert one.features.shape == (3, 6, 32) and one.depths.shape == (3, 6) and (one.depths > 0).all()
    torch.testing.assert_close(one.cameras.poses[0], torch.eye(4), atol=1e-5, rtol=0)
    changed = {**before, "geometry_images": before["geometry_images"].clone()}
    changed["geometry_images"][1] = 0
    assert not torch.equal(geometry(changed).context[0], one.context[0])


def test_both_ways_agree_on_what_context_views_see(vggt):
    one, other = (VGGTGeometry(vggt, (28, 42), aggregation=each)(batch()) for each in ("masked", "two passes"))
    torch.testing.assert_close(one.context[:2], other.context[:2], atol=1e-4, rtol=1e-3)


def test_cameras_are_read_as_vggt_reads_them(vggt):
    reference = pytest.importorskip("vggt.utils.pose_enc").pose_encoding_to_extri_intri
    encoding = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    encoding[:, 7:] = encoding[:, 7:].abs().clamp(0.3, 2.0)
    poses, intrinsics = read_pose_encoding(encoding)
    extrinsics, matrices = reference(encoding[None], (30, 40))
    torch.testing.assert_close(poses[:, :3], extrinsics[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(intrinsics[:, 0] * 40, matrices[0, :, 0, 0], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(intrinsics[:, 1] * 30, matrices[0, :, 1, 1], atol=1e-3, rtol=1e-4)

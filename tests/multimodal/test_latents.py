from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from multimodal_frames import frame
from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal import EncoderLatents


@pytest.fixture
def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=0).eval()


def test_samples_with_other_numbers_and_sizes_of_frames(encoder):
    latents = EncoderLatents(encoder, image_size=32)
    samples = [[frame(40, 60, i) for i in range(num)] for num in (1, 4, 5, 300)]
    found = latents(samples)
    assert found.shape == (4, 256, 24) and latents.width == 24 and not found.requires_grad
    for sample, row in zip(samples[:3], found, strict=False):
        torch.testing.assert_close(latents([sample])[0], row)


def test_each_latent_is_the_mean_of_a_cell_of_one_frame(encoder):
    frames = [frame(32, 32, i) for i in range(4)]
    latents = EncoderLatents(encoder, image_size=32)
    found = latents([frames])[0].view(4, 64, 24)
    for i, one in enumerate(frames):  # 8 x 8 patches and 64 latents a frame: each is a token
        torch.testing.assert_close(found[i], latents([[one]])[0].view(16, 16, 24)[::2, ::2].reshape(64, 24))


def test_a_boosted_encoder_gives_its_own_latents(encoder):
    latents, sample = EncoderLatents(sb.boost(encoder), image_size=32), [frame(32, 32, 0)]
    before = latents([sample])
    with torch.no_grad():
        for name, parameter in sb.named_parameters(encoder):
            parameter.add_(0.1 if "gate" in name else 0.05 * torch.randn_like(parameter))
    after = latents([sample])
    assert not torch.equal(after, before)
    with sb.disabled(encoder):
        torch.testing.assert_close(latents([sample]), before)


def test_a_sample_without_frames(encoder):
    with pytest.raises(SpatialBoostError, match="a sample without frames has no scene latents"):
        EncoderLatents(encoder, image_size=32)([[np.zeros((4, 4, 3), np.uint8)], []])

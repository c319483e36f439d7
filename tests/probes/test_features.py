import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.features import each_encoder, read_features
from spatialboost.scenes.cues import Cues


def tiny_vit(**shape: object) -> VisionTransformer:
    torch.manual_seed(0)
    defaults = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**{**defaults, **shape})  # type: ignore[arg-type]


IMAGES = list(np.random.default_rng(0).integers(0, 255, (5, 40, 56, 3), np.uint8))


def test_earlier_layers_carry_no_norm() -> None:
    encoder = tiny_vit()
    first, last = (read_features(encoder, IMAGES, image_size=32, layer=layer) for layer in (0, 1))
    assert (first.layer, first.norm) == (0, "none")
    assert (last.layer, last.norm) == (1, "the encoder's final norm")
    torch.testing.assert_close(last.tokens_VND.mean(-1), torch.zeros(5, 16), atol=1e-5, rtol=0)
    assert first.tokens_VND.mean(-1).abs().max() > 1e-3
    assert last.about() == {
        "layer": 1, "norm": "the encoder's final norm", "resolution": [32, 32], "grid": [4, 4], "width": 48
    }  # fmt: skip


def test_batches_make_no_difference() -> None:
    encoder = tiny_vit()
    one, all_ = (read_features(encoder, IMAGES, image_size=32, batch_size=size) for size in (1, 16))
    torch.testing.assert_close(one.tokens_VND, all_.tokens_VND)
    assert one.cls_VD is not None and one.cls_VD.shape == (5, 48)


def test_eval_mode_while_reading_and_the_old_mode_after() -> None:
    encoder = tiny_vit().train()
    modes = []
    encoder.blocks[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    features = read_features(encoder, IMAGES[:1], image_size=32)
    assert modes == [False] and encoder.training and not features.tokens_VND.requires_grad


def test_half_precision_encoders_give_float32() -> None:
    assert read_features(tiny_vit().bfloat16(), IMAGES, image_size=32).tokens_VND.dtype == torch.float32


def test_no_images() -> None:
    with pytest.raises(SpatialBoostError, match="no images were given"):
        read_features(tiny_vit(), [], image_size=32)


def test_a_boosted_model_counts_twice_and_is_itself_again_afterwards() -> None:
    boosted = sb.boost(tiny_vit())
    with torch.no_grad():
        for _, parameter in sb.named_parameters(boosted):
            parameter.add_(0.3 * torch.randn_like(parameter))
    found = {}
    for name, model, switched in each_encoder(boosted, reserved="constant"):
        with switched():
            found[name] = read_features(model, IMAGES, image_size=32).tokens_VND
    assert torch.equal(found["base"], read_features(tiny_vit(), IMAGES, image_size=32).tokens_VND)
    assert torch.equal(found["boosted"], read_features(boosted, IMAGES, image_size=32).tokens_VND)
    assert not torch.allclose(found["base"], found["boosted"], atol=1e-3)


def test_a_model_that_is_not_boosted_needs_a_name() -> None:
    ((_, _, switched), _) = each_encoder(tiny_vit(), reserved="constant")
    with pytest.raises(SpatialBoostError, match="not boosted"), switched():
        pass
    with pytest.raises(SpatialBoostError, match="none with the name 'constant'"):
        each_encoder({"constant": tiny_vit()}, reserved="constant")


def test_several_layers_are_joined_along_their_width() -> None:
    encoder = tiny_vit()
    first, last, both = (read_features(encoder, IMAGES, image_size=32, layer=layer) for layer in (0, 1, (0, -1)))
    torch.testing.assert_close(both.tokens_VND, torch.cat([first.tokens_VND, last.tokens_VND], dim=-1))
    torch.testing.assert_close(both.cls_VD, torch.cat([first.cls_VD, last.cls_VD], dim=-1))
    assert (both.layer, both.norm) == ((0, 1), "the encoder's final norm on layer 1, none on the others")
    assert both.about()["layer"] == [0, 1] and both.about()["width"] == 96
    with pytest.raises(SpatialBoostError, match="no layer was given"):
        read_features(encoder, IMAGES, image_size=32, layer=())


def test_views_are_read_by_their_image() -> None:
    encoder = tiny_vit()
    views = [Cues(image, np.ones((40, 56), np.float32), np.eye(3), "view") for image in IMAGES]
    ours, theirs = (read_features(encoder, items, image_size=32) for items in (views, IMAGES))
    assert torch.equal(ours.tokens_VND, theirs.tokens_VND)


def test_class_tokens_do_not_keep_all_tokens_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class token is a view of all tokens of its batch, until it is copied."""
    held = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda parts, *rest, **more: held.extend(parts) or stack(parts, *rest, **more))
    read_features(tiny_vit(), IMAGES, image_size=32, batch_size=2)
    classes = [part for part in held if part.shape == (1, 48)]
    assert [part.untyped_storage().nbytes() for part in classes] == 4 * [2 * 48 * 4] + [48 * 4]


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """Tokens of 300 more images are 58 MiB; in a process of its own, since the peak of this one is long past."""
    code = """
import resource, torch
from timm.models.vision_transformer import VisionTransformer
from spatialboost.probes import read_features, token_store

token_store.MEMORY_LIMIT = 2**20
encoder = VisionTransformer(img_size=32, patch_size=2, embed_dim=192, depth=1, num_heads=2, num_classes=0)
image = torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()
peaks = []
for num in (60, 360):
    features = read_features(encoder, (image for _ in range(num)), image_size=32)
    assert sum(float(tokens[0, 0]) for tokens in features.tokens) < 10**9 and len(features) == num
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # KiB on Linux
print(peaks[1] - peaks[0])
"""
    pytest.importorskip("resource")
    # large blocks go back to the system when they are freed, so that only what is held counts (glibc)
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert float(done.stdout) < 20

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.features import Features, each_encoder, load_views, read_both, read_features
from spatialboost.scenes.cues import Cues, SceneObject


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
    with pytest.raises(SpatialBoostError, match="none called 'constant'"):
        each_encoder({"constant": tiny_vit()}, reserved="constant")


def test_ready_made_features_must_be_of_the_same_views() -> None:
    ready = Features(torch.zeros(3, 4, 8), None, (2, 2), (16, 16), 0, "none")
    _, model, switched = each_encoder({"ready": (ready, ready)}, reserved="constant")[0]
    assert read_both("ready", model, switched, [0] * 3, [0] * 3, progress=False) == (ready, ready)
    with pytest.raises(SpatialBoostError, match="of 3 and 3 views, but 3 and 2"):
        read_both("ready", model, switched, [0] * 3, [0] * 2, progress=False)


def test_views_are_named_when_they_cannot_be_read() -> None:
    class Frames:
        names = ("a", "b", "c")

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int, /) -> Cues:
            if index == 1:
                raise OSError("truncated file")
            image, depth = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32)
            return Cues(image, depth, np.eye(3), f"frame {index}", [SceneObject("box", depth > 0)])

    views, problems = load_views(Frames())
    assert [view.source for view in views] == ["frame 0", "frame 2"] and not views[0].objects
    assert problems == ["b: truncated file"]

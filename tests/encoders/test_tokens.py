"""Tokens of every kind of encoder: their places, their number and their layer."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import spatialboost as sb
from readable_encoders import CONFIG, PLAIN, READABLE, Readable
from spatialboost.boosting.find import tower
from spatialboost.encoders import (
    Tokens,
    check_grid,
    feature_dim,
    feature_layer,
    num_layers,
    patch_size,
    prepare_images,
    read_tokens,
)
from spatialboost.encoders import grid as grid_module
from spatialboost.errors import SpatialBoostError

PLAIN_ROWS = [name for name, row in READABLE.items() if not row.hierarchical]


@pytest.fixture(params=READABLE)
def row(request: pytest.FixtureRequest) -> Readable:
    return READABLE[request.param]


@pytest.fixture(params=PLAIN_ROWS)
def plain(request: pytest.FixtureRequest) -> Readable:
    return READABLE[request.param]


def test_sizes_are_read(row):
    encoder = row.make()
    assert (feature_dim(encoder), patch_size(encoder), num_layers(encoder)) == (row.width, row.patch, row.layers)


def test_patches_leave_out_class_register_and_detection_tokens(row):
    encoder = row.make()
    tokens = read_tokens(encoder, torch.randn(2, 3, *row.size))
    assert tokens.grid == row.grid and tokens.patches.shape == (2, row.grid[0] * row.grid[1], row.width)
    assert (tokens.cls is not None) == row.cls
    assert tokens.cls is None or tokens.cls.shape == (2, row.width)


def test_each_token_is_where_the_grid_says(row):
    encoder = row.make()
    check_grid(encoder, row.size)
    check_grid(encoder)  # at the size that it was built for


def test_images_of_a_batch_do_not_mix(row):
    encoder, images = row.make(), torch.randn(2, 3, *row.size)
    with torch.no_grad():
        both, second = read_tokens(encoder, images).patches, read_tokens(encoder, images[1:]).patches
    torch.testing.assert_close(both[1:], second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrong", ["shifted", "transposed", "flipped", "not the patches"])
def test_a_wrong_grid_is_refused(plain, wrong, monkeypatch):
    encoder = plain.make()

    def misread(encoder: nn.Module, images: torch.Tensor, *, layer: int) -> Tokens:
        tokens = read_tokens(encoder, images, layer=layer)
        maps = tokens.patches.unflatten(1, tokens.grid)
        if wrong == "shifted":  # as if a prefix token were counted as a patch
            maps = tokens.patches.roll(1, 1).unflatten(1, tokens.grid)
        elif wrong == "transposed":
            maps = maps.transpose(1, 2)
        elif wrong == "flipped":
            maps = maps.flip(2)
        else:
            maps = torch.ones_like(maps)
        return Tokens(maps.flatten(1, 2), tuple(maps.shape[1:3]), tokens.cls)

    monkeypatch.setattr(grid_module, "read_tokens", misread)
    with pytest.raises(SpatialBoostError, match="cannot be placed on a grid of"):
        check_grid(encoder, plain.size)


def test_the_grid_is_checked_once_for_a_size_and_leaves_the_mode(monkeypatch):
    encoder = READABLE["dinov2"].make().train()
    check_grid(encoder, 32)
    assert encoder.training
    monkeypatch.setattr(grid_module, "read_tokens", lambda *_, **__: pytest.fail("read again"))
    check_grid(encoder, 32)
    check_grid(VisionTransformer(**PLAIN).to("meta"), 32)


def test_tokens_that_are_not_finite_are_refused():
    encoder = READABLE["timm"].make()
    nn.init.constant_(encoder.patch_embed.proj.weight, float("nan"))
    with pytest.raises(SpatialBoostError, match="not finite: check that its weights are loaded"):
        check_grid(encoder, 32)


def test_tokens_that_are_not_as_many_as_the_grid_are_refused():
    transformers = pytest.importorskip("transformers")
    masked = transformers.ViTMAEModel(transformers.ViTMAEConfig(**CONFIG))
    with pytest.raises(SpatialBoostError, match=r"gave 5 tokens; expected 16 for a grid of 4x4 .*placed on a grid"):
        read_tokens(masked, torch.zeros(1, 3, 32, 32))


def test_layers_differ_and_negative_ones_count_from_the_end(plain):
    encoder, images = plain.make(), torch.randn(1, 3, *plain.size)
    last, before = read_tokens(encoder, images).patches, read_tokens(encoder, images, layer=-2).patches
    assert not torch.allclose(last, before)
    assert torch.equal(before, read_tokens(encoder, images, layer=plain.layers - 2).patches)
    assert torch.equal(last, read_tokens(encoder, images, layer=plain.layers - 1).patches)


def test_several_layers_are_those_one_by_one(plain):
    encoder, images = plain.make(), torch.randn(2, 3, *plain.size)
    asked = [-1, 0, -1, -2]
    with torch.no_grad():
        several = read_tokens(encoder, images, layer=asked)
        for layer, tokens in zip(asked, several, strict=True):
            alone = read_tokens(encoder, images, layer=layer)
            assert torch.equal(tokens.patches, alone.patches) and tokens.grid == alone.grid
            assert tokens.cls is None or torch.equal(tokens.cls, alone.cls)


def test_hierarchical_encoders_are_read_at_their_last_grid():
    for name, row in READABLE.items():
        if row.hierarchical:
            encoder = row.make()
            assert row.layers == max(tower(encoder)) + 1, name
            with pytest.raises(SpatialBoostError, match=r"layer 0 of .* several grids: only the last one \(-1"):
                read_tokens(encoder, torch.zeros(1, 3, *row.size), layer=0)
            (tokens,) = read_tokens(encoder, torch.zeros(1, 3, *row.size), layer=[row.layers - 1])
            assert tokens.grid == row.grid


def test_layers_are_counted_as_boost_counts_them(plain):
    encoder = plain.make()
    assert sorted(tower(encoder))[: plain.layers] == list(range(plain.layers))


def test_gradients_flow_and_only_through_the_blocks_below(plain):
    encoder = plain.make()
    read_tokens(encoder, torch.randn(1, 3, *plain.size), layer=0).patches.square().mean().backward()
    found = tower(encoder)
    grads = {index: any(p.grad is not None for p in found[index].module.parameters()) for index in range(plain.layers)}
    assert grads == {index: index == 0 for index in range(plain.layers)}


def test_boosted_encoders_are_read_through_both_channels(row):
    encoder, images = row.make(), torch.randn(1, 3, *row.size)
    with torch.no_grad():
        before = read_tokens(encoder, images).patches
        sb.boost(encoder)
        assert torch.equal(read_tokens(encoder, images).patches, before)
        for _, parameter in sb.named_parameters(encoder):
            parameter.normal_()
        assert not torch.equal(read_tokens(encoder, images).patches, before)


def test_timm_last_layer_is_what_forward_features_gives():
    encoder = VisionTransformer(**PLAIN).eval()
    images = torch.randn(2, 3, 32, 32)
    tokens, features = read_tokens(encoder, images), encoder.forward_features(images)
    assert torch.equal(tokens.patches, features[:, 1:]) and torch.equal(tokens.cls, features[:, 0])


def test_the_other_libraries_last_layer_is_what_they_give_themselves():
    images = torch.randn(2, 3, 32, 32)
    for name in ("torch.hub dinov2", "torch.hub clip"):
        encoder = READABLE[name].make()
        tokens, features = read_tokens(encoder, images), encoder(images)
        assert torch.equal(tokens.patches, features[:, 1:]) and torch.equal(tokens.cls, features[:, 0])
    encoder = READABLE["torchvision"].make()
    assert torch.equal(read_tokens(encoder, images).cls, encoder(images))  # its head is the identity
    if "open_clip" in READABLE:
        encoder = READABLE["open_clip"].make()
        torch.testing.assert_close(read_tokens(encoder, images).cls @ encoder.proj, encoder(images))


def test_transformers_towers_take_another_size():
    encoder = READABLE["dinov2"].make()
    assert read_tokens(encoder, torch.randn(1, 3, 48, 64)).grid == (6, 8)
    encoder = READABLE["clip"].make()
    assert read_tokens(encoder, torch.randn(1, 3, 48, 64)).patches.shape == (1, 48, 48)


def test_mistakes_are_named():
    encoder = VisionTransformer(**PLAIN)
    with pytest.raises(SpatialBoostError, match="multiple of the encoder's patch size 8"):
        prepare_images(encoder, [], 30)
    with pytest.raises(SpatialBoostError, match="give -3 to 2"):
        feature_layer(encoder, 3)
    with pytest.raises(SpatialBoostError, match=r"expected \(images, 3, height, width\)"):
        read_tokens(encoder, torch.zeros(3, 32, 32))
    with pytest.raises(SpatialBoostError, match="do not divide into patches of 8"):
        read_tokens(encoder, torch.zeros(1, 3, 30, 30))
    with pytest.raises(SpatialBoostError, match="img_size="):
        read_tokens(encoder, torch.zeros(1, 3, 40, 40))
    with pytest.raises(SpatialBoostError, match="build it with `image_size=`"):
        read_tokens(READABLE["torchvision"].make(), torch.zeros(1, 3, 64, 64))
    with pytest.raises(SpatialBoostError, match="Sequential"):
        feature_dim(nn.Sequential())


def test_a_whole_vision_language_model_is_refused_with_its_tower_named():
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    with pytest.raises(SpatialBoostError, match="vision_model"):
        feature_dim(CLIPModel(CLIPConfig(text_config=text, vision_config=CONFIG)))

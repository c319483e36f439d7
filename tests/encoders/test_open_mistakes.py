"""What cannot be opened as an encoder is one clear line."""

from __future__ import annotations

import pytest

import spatialboost as sb
from hub_server import STRANGER, Repo
from spatialboost.encoders import open_encoder
from spatialboost.errors import SpatialBoostError

TINY = "vit_tiny_patch16_224"
SHAPE = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}
PLAIN = {"name": "VisionTransformer", "kwargs": SHAPE}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tim:vit", "unknown encoder prefix 'tim'; known are .*timm.* Did you mean 'timm'"),
        (TINY, f"encoder is '{TINY}'; expected .*timm:NAME.* Did you mean 'timm:{TINY}'"),
        ("timm:vit_tiny_patch16_225", "timm .* has no model 'vit_tiny_patch16_225'; close to it: vit_tiny"),
        ("timm:vti_tiny_patch16_224", f"close to it: .*{TINY}"),
        ("hf:/nowhere", "cannot get 'hf:/nowhere': there is no folder /nowhere"),
        ("nowhere.yaml", r"cannot read nowhere.yaml: No such file"),
        (3, "encoder is int; expected a name"),
        ("timm:", "encoder is 'timm:', without a name; expected one such as timm:NAME"),
        ("", "encoder is '', without a name"),
        ({"library": "keras", "name": "x"}, "unknown encoder library 'keras'"),
        ({"name": "x", "patch": 1}, "unknown key of the encoder 'patch'"),
        ({"library": "timm"}, "the encoder has no name"),
        ({"name": "x", "mean": 3}, "encoder.mean is 3; expected three numbers"),
        ({"name": "x", "interpolation": "bicubik"}, "unknown interpolation 'bicubik'; .* Did you mean 'bicubic'"),
        ({"name": 3}, "encoder.name is '3'; expected the name of a model"),
        ({"name": None}, "encoder.name is 'None'"),
        ({"name": "x", "library": ["timm"]}, "encoder.library is"),
        ({"name": "x", "kwargs": [1]}, "encoder.kwargs is .* expected arguments"),
        ({"name": "x", "kwargs": "depth=2"}, "encoder.kwargs is 'depth=2'"),
        ({"name": "x", "kwargs": {1: 2}}, "encoder.kwargs has the key '1'"),
        ({"name": "x", "weights": 3}, "encoder.weights is '3'; expected the path"),
        ({"name": "x", "pretrained": "yes"}, "encoder.pretrained is 'yes'; expected true or false"),
        ({"name": "x", "interpolation": 3}, "encoder.interpolation is '3'"),
        ({"name": "x", "mean": ["nan", 1, 1]}, "expected three finite numbers"),
        ({"name": "x", "std": [0, 1, 1]}, "encoder.std is .*; expected three numbers above zero"),
        (f"timm:{TINY}.augreg", f"no weights 'augreg' of {TINY}; known are augreg_in21k, augreg_in21k_ft_in1k. Did"),
        ("timm:vit_base_patch16_224.openai", "has no weights 'openai' of vit_base_patch16_224; known are .*dino"),
        ("timm:vit_giant_patch14_224.x", "has no weights 'x' of vit_giant_patch14_224; it has no pretrained weights"),
    ],
)
def test_mistakes_are_one_line(spec, message):
    with pytest.raises(SpatialBoostError, match=message) as caught:
        open_encoder(spec)
    assert "\n" not in str(caught.value)


WRONG = ["two", -1, 0, None, [1], {"a": 1}, 1.5, True]


@pytest.mark.parametrize("key", ["depth", "num_heads", "embed_dim", "patch_size", "img_size", "no_such_key"])
@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("spec", ["VisionTransformer", TINY])
def test_wrong_arguments_are_one_line(spec, key, value):
    try:
        kwargs = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2} | {key: value}
        open_encoder({"name": spec, "kwargs": kwargs})
    except SpatialBoostError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("spec", ["timm:resnet18", "timm:convnext_atto", "timm:mixer_s16_224", "torchvision:resnet18"])
def test_a_model_without_attention_is_no_encoder(spec):
    with pytest.raises(SpatialBoostError, match=r"has no attention layers to boost|cannot read patch tokens"):
        open_encoder(spec, pretrained=False)


@pytest.mark.parametrize("seed", [2**64, -(2**64), 1.5, "x", True])
def test_seeds_out_of_range(seed):
    with pytest.raises(SpatialBoostError, match=r"seed is .*; expected a whole number"):
        open_encoder(PLAIN, seed=seed)


def test_a_delta_whose_base_has_no_name_says_how_to_give_it(tmp_path):
    delta = sb.save_pretrained(sb.boost(open_encoder(PLAIN)), tmp_path / "delta")
    with pytest.raises(SpatialBoostError, match=r"give the YAML file of the run as the encoder, or .* --delta"):
        open_encoder(str(delta))


def test_a_yaml_file_that_contains_itself(tmp_path):
    file = tmp_path / "run.yaml"
    for text in (
        "encoder: &a {name: *a}",
        "encoder: " + "[" * 100_000,
        "encoder: &a {name: x, kwargs: *a}",
        "encoder: 2001-99-99",
    ):
        file.write_text(text)
        with pytest.raises(SpatialBoostError, match=r"run\.yaml"):
            open_encoder(file)


def test_yaml_mistakes_name_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    for text, message in {
        "a: [": "is not YAML",
        "out: x": "has no `encoder:` section",
        "encoder: {name: x, patc: 1}": "unknown key of the encoder 'patc'",
        "encoder: {name: x}\nteacher: {kind: langage}": "unknown teacher 'langage'; .*Did you mean 'language'",
        "encoder: {name: x}\nteacher: [1]": "teacher is .*; expected a section",
        "encoder: {name: x}\nteacher: {kind: {}}": "unknown teacher",
        "encoder: {name: x}\nseed: x": "seed is 'x'; expected a whole number",
    }.items():
        file.write_text(text)
        with pytest.raises(SpatialBoostError, match=f"run.yaml.*{message}"):
            open_encoder(file)


@pytest.mark.parametrize("spec", ["timm:me/vit", "hf:me/vit"])
def test_weights_that_cannot_be_loaded(hub, spec):
    hub.repos["me/vit"] = repo = Repo(gated=True)
    repo.commit({"config.json": b"{}"}, "gated")
    with pytest.raises(SpatialBoostError, match=f"cannot get '{spec}': .*restricted.*hf auth login") as caught:
        open_encoder(spec, kwargs={"token": STRANGER})
    assert "\n" not in str(caught.value) and "random weights" in str(caught.value)


# --- a new library: one file, one line

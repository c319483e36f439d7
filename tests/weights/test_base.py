"""The base model: named from a model, and built again from that name."""

from __future__ import annotations

import pytest
import torch

import spatialboost as sb
from deltas import rewrite, save_tiny
from host_models import DEPTH, HEADS, HOSTS, SIZE, WIDTH, images, output, perturb
from spatialboost.encoders import open_encoder
from spatialboost.weights.base import describe_base


def test_from_pretrained_builds_a_timm_base(tmp_path):
    timm = pytest.importorskip("timm")
    options = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "img_size": SIZE}
    torch.manual_seed(0)  # that of weights which are not pretrained
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options).eval()
    sb.save_pretrained(perturb(sb.boost(model)), tmp_path)
    torch.manual_seed(3)
    built = sb.from_pretrained(tmp_path, pretrained=False, **options)
    with torch.no_grad():
        assert torch.equal(output(built, images()), output(model, images()))


@pytest.mark.parametrize("family", ["siglip", "clip", "dinov3"])
def test_from_pretrained_builds_a_transformers_base(tmp_path, family):
    model = HOSTS[family].make()
    model.save_pretrained(tmp_path / "base")
    sb.save_pretrained(perturb(sb.boost(model)), tmp_path / "delta", base=str(tmp_path / "base"))
    built = sb.from_pretrained(tmp_path / "delta")
    assert type(built) is type(model) and not built.training
    with torch.no_grad():
        assert torch.equal(output(built, images()), output(model, images()))


def test_a_transformers_base_without_its_weights_is_that_of_the_seed(tmp_path):
    from transformers import AutoConfig

    HOSTS["vit"].make().config.save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    model = type(HOSTS["vit"].make())(AutoConfig.from_pretrained(tmp_path / "base"))
    torch.manual_seed(0)
    model = type(model)(model.config).eval()
    sb.save_pretrained(perturb(sb.boost(model)), tmp_path / "delta", base=str(tmp_path / "base"))
    built = sb.from_pretrained(tmp_path / "delta", pretrained=False)
    with torch.no_grad():
        assert torch.equal(output(built, images()), output(model, images()))


def test_a_bare_tower_of_older_transformers_has_its_base(tmp_path):
    model = HOSTS["clip"].make()
    model.save_pretrained(tmp_path / "base")
    folder = sb.save_pretrained(perturb(sb.boost(model)), tmp_path / "delta")
    base = {"library": "transformers", "name": str(tmp_path / "base"), "class": "CLIPVisionTransformer"}
    rewrite(folder, base_model=base)
    built = sb.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(output(built, images()), output(model, images()))


def test_a_base_without_its_weights_is_another_base(tmp_path):
    model = HOSTS["siglip"].make()
    model.save_pretrained(tmp_path / "base")
    sb.save_pretrained(sb.boost(model), tmp_path / "delta", base=str(tmp_path / "base"))
    with pytest.raises(sb.SpatialBoostError, match="trained on other weights than these"):
        sb.from_pretrained(tmp_path / "delta", pretrained=False)


@pytest.mark.parametrize("spec", ["timm:vit_tiny_patch16_224", "hf:{folder}"])
def test_random_weights_are_drawn_again_from_their_seed(tmp_path, spec):
    HOSTS["vit"].make().save_pretrained(tmp_path / "base")
    encoder = open_encoder(spec.format(folder=tmp_path / "base"), pretrained=False, seed=7)
    sb.save_pretrained(
        perturb(sb.boost(encoder)), tmp_path / "delta", base=None if "timm" in spec else str(tmp_path / "base")
    )
    for act in (sb.from_pretrained, open_encoder):
        built = act(str(tmp_path / "delta"), pretrained=False)
        assert all(torch.equal(value, built.state_dict()[key]) for key, value in encoder.state_dict().items())
    if "hf" in spec:
        with pytest.raises(sb.SpatialBoostError, match="The base had random weights: pretrained=False draws"):
            sb.from_pretrained(tmp_path / "delta")


@pytest.mark.parametrize("seed", ["x", -(2**70), None, [1], 1.5])
def test_a_recorded_seed_of_wrong_content(tmp_path, seed):
    base = {"library": "timm", "name": "vit_tiny_patch16_224", "random_seed": seed}
    rewrite(save_tiny(tmp_path), base_model=base)
    with pytest.raises(sb.SpatialBoostError):
        sb.from_pretrained(tmp_path, pretrained=False)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"library": "timm", "name": "no_such_model"}, "timm .* has no model 'no_such_model'"),
        ({"library": "transformers", "name": "x", "class": "os.system"}, "has no model class 'os.system'"),
        ({"library": "transformers", "name": "x", "class": "AutoModel"}, "has no model class 'AutoModel'"),
        ({"library": "torchvision", "name": "vit"}, "cannot be built by name.*load_pretrained"),
        ({"library": ["timm"], "name": {}}, "cannot be built by name.*load_pretrained"),
    ],
)
def test_bases_that_cannot_be_built(tmp_path, base, message):
    rewrite(save_tiny(tmp_path), base_model=base)
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.from_pretrained(tmp_path)


def test_what_a_model_tells_of_itself():
    timm_base = describe_base(HOSTS["timm"].make())
    assert timm_base["library"] == "timm" and timm_base["hub_id"] == f"timm/{timm_base['name']}"
    named = describe_base(HOSTS["vit"].make(), name="google/vit@abc", license="mit")
    assert (named["name"], named["revision"], named["hub_id"]) == ("google/vit", "abc", "google/vit")
    assert named["class"] == "ViTModel" and named["license"] == "mit"
    own = describe_base(HOSTS["generic"].make())
    assert (own["library"], own["name"], own["hub_id"]) == ("host_models", "Tower", None)


def test_a_path_of_this_machine_is_not_told(tmp_path):
    model = HOSTS["vit"].make()
    model.config._name_or_path = str(tmp_path / "secret" / "encoder")
    found = describe_base(model)
    assert found["name"] == "encoder" and found["hub_id"] is None

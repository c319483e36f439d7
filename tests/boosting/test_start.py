"""Attn+ starts as the base, also when the base gets its weights after `boost`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, OLD_TRANSFORMERS, images, output, perturb

X = images()


def trained(host: str = "timm") -> nn.Module:
    """An encoder whose weights are not those of `make`."""
    model = HOSTS[host].make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def load_strictly(model, state):
    model.load_state_dict(state, strict=False)


def load_by_assignment(model, state):
    model.load_state_dict(state, strict=False, assign=True)


def copy_in_place(model, state):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in state:
                parameter.copy_(state[name])


@pytest.mark.parametrize("load", [load_strictly, load_by_assignment, copy_in_place])
@pytest.mark.parametrize("host", ["timm", "dinov2", "torchvision", "timm_parallel"])
def test_base_weights_that_are_loaded_after_boost(host, load):
    source, inputs = trained(host), HOSTS[host].inputs()
    model = sb.boost(HOSTS[host].make())
    assert not any(layer.stale for layer in sb.status(model).layers)
    load(model, source.state_dict())
    assert all(layer.stale for layer in sb.status(model).layers)
    assert "reset(model) copies them into Attn+" in str(sb.status(model))
    assert sb.reset(model) is model and not any(layer.stale for layer in sb.status(model).layers)
    assert torch.allclose(output(model, inputs), output(source, inputs), atol=1e-6)


def test_a_trained_channel_is_not_stale_and_reset_starts_it_again():
    model = perturb(sb.boost(HOSTS["timm"].make()))
    assert not any(layer.stale for layer in sb.status(model).layers)
    assert torch.equal(output(sb.reset(model), X), output(HOSTS["timm"].make(), X))


def boosted_on_meta() -> nn.Module:
    with torch.device("meta"):
        return sb.boost(HOSTS["timm"].make())


def test_a_channel_without_values_is_refused_until_it_has_some():
    model, source = boosted_on_meta().to_empty(device="cpu"), trained()
    model.load_state_dict(source.state_dict(), strict=False)
    with pytest.raises(sb.SpatialBoostError, match=r"layer 0: Attn\+ was made on the meta device.*reset\(model\)"):
        output(model, X)
    assert torch.equal(output(sb.reset(model), X), output(source, X))


@pytest.mark.parametrize("fill", [load_strictly, load_by_assignment, copy_in_place])
def test_a_channel_that_gets_values_runs(fill):
    source = perturb(sb.boost(trained()))
    model = boosted_on_meta()
    if fill is not load_by_assignment:
        model.to_empty(device="cpu")
    fill(model, source.state_dict())
    assert torch.equal(output(model.eval(), X), output(source, X))


@pytest.mark.skipif(OLD_TRANSFORMERS, reason="does not say which weights it has loaded")
@pytest.mark.parametrize(
    "name, config, options",
    [
        ("CLIPVisionModel", "CLIPVisionConfig", {"patch_size": 16, "image_size": 32, "intermediate_size": 64}),
        ("SiglipVisionModel", "SiglipVisionConfig", {"patch_size": 16, "image_size": 32, "intermediate_size": 64}),
        ("DINOv3ViTModel", "DINOv3ViTConfig", {"patch_size": 16, "image_size": 32, "intermediate_size": 64}),
    ],
)
def test_a_model_of_transformers_that_boosts_when_it_is_built(name, config, options, tmp_path):
    import transformers

    base_class = getattr(transformers, name)
    settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    base = base_class(getattr(transformers, config)(**settings, **options)).eval()
    base.save_pretrained(tmp_path / "base")

    def init(self, config):
        base_class.__init__(self, config)
        sb.boost(self)

    boosted_class = type(name, (base_class,), {"__init__": init})
    model = boosted_class.from_pretrained(tmp_path / "base").eval()
    inputs = {"pixel_values": X["x"]}
    assert torch.equal(output(model, inputs), output(base, inputs))
    perturb(model).save_pretrained(tmp_path / "boosted")
    again = boosted_class.from_pretrained(tmp_path / "boosted").eval()
    assert torch.equal(output(again, inputs), output(model, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_stay_float32_bit_for_bit(dtype):
    model = perturb(sb.boost(HOSTS["timm"].make()))
    gates = [p.detach().clone() for name, p in sb.named_parameters(model) if name.endswith("gate")]
    for again in (model.to(dtype), model.to(dtype).float(), model.half(), model.bfloat16()):
        found = [p for name, p in sb.named_parameters(again) if name.endswith("gate")]
        assert all(p.dtype == torch.float32 and torch.equal(p, gate) for p, gate in zip(found, gates, strict=True))

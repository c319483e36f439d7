"""Methods of torch.hub's DINOv2 and DINOv3 besides `forward`: packed images and lists of batches."""

from __future__ import annotations

import pytest
import torch

import spatialboost as sb
from host_models import HOSTS, images, output, perturb


def sizes() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 3, 32, 32, generator=generator), torch.randn(3, 3, 16, 32, generator=generator)]


@pytest.mark.parametrize("name", ["dino_hub", "dino_hub_v3"])
def test_lists_of_batches_run_both_channels(name):
    if name == "dino_hub":
        pytest.importorskip("xformers")
    model = HOSTS[name].make()
    with torch.no_grad():
        before = model.forward_list(sizes())
        sb.boost(model)
        assert all(torch.equal(a, b) for a, b in zip(model.forward_list(sizes()), before, strict=True))
        perturb(model)
        together = model.forward_list(sizes())
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(together, before, strict=True))
        alone = [model.forward_list([x])[0] for x in sizes()]  # tokens attend only within their own image
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a, b)
    sum(t.square().mean() for t in model.forward_list(sizes())).backward()
    assert all(p.grad is not None for _, p in sb.named_parameters(model))


def test_attention_with_another_class_path_is_found_by_its_layout():
    model = sb.boost(HOSTS["dino_hub"].make())
    assert {layer.family for layer in sb.status(model).layers} == {"dino_hub"}


def test_a_delta_of_the_hub_model_loads_into_timm(tmp_path):
    hub, timm = HOSTS["dino_hub"].make(), HOSTS["timm"].make()
    with torch.no_grad():
        for a, b in zip(hub.blocks, timm.blocks, strict=True):
            b.attn.load_state_dict(a.attn.state_dict())
    sb.save_pretrained(perturb(sb.boost(hub)), tmp_path)
    sb.load_pretrained(timm, tmp_path)
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        for a, b in zip(hub.blocks, timm.blocks, strict=True):
            torch.testing.assert_close(a.attn(x), b.attn(x))
    assert output(timm, images()).isfinite().all()

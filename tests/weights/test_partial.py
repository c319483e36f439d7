"""Deltas of a part of an encoder, of wrapped encoders, and of encoders with adapters."""

from __future__ import annotations

import json
import logging

import pytest
import timm
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, images, output, perturb
from spatialboost.boosting.channel import boosted_layers

X = images()["x"]
NAME = "vit_tiny_patch16_224"


def vit(depth: int = 4) -> nn.Module:
    """The first blocks of one encoder, whatever the depth."""
    torch.manual_seed(0)
    whole = timm.create_model(NAME, depth=4, img_size=32, num_classes=0, embed_dim=32, num_heads=2).eval()
    whole.blocks = whole.blocks[:depth]
    return whole


def features_only() -> nn.Module:
    torch.manual_seed(0)
    options = {"depth": 4, "img_size": 32, "embed_dim": 32, "num_heads": 2, "features_only": True}
    model = timm.create_model(NAME, out_indices=(0, 1), **options).eval()
    model.model.load_state_dict(vit().state_dict(), strict=False)
    return model


def channels(model: nn.Module) -> dict[int, list[torch.Tensor]]:
    return {
        channel.index: [p.detach().clone() for p in channel.parameters()] for _, _, channel in boosted_layers(model)
    }


@pytest.mark.parametrize("make", [lambda: vit(2), features_only, lambda: nn.Sequential(vit(3), nn.Identity())])
def test_a_full_delta_onto_a_part_and_back(make, tmp_path):
    full = perturb(sb.boost(vit()))
    folder = sb.save_pretrained(full, tmp_path / "full")
    part = make()
    depth = len(sb.status(part).passed_over)
    state = {k: v.clone() for k, v in part.state_dict().items()}
    with pytest.raises(sb.SpatialBoostError, match=r"with 4 attention layers; .* has \d\..*`layers`.*\[0, 1, 2, 3\]"):
        sb.load_pretrained(part, folder)  # never by accident
    assert not boosted_layers(part) and all(torch.equal(v, state[k]) for k, v in part.state_dict().items())
    sb.load_pretrained(part, folder, layers=[0, 1])
    ours, theirs = channels(part), channels(full)
    assert sorted(ours) == [0, 1]
    assert all(torch.equal(a, b) for i in ours for a, b in zip(ours[i], theirs[i], strict=True))
    assert depth < 4

    back = sb.save_pretrained(perturb(part, seed=9), tmp_path / "part")
    again = vit()
    with pytest.raises(sb.SpatialBoostError, match="give `layers`"):
        sb.load_pretrained(again, back)
    sb.load_pretrained(again, back, layers=range(2))
    ours, theirs = channels(again), channels(part)
    assert sorted(ours) == [0, 1]
    assert all(torch.equal(a, b) for i in ours for a, b in zip(ours[i], theirs[i], strict=True))


@pytest.mark.parametrize("layers", [[], [4], [0, 7], [-1]])
def test_layers_that_the_delta_does_not_have(layers, tmp_path):
    folder = sb.save_pretrained(sb.boost(vit()), tmp_path)
    with pytest.raises(sb.SpatialBoostError, match=r"the delta has the layers \[0, 1, 2, 3\]"):
        sb.load_pretrained(vit(), folder, layers=layers)


def test_another_base_is_refused_in_parts_too(tmp_path):
    folder = sb.save_pretrained(sb.boost(vit()), tmp_path)
    other = vit(2)
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight.add_(0.1)
    with pytest.raises(sb.SpatialBoostError, match=r"trained on other weights.*layers\.0"):
        sb.load_pretrained(other, folder, layers=[0, 1])


def base_of(model: nn.Module, folder, **options) -> dict:
    return json.loads((sb.save_pretrained(model, folder, **options) / "config.json").read_text())["base_model"]


class Wrapper(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = encoder, nn.Linear(32, 4)


@pytest.mark.parametrize(
    "wrap",
    [
        Wrapper,
        lambda m: nn.Sequential(m, nn.Linear(32, 4)),
        lambda m: nn.ModuleDict({"teacher": Wrapper(m)}),
        lambda m: torch.compile(Wrapper(m)),
    ],
    ids=["module", "sequential", "nested", "compiled"],
)
@pytest.mark.parametrize("host", ["timm", "dinov2", "torchvision"])
def test_a_wrapped_encoder_is_named(wrap, host, tmp_path):
    plain = base_of(sb.boost(HOSTS[host].make()), tmp_path)
    assert base_of(wrap(sb.boost(HOSTS[host].make())), tmp_path) == plain
    named = base_of(wrap(sb.boost(HOSTS[host].make())), tmp_path, base="user/encoder")
    assert named["name"] == "user/encoder" and named["library"] == plain["library"]


def test_distributed_data_parallel_is_named_after_what_it_wraps(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for inner in (sb.boost(vit()), Wrapper(sb.boost(vit()))):
            found = base_of(nn.parallel.DistributedDataParallel(inner), tmp_path)
            assert (found["library"], found["name"]) == ("timm", f"{NAME}.augreg_in21k_ft_in1k")
    finally:
        torch.distributed.destroy_process_group()


def test_a_delta_over_adapters_is_recorded_and_said_when_they_are_missing(tmp_path, caplog):
    peft = pytest.importorskip("peft")
    model = perturb(sb.boost(vit()))
    plain = sb.save_pretrained(model, tmp_path / "plain")
    assert "adapters" not in json.loads((plain / "config.json").read_text())
    config = peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False)
    adapted = peft.inject_adapter_in_model(config, model)
    folder = sb.save_pretrained(adapted, tmp_path / "adapted")
    assert json.loads((folder / "config.json").read_text())["adapters"] == ["peft.tuners.lora"]
    with caplog.at_level(logging.WARNING):
        sb.load_pretrained(adapted, folder)
    assert "adapters" not in caplog.text
    with caplog.at_level(logging.WARNING):
        sb.load_pretrained(vit(), folder)
    assert "trained over adapters" in caplog.text
    assert output(adapted, {"x": X}).isfinite().all()

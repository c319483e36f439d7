"""Groups of parameters for an optimiser."""

from __future__ import annotations

import torch

import spatialboost as sb
from host_models import HOSTS, images, output, perturb


def test_gates_and_biases_have_no_weight_decay():
    model = sb.boost(HOSTS["timm"].make())
    decayed, spared = sb.param_groups(model, lr=1e-3, weight_decay=0.1)
    names = {id(p): name.rpartition(".")[2] for name, p in sb.named_parameters(model)}
    assert {names[id(p)] for p in decayed["params"]} == {"plus_qkv__weight", "plus_proj__weight"}
    assert {names[id(p)] for p in spared["params"]} == {"plus_qkv__bias", "plus_proj__bias", "gate"}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    optimizer = torch.optim.AdamW([decayed, spared])
    output(perturb(model), images()).square().sum().backward()
    base = {k: v.clone() for k, v in model.state_dict().items() if "spatial" not in k}
    optimizer.step()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in base.items())

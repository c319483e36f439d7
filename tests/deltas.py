"""Deltas for tests: save one, change its content with matching checksums, read it, and see that loading is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import spatialboost as sb
from host_models import HOSTS, perturb
from spatialboost.weights.format import delta_checksum
from spatialboost.weights.tensor_file import checksum

Tensors = dict[str, torch.Tensor]
WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"


def save_tiny(folder: Path, *, seed: int = 2, **options) -> Path:
    """The delta of a tiny timm encoder whose channel has moved."""
    model = perturb(sb.boost(HOSTS["timm"].make()), seed=seed)
    return sb.save_pretrained(model, folder, **({"training": {"steps": 3}} | options))


def rewrite(folder: Path, change: Callable[[Tensors], Tensors] = dict, **config) -> None:
    """Change tensors and config of a delta, with matching checksums, as a save would have written them."""
    tensors = change(load_file(folder / WEIGHTS))
    checksums = {key: checksum(tensor.contiguous()) for key, tensor in tensors.items()}
    content = json.loads((folder / CONFIG).read_text()) | config
    content = {key: value for key, value in content.items() if value != "absent"}
    if "checksum" not in config:
        content["checksum"] = delta_checksum(checksums, content)
    text = json.dumps(content)
    (folder / CONFIG).write_text(text)
    save_file(tensors, folder / WEIGHTS, {"spatialboost": text, "checksums": json.dumps(checksums)})


def all_tensors(folder: Path) -> Tensors:
    """Every tensor of a delta, whatever its files."""
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def refused(folder: Path, message: str, model: nn.Module | None = None, **options) -> str:
    """Loading raises this error and leaves the model bit for bit as it was; returns the message."""
    model = model or HOSTS["timm"].make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    classes, flags = [type(m) for m in model.modules()], [p.requires_grad for p in model.parameters()]
    with pytest.raises(sb.SpatialBoostError, match=message) as caught:
        sb.load_pretrained(model, folder, **options)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [type(m) for m in model.modules()] == classes
    assert [p.requires_grad for p in model.parameters()] == flags
    return str(caught.value)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()

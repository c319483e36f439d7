"""Deltas in other people's training loops: `torch.save`, transformers' Trainer and Lightning, with a callback each."""

from __future__ import annotations

import copy
import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, images, output, perturb
from spatialboost.weights.read import read_delta

EXAMPLES = Path(__file__).parents[1] / "examples"


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for (_, p), (_, q) in zip(sb.named_parameters(a), sb.named_parameters(b), strict=True))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An example script as a module, run as a newcomer would run it."""

    def load(name: str) -> ModuleType:
        monkeypatch.setattr(sys, "argv", [name, "--tiny"])
        monkeypatch.chdir(tmp_path)
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("host", ["timm", "dinov3", "torchvision", "generic"])
def test_torch_save_and_back(host):
    model = perturb(sb.boost(HOSTS[host].make()))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = sb.boost(HOSTS[host].make(seed=1))
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(output(other, HOSTS[host].inputs()), output(model, HOSTS[host].inputs()))
    plain = HOSTS[host].make(seed=1)
    found = plain.load_state_dict(model.state_dict(), strict=False)  # the base's keys are its own
    assert not found.missing_keys and all("spatial_channel" in key for key in found.unexpected_keys)


def test_the_delta_of_a_copy_that_averages_the_weights(tmp_path):
    """A model average is a deep copy: it saves its own values."""
    model = perturb(sb.boost(HOSTS["timm"].make()))
    average = torch.optim.swa_utils.AveragedModel(model)
    expected = copy.deepcopy(model)
    perturb(model, seed=3)
    loaded = sb.load_pretrained(HOSTS["timm"].make(), sb.save_pretrained(average.module, tmp_path))
    assert equal(loaded, expected) and not equal(loaded, model)


def test_trainer_saves_a_delta_with_every_checkpoint(example, tmp_path):
    pytest.importorskip("accelerate")
    run = example("callback_trainer")
    folders = sorted((tmp_path / "trained").glob("checkpoint-*/delta"))
    assert len(folders) == 2
    last = sb.load_pretrained(run.make_encoder(), tmp_path / "trained" / "delta")
    assert equal(last, run.encoder) and not equal(sb.load_pretrained(run.make_encoder(), folders[0]), last)
    assert read_delta(folders[1]).config["training"]["global_step"] == 4
    with torch.no_grad():
        x = images()["x"]
        assert torch.equal(last.eval()(x), run.encoder.cpu().eval()(x))


def test_lightning_saves_a_delta_with_every_epoch(example, tmp_path):
    pytest.importorskip("lightning")
    run = example("callback_lightning")
    loaded = sb.load_pretrained(run.make_encoder(), tmp_path / "lightning" / "delta")
    assert equal(loaded, run.task.encoder.cpu())
    assert read_delta(tmp_path / "lightning" / "delta").config["training"] == {"epoch": 1, "global_step": 4}

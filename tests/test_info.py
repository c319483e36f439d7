from pathlib import Path

import pytest
import timm
import torch

import spatialboost as sb
from spatialboost.info import delta_facts, devices, kernels, versions


def test_versions_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions()["timm"] == timm.__version__
    monkeypatch.setattr("spatialboost.info.OPTIONAL", ("no-such-package",))
    assert versions()["no-such-package"] is None


def test_the_machine() -> None:
    assert devices()[0].startswith(f"cpu: {torch.get_num_threads()} threads")
    assert "cpu float32: sdpa" in kernels()


def test_a_delta_is_read_without_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=3), layers=[0, 2])
    sb.save_pretrained(encoder, tmp_path, training={"objective": "language"})
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("no model is needed to read a header"))
    facts = delta_facts(str(tmp_path))
    trainable = sum(parameter.numel() for _, parameter in sb.named_parameters(encoder))
    assert list(facts["layers"]) == [0, 2] and facts["config"]["depth"] == 3
    assert sum(layer["parameters"] for layer in facts["layers"].values()) == trainable
    assert {layer["mean gate"] for layer in facts["layers"].values()} == {0.5}

import io
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console

import spatialboost as sb
from deltas import rewrite, save_tiny
from spatialboost.weights.info import delta_facts, delta_table, devices, kernels, versions


def test_versions_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions()["timm"] == timm.__version__
    monkeypatch.setattr("spatialboost.weights.info.OPTIONAL", ("no-such-package",))
    assert versions()["no-such-package"] is None


def test_the_machine() -> None:
    assert devices()[0].startswith(f"cpu: {torch.get_num_threads()} threads")
    assert any(line.startswith("cpu float32: sdpa (") for line in kernels())


@pytest.mark.parametrize(("version", "shown"), [(91002, "cuDNN: 9.10.2"), (8907, "cuDNN: 8.9.7"), (None, None)])
def test_the_version_of_cudnn(monkeypatch: pytest.MonkeyPatch, version: int | None, shown: str | None) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    assert [line for line in devices() if "cuDNN" in line] == ([shown] if shown else [])


def test_why_xformers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spatialboost.boosting.xformers_kernel.load_xformers", lambda: (None, "it is broken"))
    monkeypatch.setattr("spatialboost.weights.info._version", lambda package: "0.0.36")
    assert kernels()[-1] == "xformers is not used: it is broken"


def test_a_delta_is_read_without_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=3), layers=[0, 2])
    sb.save_pretrained(encoder, tmp_path, training={"objective": "language"})
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("no model is needed to read a header"))
    facts = delta_facts(str(tmp_path))
    trainable = sum(parameter.numel() for _, parameter in sb.named_parameters(encoder))
    assert list(facts["layers"]) == [0, 2] and facts["config"]["depth"] == 3
    assert sum(layer["parameters"] for layer in facts["layers"].values()) == trainable
    assert {layer["mean gate"] for layer in facts["layers"].values()} == {0.5}
    assert facts["checked"] and facts["bytes"] == (tmp_path / "model.safetensors").stat().st_size


def test_a_damaged_delta_is_an_error(tmp_path: Path) -> None:
    path = save_tiny(tmp_path) / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(sb.SpatialBoostError, match="is damaged"):
        delta_facts(str(tmp_path))


@pytest.mark.parametrize("limit", ["5GB", "10KB"])
def test_the_table(tmp_path: Path, limit: str) -> None:
    probe = {"probe": "depth", "settings": {}, "summary": {"base": {"rmse": {"mean": 0.5, "std": None}}}}
    facts = printed(save_tiny(tmp_path, results=probe, max_shard_size=limit))
    for text in ("32, 2, 2, 16", "cpu float32:", "depth: base", "rmse 0.5", "training: steps", ", matches", "float32"):
        assert text in facts


def test_the_table_of_an_older_delta_and_of_odd_facts(tmp_path: Path) -> None:
    assert "not recorded" in printed(Path(__file__).parent / "data" / "delta_v1")
    rewrite(save_tiny(tmp_path), training=[1], results="none", mean_gates=[None, "x"], parameters="many", base_model={})
    assert "not recorded" in printed(tmp_path)


def printed(folder: Path) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(delta_table(str(folder)))
    return console.export_text()

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


ESCAPES = "\x1b]0;title\x07\x1b[31mred\x9b31m\r\x08\u202e\u2028\ud800[bold]x[/bold][link=https://example.org]y[/link]"


@pytest.mark.parametrize(
    "odd",
    [
        {"base_model": {key: ESCAPES for key in ("name", "library", "class", "revision", "license")}},
        {"base_model": {"name": [[ESCAPES]]}},
        {"training": {ESCAPES: ESCAPES, "steps": [ESCAPES]}},
        {"results": [{"probe": ESCAPES, "summary": {ESCAPES: {ESCAPES: {"mean": ESCAPES}}}}]},
        {"dtype": ESCAPES, "num_heads": ESCAPES, "patch_size": ESCAPES, "parameters": ESCAPES},
        {"fingerprint": {ESCAPES: [1.0]}},
    ],
)
def test_a_foreign_delta_does_not_reach_the_terminal(tmp_path: Path, odd: dict) -> None:
    rewrite(save_tiny(tmp_path), **odd)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # lone surrogates cannot be written to it
    Console(file=screen, width=200, force_terminal=True, color_system=None).print(delta_table(str(tmp_path)))
    screen.flush()
    text = screen.buffer.getvalue().decode()
    assert all(
        c.isprintable() or c == "\n" for c in text.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[3m", "")
    )
    assert "fingerprint" in odd or "[bold]x[/bold]" in text


@pytest.mark.parametrize(
    "odd",
    [
        {"parameters": 10**400, "num_heads": 10**4000},
        {"mean_gates": [10**400, -(10**400)]},
        {"mean_gates": [float("inf"), float("nan")]},
        {"results": [{"probe": "p", "summary": {"b": {"m": {"mean": 10**400}}}}]},
        {"training": {"steps": 10**4000, "loss": float("nan"), "log": "x" * 100_000}},
    ],
)
def test_numbers_and_texts_that_are_far_too_large(tmp_path: Path, odd: dict) -> None:
    rewrite(save_tiny(tmp_path), **odd)
    text = printed(tmp_path)
    assert len(text) < 30_000 and ("too large" in text or "..." in text or "nan" in text)


@pytest.mark.parametrize("field", ["gate", "format_version", "checksum", "layers"])
def test_an_error_does_not_reach_the_terminal_either(tmp_path: Path, field: str) -> None:
    rewrite(save_tiny(tmp_path), **{field: ESCAPES})
    with pytest.raises(sb.SpatialBoostError) as caught:
        delta_facts(str(tmp_path))
    assert str(caught.value).isprintable() and str(caught.value).isascii()


def printed(folder: Path) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(delta_table(str(folder)))
    return console.export_text()

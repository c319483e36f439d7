"""The model card: facts only, in a form that the Hub reads."""

from __future__ import annotations

import json

import pytest

import spatialboost as sb
from host_models import HOSTS
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow


def card_of(tmp_path, **options) -> str:
    return (
        sb.save_pretrained(sb.boost(HOSTS["timm"].make(), layers=[1]), tmp_path, **options) / "README.md"
    ).read_text()


def probe() -> ProbeResult:
    rows = [ProbeRow(name, seed, {"rmse": value + seed / 10}) for name, value in (("base", 0.5), ("boosted", 0.4)) for seed in (0, 1)]  # fmt: skip # noqa: E501
    return ProbeResult("depth", {"layer": -1, "resolution": 224}, {"rmse": Metric("RMSE", "m")}, rows)


def test_front_matter_is_what_the_hub_reads(tmp_path):
    from huggingface_hub import ModelCard

    data = ModelCard(card_of(tmp_path, base="me/encoder", license="mit")).data
    assert (data.library_name, data.base_model, data.license) == ("spatialboost", "me/encoder", "mit")
    assert data.to_dict()["base_model_relation"] == "adapter" and data.pipeline_tag == "image-feature-extraction"
    assert {"spatialboost", "vision"} <= set(data.tags)


def test_the_base_and_the_licence_that_timm_tells(tmp_path):
    from huggingface_hub import ModelCard

    data = ModelCard(card_of(tmp_path)).data
    assert data.base_model.startswith("timm/vit_tiny_patch16_224") and data.license == "apache-2.0"


def test_facts_are_told_and_escaped(tmp_path):
    facts = {"note": "a | b\n<script>alert(1)</script>", "steps": 3}
    card = card_of(tmp_path, training=facts)
    assert "| boosted blocks | 1 of 2: 1 |" in card and "| steps | 3 |" in card
    assert "<script>" not in card and "a \\| b &lt;script>" in card


def test_what_is_not_known_is_said(tmp_path):
    card = (sb.save_pretrained(sb.boost(HOSTS["vit"].make()), tmp_path) / "README.md").read_text()
    assert "| licence of the base | not recorded |" in card and "| training | not recorded |" in card
    assert "base_model:" not in card and "license:" not in card and "Probe" not in card


@pytest.mark.parametrize("form", ["file", "content", "several"])
def test_results_of_a_probe(tmp_path, form):
    path = next(p for p in probe().save(tmp_path / "probe") if p.suffix == ".json")
    results = {"file": path, "content": probe().to_dict(), "several": [path, str(path)]}[form]
    card = card_of(tmp_path / "delta", results=results)
    assert card.count("## Probe: depth") == (2 if form == "several" else 1)
    assert "| | rmse |" in card and "| base | 0.55 +- 0.071 |" in card and "| boosted | 0.45 +- 0.071 |" in card
    assert "layer: -1; resolution: 224" in card
    config = json.loads((tmp_path / "delta" / "config.json").read_text())
    assert config["results"][0]["summary"]["boosted"]["rmse"]["mean"] == pytest.approx(0.45)
    assert "rows" not in config["results"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [("[", "cannot be read"), ("{}", "it has no `summary`"), ('{"summary": [1]}', "no `summary`")],
)
def test_results_that_are_none(tmp_path, content, message):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(sb.SpatialBoostError, match=message):
        card_of(tmp_path / "delta", results=tmp_path / "result.json")
    with pytest.raises(sb.SpatialBoostError, match="cannot be read"):
        card_of(tmp_path / "delta", results=tmp_path / "nothing.json")
    assert not (tmp_path / "delta").exists()

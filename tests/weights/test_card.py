"""The model card: facts only, in a form that the Hub reads."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import spatialboost as sb
from host_models import HOSTS
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
from spatialboost.weights.card import model_card


def card_of(tmp_path, **options) -> str:
    return (
        sb.save_pretrained(sb.boost(HOSTS["timm"].make(), layers=[1]), tmp_path, **options) / "README.md"
    ).read_text()


def probe() -> ProbeResult:
    rows = [ProbeRow(name, seed, {"rmse": value + seed / 10}) for name, value in (("base", 0.5), ("boosted", 0.4)) for seed in (0, 1)]  # fmt: skip # noqa: E501
    return ProbeResult("depth", {"layer": -1, "resolution": 224}, {"rmse": Metric("RMSE", "m")}, rows)


def shown(card: str) -> dict[str, str]:
    """The rows of two cells of all tables of a card as a browser shows them; nothing in the body may be live."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(ModelCard(card).text)
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {child.type for token in inline for child in token.children} | {token.type for token in tokens}
    assert kinds <= {"text", "text_special", "softbreak", "inline", "paragraph_open", "paragraph_close", "fence"} | {
        f"{part}_{side}"
        for part in ("heading", "table", "thead", "tbody", "tr", "th", "td")
        for side in ("open", "close")
    }
    rows: dict[str, str] = {}
    cells: list[str] = []
    for token, following in pairwise(tokens):
        if token.type == "tr_open":
            cells = []
        elif token.type == "td_open":
            cells.append("".join(child.content for child in following.children))
        elif token.type == "tr_close" and len(cells) == 2:
            rows[cells[0]] = cells[1]
    return rows


def test_front_matter_is_what_the_hub_reads(tmp_path):
    data = ModelCard(card_of(tmp_path, base="me/encoder", license="mit")).data
    assert (data.library_name, data.base_model, data.license) == ("spatialboost", "me/encoder", "mit")
    assert data.to_dict()["base_model_relation"] == "adapter" and data.pipeline_tag == "image-feature-extraction"
    assert {"spatialboost", "vision"} <= set(data.tags)


def test_the_base_and_the_licence_that_timm_records(tmp_path):
    data = ModelCard(card_of(tmp_path)).data
    assert data.base_model.startswith("timm/vit_tiny_patch16_224") and data.license == "apache-2.0"


def test_facts_are_listed_and_escaped(tmp_path):
    facts = {"note": "a | b\n<script>alert(1)</script>", "steps": 3}
    card = card_of(tmp_path, training=facts)
    assert "| boosted blocks | 1 of 2: 1 |" in card and "| steps | 3 |" in card
    assert "<script>" not in card and shown(card)["note"] == "a | b <script>alert(1)</script>"


def test_what_is_not_known_is_not_recorded(tmp_path):
    card = (sb.save_pretrained(sb.boost(HOSTS["vit"].make()), tmp_path) / "README.md").read_text()
    assert "| licence of the base | not recorded |" in card and "| training | not recorded |" in card
    assert "base_model:" not in card and "license:" not in card and "Probe" not in card


HOSTILE = [
    "a | b || c \\| d \\",
    "![pixel](https://example.org/pixel.png)",
    "[click](javascript:alert(1)) <a href='javascript:alert(1)'>x</a>",
    "<javascript:alert(1)> <https://example.org> &lt;b&gt; &#60;b&#62;",
    "`code` ``x` ``` \\`",
    "**bold** *it* __bold__ _it_ ~~no~~ snake_case_name $x$ # x #",
    "| --- | --- |",
    "--- === - + * 1. > #",
    "[a]: https://example.org [a] [^1]",
    "{{ jinja }} {% x %}",
    "\u00e9\u4e2d",
]
BREAKS = [
    "\n",
    "\r",
    "\r\n",
    "\n\n---\n",
    "\x0b",
    "\x0c",
    "\x85",
    "\u2028",
    "\u2029",
    "\x00",
    "\x1b[31m",
    "\u202e",
    "\ud800",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_markup_in_a_fact_is_shown_as_text(tmp_path, value):
    rows = shown(card_of(tmp_path, training={"note": value, value: "as a key", "list": [value]}))
    assert (
        rows["note"] == value and rows[value] == "as a key" and rows["list"] == json.dumps([value], ensure_ascii=False)
    )


@pytest.mark.parametrize("value", BREAKS)
def test_no_line_break_or_control_character_gets_through(tmp_path, value):
    text = f"a{value}b | {value}# c"
    card = card_of(tmp_path, training={"note": text, "after": 1}, base=f"x{value}y", license=f"z{value}z")
    rows = shown(card)
    assert rows["note"].startswith("a ") and rows["note"].endswith("# c") and rows["after"] == "1"
    assert rows["licence of the base"].startswith("z ")
    body = ModelCard(card).text
    assert all(c == "\n" or c.isprintable() for c in body) and body.count("\n# ") == 1


@pytest.mark.parametrize(
    "value", [*HOSTILE, *(f"a{b}license: mit{b}x" for b in BREAKS), "true", "null", "1.0", "x: y", ""]
)
def test_front_matter_of_foreign_names(tmp_path, value):
    """Whatever the names are, the front matter has the fields that it should have, and no others."""
    probe = {"probe": value, "settings": {"data": value}, "summary": {"boosted": {value: {"mean": 0.5, "std": None}}}}
    config = {
        "base_model": {"name": value, "library": value, "hub_id": value, "license": value},
        "layers": [0], "depth": 1, "width": 2, "parameters": 3, "dtype": "float32", "mean_gates": [0.5],
        "training": {}, "results": [probe],
    }  # fmt: skip
    path = tmp_path / "README.md"
    path.write_text(model_card(config), encoding="utf-8", newline="")
    data = ModelCard.load(path).data
    expected = value if value.isprintable() else data.base_model  # breaks and control characters are left out
    assert expected.isprintable() and expected.count("license: mit") == value.count("license: mit")
    assert (data.get("base_model") or "") == expected
    assert data.get("license") == ("other" if value else None)
    assert data.eval_results[0].metric_type == expected and data.eval_results[0].metric_value == 0.5
    known = {"library_name", "pipeline_tag", "tags", "base_model", "base_model_relation", "license", "license_name"}
    assert data.to_dict().keys() <= known | {"model-index"}


def test_a_licence_that_the_hub_does_not_know_is_given_by_name(tmp_path):
    data = ModelCard(card_of(tmp_path, license="DINOv3 License (Meta)")).data
    assert (data.license, data.license_name) == ("other", "dinov3-license-meta")
    assert ModelCard(card_of(tmp_path, license="Apache-2.0")).data.license == "apache-2.0"


def test_figures_of_the_boosted_encoder_are_in_the_model_index(tmp_path):
    odd = {"probe": "other", "settings": None, "summary": {"boosted": {"a": "text", "b": {"mean": None}, "c": 2}}}
    data = ModelCard(card_of(tmp_path, results=[probe().to_dict(), odd])).data
    found = {(result.task_name, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {("depth probe", "rmse"): pytest.approx(0.45), ("other probe", "c"): 2}


@pytest.mark.parametrize("mean", [10**400, -(10**400), True, "x", None, [1]])
def test_figures_that_are_no_figures(tmp_path, mean):
    result = {"probe": "depth", "settings": {}, "summary": {"boosted": {"rmse": {"mean": mean, "std": 10**400}}}}
    assert "## Probe: depth" in card_of(tmp_path, results=result)


def test_facts_that_are_nested_too_deeply(tmp_path):
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for options in ({"training": {"x": deep}}, {"results": {"summary": {"boosted": {"rmse": deep}}}}):
        with pytest.raises(sb.SpatialBoostError, match="cannot be written as JSON"):
            card_of(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_a_card_that_fails_leaves_the_delta_before_it(tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in Path(card_folder(tmp_path)).iterdir()}
    monkeypatch.setattr("huggingface_hub.ModelCardData.to_yaml", lambda *_, **__: 1 / 0)
    replaced = []
    monkeypatch.setattr(os, "replace", lambda *paths: replaced.append(paths))
    with pytest.raises(ZeroDivisionError):
        card_folder(tmp_path)
    assert not replaced and {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def card_folder(folder: Path) -> Path:
    return sb.save_pretrained(sb.boost(HOSTS["timm"].make()), folder)


@pytest.mark.parametrize("form", ["file", "content", "several"])
def test_results_of_a_probe(tmp_path, form):
    path = next(p for p in probe().save(tmp_path / "probe") if p.suffix == ".json")
    results = {"file": path, "content": probe().to_dict(), "several": [path, str(path)]}[form]
    card = card_of(tmp_path / "delta", results=results)
    assert card.count("## Probe: depth") == (2 if form == "several" else 1)
    assert "| | rmse |" in card and "| base | 0.55 +- 0.071 |" in card and "| boosted | 0.45 +- 0.071 |" in card
    assert "| layer | -1 |" in card and "| resolution | 224 |" in card
    config = json.loads((tmp_path / "delta" / "config.json").read_text())
    assert config["results"][0]["summary"]["boosted"]["rmse"]["mean"] == pytest.approx(0.45)
    assert "rows" not in config["results"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [("[", "cannot be read"), ("{}", "it has no `summary`"), ('{"summary": [1]}', "no `summary`")],
)
def test_files_that_are_not_results(tmp_path, content, message):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(sb.SpatialBoostError, match=message):
        card_of(tmp_path / "delta", results=tmp_path / "result.json")
    with pytest.raises(sb.SpatialBoostError, match="cannot be read"):
        card_of(tmp_path / "delta", results=tmp_path / "nothing.json")
    assert not (tmp_path / "delta").exists()

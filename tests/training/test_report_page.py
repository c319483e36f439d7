from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import spatialboost as sb
from spatialboost.boosting import disabled
from spatialboost.encoders import open_encoder
from spatialboost.probes.token_colours import principal_colours
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms
from spatialboost.training import load_config, train
from spatialboost.training.charts import gate_chart, line_chart
from spatialboost.training.pictures import token_pictures
from training_rows import SHAPE, make_rows, write_parquet

QUICK = {"steps": 2, "batch_size": 2, "log_every": 1, "save_every": 0}
SMALL = {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 1024}}


class Page(HTMLParser):
    """Text, tags and sources of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source, self.text, self.tags, self.open = file.read_text(encoding="utf-8"), "", [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "line", "rect", "circle", "path", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.text += data


def settings(folder: Path, out: Path, teacher: dict, **stages) -> dict:
    data = {"folders": [str(folder)], "image_size": 32, "held_out": 4}
    given = {"encoder": {"name": "VisionTransformer", "kwargs": SHAPE}, "data": data, "out": str(out)}
    return {**given, "teacher": {"evaluate": 2, **teacher}, **stages}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "rooms <b>"
    plan = TurnPlan({"depth": 1, "closer": 1, "left_right": 1})
    build_dataset(Rooms(14, size=64), folder, plan=plan, with_depth=True)
    return folder


@pytest.fixture(scope="module")
def language(rooms, tmp_path_factory) -> Page:
    """The page of a whole run of the language teacher."""
    out = tmp_path_factory.mktemp("language") / "run"
    stage3 = {**QUICK, "require_answers": False, "lr": 1e-2}
    given = settings(rooms, out, {"llm": SMALL}, stage1=None, stage2=QUICK, stage3=stage3)
    train(load_config(given))
    return Page(out / "report.html")


def test_the_page_is_whole_and_needs_nothing_else(language):
    assert not language.open
    for tag, attributes in language.tags:
        assert tag not in ("script", "link", "iframe")
        assert attributes.get("src", "data:image/").startswith("data:image/") and "href" not in attributes
    addresses = re.findall(r"url\(([^)]{0,40})", language.source)
    assert addresses and all(each.startswith("data:image/jpeg;base64,") for each in addresses)
    assert "not shown, because" not in language.text


def test_every_part_is_there(language):
    for title in ("What was trained", "Curves", "Gates by layer", "Readiness before stage3", "Configuration"):
        assert title in language.text
    for title in ("Sample answers", "Depth from a linear probe", "Tokens as colours", "Answers to held-out questions"):
        assert title in language.text
    for words in (
        "moved: Attn+ (8 tensors), gates (2)",
        "learning rate",
        "share of Attn+",
        "most frequent",
        "text only",
    ):
        assert words in language.text
    assert "rooms <b>" in language.text and "rooms &lt;b&gt;" in language.source  # escaped
    assert str(Path.home()) not in language.text and "/tmp/" not in language.text


def test_what_a_question_asks_about_is_drawn(language):
    cards = re.sub(r">\s+<", "><", language.source).split('<div class="card">')[1:]
    depth = [card for card in cards if "truth</dt><dd>The depth is" in card]
    objects = [card for card in cards if "Answer: Yes" in card or "Answer: No" in card]
    closer = [card for card in cards if "truth</dt><dd>Point" in card]
    assert depth and all(card.count("<circle") == 1 for card in depth)
    assert closer and all(card.count("<circle") == 2 for card in closer)
    assert objects and all(card.count("<path") == card.count("<circle") == 2 for card in objects)


def test_the_pixel_teacher_has_a_page_and_a_picture_that_fails_costs_nothing_else(rooms, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of paint")

    monkeypatch.setattr("spatialboost.training.report_page.token_pictures", broken)
    result = train(load_config(settings(rooms, tmp_path / "run", {"kind": "pixel"}, head=QUICK, boost=QUICK)))
    page = Page(tmp_path / "run" / "report.html")
    assert "depth head" in page.text and "RMSE" in page.text and not page.open
    assert "Sample answers: not shown, because the teacher pixel answers no questions" in page.text
    assert "Tokens: not shown, because RuntimeError: out of paint" in page.text
    assert result.delta is not None and json.loads((tmp_path / "run" / "report.json").read_text())


def test_rows_without_depth_and_without_held_out_rows(tmp_path):
    folder = write_parquet(make_rows(6), tmp_path / "data")
    given = settings(folder, tmp_path / "run", {"llm": SMALL}, stage1=None, stage2=QUICK, stage3=None)
    given["data"]["held_out"] = 0
    train(load_config(given))
    page = Page(tmp_path / "run" / "report.html")
    assert "Sample answers: not shown, because the run holds no rows out" in page.text
    assert "Depth: not shown, because the encoder has no Attn+" in page.text
    assert "written by other software" in page.text


def test_several_views_are_shown_side_by_side(tmp_path):
    rows = make_rows(6)
    for row in rows:
        row["images"] = row["images"] * 2
        row["messages"][0]["content"] = "<image>\n" + row["messages"][0]["content"]
    folder = write_parquet(rows, tmp_path / "data")
    stage3 = {**QUICK, "require_answers": False, "train_projector": True}
    train(load_config(settings(folder, tmp_path / "run", {"llm": SMALL}, stage1=None, stage2=QUICK, stage3=stage3)))
    page = Page(tmp_path / "run" / "report.html")
    assert "Depth: not shown, because the rows have no depth maps" in page.text
    assert all(card.count('class="view photo-') == 2 for card in page.source.split('<div class="card many">')[1:])
    assert '<div class="card many">' in page.source


def test_colours_are_the_principal_components_of_scikit_learn():
    tokens = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 3, 1, 1, 1])
    colours = principal_colours(tokens).view(-1, 3).numpy()
    expected = PCA(3).fit_transform(tokens.view(-1, 6).numpy())
    inside = (colours > 0) & (colours < 1)  # the last percent is clipped
    for axis in range(3):
        chosen = inside[:, axis]
        assert abs(np.corrcoef(colours[chosen, axis], expected[chosen, axis])[0, 1]) > 0.99999


def test_tokens_are_shown_in_one_colour_space(rooms):
    from spatialboost.scenes.dataset.reader import open_rows

    encoder = sb.boost(open_encoder({"name": "VisionTransformer", "kwargs": SHAPE}, seed=0))
    rows = open_rows([rooms]).select_columns(["images"])
    same = token_pictures(encoder, rows, range(4), image_size=32, layer=-1)
    assert all(each.base == each.boosted and each.mean_change < 1e-6 for each in same)
    for name, parameter in sb.named_parameters(encoder):
        if "gate" not in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    changed = token_pictures(encoder, rows, range(4), image_size=32, layer=-1)
    assert all(each.base != each.boosted and each.mean_change > 0.01 for each in changed)
    with disabled(encoder):
        assert token_pictures(encoder, rows, range(4), image_size=32, layer=-1)[0].mean_change == 0


def test_charts_bear_what_a_log_may_hold():
    assert line_chart("loss", {"loss": []}) is None and line_chart("loss", {"loss": [(1, float("nan"))]}) is None
    one = line_chart("loss", {"loss": [(5, 0.0)]}, log=True)
    assert one["curves"][0]["dots"] and all(np.isfinite(y) for y, _ in one["y_ticks"])
    many = line_chart("loss", {"loss": [(i, 1 + i) for i in range(10_000)]})
    points = many["curves"][0]["points"].split()
    assert len(points) == 400 and points[0].startswith("0.0,") and points[-1].startswith(f"{many['width']}.0,")
    assert gate_chart([]) is None
    (layer,) = gate_chart([{"layer": 3, "mean": 0.4, "min": 0.3, "max": 0.5}])["layers"]
    assert layer["share"] == pytest.approx(0.6) and layer["high"] < layer["mean"] < layer["low"]

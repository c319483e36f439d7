from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spatialboost import cli
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.report_page import write_report
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'x'"


def result(probe: str, gain: float, *, names: tuple[str, ...] = ("base", "boosted"), higher: bool = False, **settings):
    rows = [
        ProbeRow(
            name, seed, {"score": 0.5 + gain * (name == "boosted") + seed / 100},
            per_view=[0.4 + item / 50 + gain * (name == "boosted") for item in range(8)],
        )
        for name in names for seed in (0, 1)
    ]  # fmt: skip
    metrics = {"score": Metric("score", "m", higher_is_better=higher)}
    about = {"encoders": {name: {"layer": 1} for name in names}, "data": "rooms:8", "left out": ["a", "b"], **settings}
    return ProbeResult(probe, about, metrics, [*rows, ProbeRow("chance", None, {"score": 0.9})])


class Page(HTMLParser):
    """The cells of the first table, and every tag and attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict]] = []
        self.tables = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append((tag, dict(attributes)))
        self.tables += tag == "table"
        if self.tables == 1 and tag == "tr":
            self.rows.append([])
        if self.tables == 1 and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data) -> None:
        if self.tables == 1 and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result("depth", -0.1).save(tmp_path / "one")
    result("knn", 0.0, higher=True).save(tmp_path / "one")
    result("depth", 0.05, data=HOSTILE).save(tmp_path / "two")
    result("linear", 0.0, names=("mine",)).save(tmp_path / "two")
    (tmp_path / "one" / "config.json").write_text('{"base": 1}')
    (tmp_path / "broken.json").write_text("{")
    return tmp_path


def test_one_row_for_each_result_and_its_pictures(folder: Path) -> None:
    page = write_report([folder], folder / "out" / "report.html")
    text = page.file.read_text(encoding="utf-8")
    shown = Page(text)
    assert page.results == 4 and len(page.passed_over) == 2 and text.count("data:image/png;base64,") == 4
    rows = {row[0]: [cell.strip() for cell in row] for row in shown.rows[1:]}
    depth = rows["depth, one"]
    assert depth[3:6] == ["0.505 +- 0.007", "0.405 +- 0.007", "-0.100 +- 0.000 (-19.8 %)"]
    assert (
        depth[6].split() == ["-0.100", "(-0.100", "to", "-0.100)"] and depth[7] == "0.008" and depth[8] == "100 % of 8"
    )
    assert rows["depth, two"][8] == "0 % of 8" and rows["knn"][8] == "50 % of 8"
    assert "mine 0.505" in rows["linear"][-1] and "chance 0.900" in rows["linear"][-1]
    coloured = [attributes.get("class", "") for tag, attributes in shown.tags if tag == "td"]
    assert sum("better" in each for each in coloured) == 1 and sum("worse" in each for each in coloured) == 1


def test_nothing_of_a_file_is_live_and_nothing_is_loaded(folder: Path) -> None:
    text = write_report([folder], folder / "report.html").file.read_text(encoding="utf-8")
    tags = Page(text).tags
    assert not any(tag in ("script", "link", "iframe") for tag, _ in tags)
    addresses = [attributes[key] for _, attributes in tags for key in ("src", "href") if key in attributes]
    assert addresses and all(each.startswith(("data:", "#")) for each in addresses)
    assert "&lt;script&gt;" in text and HOSTILE not in text


def test_files_of_other_versions_are_passed_over_and_named(folder: Path) -> None:
    content = json.loads((folder / "one" / "knn.json").read_text())
    for key in ("metrics", "paired", "gain"):
        (folder / "one" / f"no-{key}.json").write_text(json.dumps({k: v for k, v in content.items() if k != key}))
    page = write_report([folder], folder / "report.html")
    assert page.results == 4 and sum("another version" in why for why in page.passed_over) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "cannot be read"),
        (lambda folder: folder / "broken.json", "cannot be read"),
        (lambda folder: folder / "one" / "config.json", "no `summary`"),
        (lambda folder: folder / "empty", "no result of a probe"),
    ],
)
def test_sources_that_are_none(folder: Path, make, message: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(SpatialBoostError, match=message):
        write_report([make(folder)], folder / "report.html")
    assert not (folder / "report.html").exists()


def test_from_the_command_line(folder: Path, monkeypatch, capsys) -> None:
    words = ["spatialboost", "probe", "report", str(folder / "one"), str(folder / "two" / "depth.json"), "--out"]
    monkeypatch.setattr(sys, "argv", [*words, str(folder / "page.html")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0 and "results: 3, other JSON files passed over: 1" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["spatialboost", "probe", "reports", "x"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "Did you mean 'report'" in capsys.readouterr().err

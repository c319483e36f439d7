from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.data_command import app
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.stats import measure_dataset, write_stats
from spatialboost.scenes.dataset.writer import build_dataset
from tiny_cues import tiny_cues

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stats") / "data"
    without = replace(tiny_cues(), objects=())
    views = [tiny_cues() if number % 3 else without for number in range(30)]
    build_dataset(views, folder, progress=False, rows_per_shard=16)
    return folder


def test_everything_is_counted(folder):
    stats = measure_dataset(folder)
    metas = [json.loads(meta) for meta in open_rows([folder])["meta"]]
    assert stats.rows == len(metas) == 30
    assert stats.turns == Counter(len(meta["turns"]) for meta in metas)
    assert stats.views == {1: 30}
    verdicts = [turn["verdict"] for meta in metas for turn in meta["turns"] if turn["kind"] == "left_right"]
    assert stats.kinds["left_right"].answers == {"Yes": sum(verdicts), "No": len(verdicts) - sum(verdicts)}
    depths = [turn["depths"][0] for meta in metas for turn in meta["turns"] if turn["kind"] == "depth"]
    assert stats.kinds["depth"].lengths == pytest.approx(depths, abs=0.0006)
    assert stats.left_out["left_right"] == 10
    assert stats.kinds["depth"].turns == len(depths)


def test_the_page_and_the_numbers_are_written(folder, tmp_path):
    result = CliRunner().invoke(app, ["stats", str(folder), "--out", str(tmp_path / "new" / "page.html")])
    assert result.exit_code == 0, result.output
    assert "left_right" in result.output
    text = (tmp_path / "new" / "page.html").read_text()
    assert text.count("data:image/png") == 3  # depths, distances, turns and views
    assert not re.search(r"url\(|@import|https?://", text)
    numbers = json.loads((tmp_path / "new" / "page.json").read_text())
    assert numbers["rows"] == 30
    assert set(numbers["kinds"]["depth"]["lengths"]) == {"5 %", "25 %", "50 %", "75 %", "95 %"}


def test_foreign_rows_are_counted_not_believed(tmp_path):
    import pyarrow as pa

    view = replace(tiny_cues(), source="<b>[bold]")
    build_dataset([view] * 3, tmp_path, progress=False)
    (path,) = tmp_path.glob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["meta"], rows[1]["meta"] = "[" * 9000, json.dumps({"turns": [{"kind": "<i>"}], "images": 1})
    rows[1]["messages"] = [
        {"role": "user", "content": "<image>\n<i>?"},
        {"role": "assistant", "content": "<script>alert(1)</script>\x1b[31m"},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    stats = write_stats(tmp_path, tmp_path / "page.html")
    assert (stats.rows, stats.unreadable) == (3, 1)
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "<i>" not in text
    result = CliRunner().invoke(app, ["stats", str(tmp_path)])
    assert "\x1b[31m" not in result.output


def test_mistakes_say_what_to_do(folder, tmp_path):
    with pytest.raises(SpatialBoostError, match="no parquet files"):
        write_stats(tmp_path, tmp_path / "page.html")
    with pytest.raises(SpatialBoostError, match="expected the name of an HTML file"):
        write_stats(folder, tmp_path)

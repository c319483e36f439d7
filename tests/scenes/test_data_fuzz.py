"""Wrong options, damaged files and odd rows of the data commands: one line that says what to do, never a traceback."""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spatialboost import cli
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.viewer import write_page
from spatialboost.scenes.dataset.writer import build_dataset
from tiny_cues import tiny_cues

VIEWS = [tiny_cues((96, 128))] * 2
NUMBERS = ["", "-1", "0", "9" * 30, "1e9", "nan", "inf", "x[/b]", "[bold]1", "\x1b[31m1", "é", "a\nb", "~", "½"]
WORDS = ["", "x[/b]", "[/]", "\x1b[31m", "a\nb", "é" * 300, "*", "rooms ", "\ud800"]
OPTIONS = {
    "--num": NUMBERS,
    "--first-room": [value for value in NUMBERS if value != "0"],
    "--views": [*NUMBERS, "2:1,4", "2:", ":1", "2:0", "2:1,2:1"],
    "--stride": NUMBERS,
    "--seed": [value for value in NUMBERS if value != "0"],
    "--least": NUMBERS,
    "--rows-per-file": NUMBERS,
    "--size": [*NUMBERS, "0x0", "1x1x1", "99999999x1", "1x99999999", "16384x16384", "224X224", "٣"],
    "--shard": [*NUMBERS, "1/1", "-1/2", "0/0", "1/0", "0/-1", "0/1/2", "nan/inf"],
    "--turn": [*WORDS, "depth", "depth=", "=1", "depth=-1", "depth=nan", "depth=1=2", "depth=999999999", "depth=0"],
    "--points": [
        *WORDS,
        "cells",
        "cells:",
        "cells:4",
        "cells:0x4",
        "cells:4x51",
        "cells:9999x9999",
        "4x4",
        "cells:4X4",
    ],
    "--order": WORDS,
    "--source": [*WORDS, "rgbd", "room"],
    "--extract": [*WORDS, "superpixel"],
    "--path": [*WORDS, "/nowhere"],
    "--depth-scale": NUMBERS,
    "--max-depth": NUMBERS,
    "--intrinsics": [*NUMBERS, "1 2 3", "0 0 0 0"],
    "--pose-type": WORDS,
    "--pose-scale": NUMBERS,
    "--up": [*NUMBERS, "0 0 0", "1 2", "nan 0 0"],
    "--fit": WORDS,
    "--poses": WORDS,
    "--associations": WORDS,
    "--images": WORDS,
    "--depths": WORDS,
    "--choose": [*WORDS, "overlap:", "overlap:low=2", "lpips:weights=/nowhere", "lpips:net=x", "overlap", "lpips"],
}


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command as the shell does: exit code and what it says on stderr."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["spatialboost", "data", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


@pytest.mark.parametrize("option", OPTIONS)
def test_wrong_options(tmp_path, command, option):
    for value in OPTIONS[option]:
        code, said = command("build", "--out", tmp_path / "data", "--num", 1, "--size", 16, option, value)
        assert code == 2 and said.strip(), (option, value)
        assert said.startswith("error: ") <= (said.count("\n") == 1), said
        assert not (tmp_path / "data").exists(), (option, value)


@pytest.mark.parametrize("name", ["x[/b]", "[bold]", "a*", "é", "a\nb", "\x1b[31mred", "%s{}", "$HOME", "😀", "-"])
def test_odd_names_are_names(tmp_path, command, name):
    words = ("--num", 2, "--size", 32, "--turn", "depth=1")
    assert command("build", "--out", tmp_path / name, *words)[0] == 0
    assert command("show", tmp_path / name, "--out", tmp_path / f"{name}.html")[0] == 0
    assert (tmp_path / name / "part-00000.parquet").is_file() and (tmp_path / f"{name}.html").is_file()


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "x[/b]", "9" * 30])
def test_wrong_places_of_a_page(tmp_path, command, limit):
    build_dataset(VIEWS, tmp_path / "data", progress=False)
    before = (tmp_path / "data" / "part-00000.parquet").read_bytes()
    for words in (
        (tmp_path / "nowhere",),
        (tmp_path / "data" / "part-00000.parquet",),
        (tmp_path / "data", "--out", tmp_path / "data"),
        (tmp_path / "data", "--out", tmp_path / "data" / "part-00000.parquet"),
        (tmp_path / "data", "--out", tmp_path / "data" / "part-00000.parquet" / "page.html"),
        *([(tmp_path / "data", "--limit", limit)] if limit != "9" * 30 else []),
        (tmp_path / "data", "--out", tmp_path / ("x" * 300)),
    ):
        code, said = command("show", *words)
        assert code == 2 and said.strip(), words
        assert said.startswith("error: ") <= (said.count("\n") == 1), said
    assert (tmp_path / "data" / "part-00000.parquet").read_bytes() == before


def test_a_full_disk(tmp_path, command):
    words = ("build", "--out", tmp_path / "data", "--num", 2, "--size", 64, "--turn", "depth=1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step in (words, ("show", tmp_path / "data", "--out", tmp_path / "new" / "page.html")):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # the system refuses to write more
        try:
            code, said = command(*step)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert code == 2 and said.splitlines()[-1].startswith("error: ") and "too large" in said.lower()
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".parquet"]
        command(*words)
        (tmp_path / "data" / "manifest.json").unlink()


# --- files


def use(folder: Path) -> dict[str, str]:
    """What each user of a data set says of a folder; every exception of another kind is raised."""
    said = {}
    try:
        page = write_page(folder, folder.parent / "page.html")
        said["show"] = "; ".join(page.left_out.values())
    except SpatialBoostError as error:
        said["show"] = str(error)
    try:
        rows = open_rows([folder])
        for index in range(min(len(rows), 4)):
            try:
                rows[index]
            except SpatialBoostError as error:
                said["rows"] = str(error)
    except SpatialBoostError as error:
        said["rows"] = str(error)
    try:
        build_dataset(VIEWS, folder, with_depth=True, progress=False)
    except SpatialBoostError as error:
        said["build"] = str(error)
    assert not any("\n" in text for text in said.values()), said
    return said


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pa.Table:
    out = tmp_path_factory.mktemp("good")
    build_dataset(VIEWS, out, with_depth=True, progress=False)
    return pq.read_table(out / "part-00000.parquet")


def test_damaged_files(tmp_path):
    build_dataset(VIEWS, tmp_path, with_depth=True, progress=False)
    path = tmp_path / "part-00000.parquet"
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    refused = 0
    for seed in range(150):
        rng = random.Random(seed)
        damaged = bytearray(content)
        first = 0 if seed % 3 == 0 else len(damaged) - 8 - footer  # the footer is where most can go wrong
        for _ in range(rng.choice((1, 2, 20))):
            damaged[rng.randrange(first, len(damaged))] = rng.randrange(256)
        if seed % 10 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        refused += any(use(tmp_path).values())
    assert refused > 100


def test_damage_of_one_bit_in_an_image_is_noticed(tmp_path):
    build_dataset(VIEWS, tmp_path, progress=False)
    path = tmp_path / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(SpatialBoostError, match="its row group 0 cannot be read"):
        open_rows([tmp_path])[0]


def odd_tables(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Tables that are valid parquet, and not what a build writes."""
    arrays: list[Any] = [
        [1, 2], ["a", "b"], [None, None], [["a"], ["b"]], [[{"a": 1}]] * 2, [{"a": 1}] * 2, [[], []], [b"\xff"] * 2,
        [[{"bytes": 1, "role": 1, "content": 2}]] * 2,
    ]  # fmt: skip
    for name in table.schema.names:
        for array in arrays:
            changed = table.set_column(table.schema.get_field_index(name), name, pa.array(array))
            yield f"{name} of {array}", changed.replace_schema_metadata(table.schema.metadata)
        yield f"without {name}", table.drop_columns([name])
        yield f"{name} twice", table.append_column(name, table.column(name))
    yield "no columns", table.select([])
    key, facts = b"spatialboost", json.loads(table.schema.metadata[b"spatialboost"])
    texts = [b"", b"x", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000]
    wrong = [None, -1, "x", [], {}, 1e400, True, 10**400]
    texts += [json.dumps({**facts, name: value}).encode() for name in ("version", "skipped", "plan") for value in wrong]
    for text in texts:
        yield f"facts {text[:40]!r}", table.replace_schema_metadata({**table.schema.metadata, key: text})


def test_odd_files(tmp_path, table):
    for name, odd in odd_tables(table):
        pq.write_table(odd, tmp_path / "part-00000.parquet")
        use(tmp_path)  # raises what is not an error of ours
        assert name
    pq.write_table(table.slice(0, 0), tmp_path / "part-00000.parquet")
    use(tmp_path)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> list[dict[str, Any]]:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return [{"bytes": stream.getvalue(), "path": None}]


def odd_values(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Values that one row may have in a file of the right types."""
    images = [
        None, [], [None], [{"bytes": None, "path": "x.png"}], [{"bytes": b"text", "path": None}], row["images"] * 2,
        encoded(np.full((4, 4), 70, np.uint16)), encoded(np.ones((4, 4), np.float32), "TIFF"),
    ]  # fmt: skip
    yield from ({name: value} for name in ("images", "depths", "labels") for value in images)
    talks = [None, [], [None], [{"role": None, "content": None}] * 24, row["messages"][:1], row["messages"][::-1]]
    yield from ({"messages": value} for value in talks)
    yield from ({"meta": text} for text in ("", "[]", "null", "{", "1", "{}", "[" * 100_000, '{"turns": NaN}', None))
    meta = json.loads(row["meta"])
    wrong = [None, 5, "x", [], {}, [None], float("nan"), 10**400, "\ud800", "<script>"]
    for key in meta:
        yield from ({"meta": json.dumps({**meta, key: value})} for value in wrong)
        yield {"meta": json.dumps({name: value for name, value in meta.items() if name != key})}
    for part in ("turns", "objects"):
        for key in meta[part][0]:
            for value in wrong:
                yield {"meta": json.dumps({**meta, part: [{**meta[part][0], key: value}, *meta[part][1:]]})}


def test_odd_rows_cost_no_other(tmp_path, table):
    first, second = table.to_pylist()
    odd = list(odd_values(first))
    rows = [{**first, **values} for values in odd] + [second]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "data" / "part-00000.parquet")
    page = write_page(tmp_path / "data", tmp_path / "page.html", limit=len(rows))
    assert page.shown + len(page.left_out) == len(rows) == page.rows
    assert page.shown > 0 and len(page.left_out) > 20 and f"row {len(rows) - 1}" not in " ".join(page.left_out)
    assert all(
        name.startswith("part-00000.parquet, row ") and why and "\n" not in why for name, why in page.left_out.items()
    )
    text = page.path.read_text()
    assert text.endswith("</html>\n") or text.endswith("</html>")
    assert text.count("<script>") == 1 and f"{len(page.left_out)} rows cannot be shown" in text

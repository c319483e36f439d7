from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.data_command import app
from spatialboost.scenes.dataset.schema import dataset_facts
from spatialboost.scenes.recipe import ExtractorSpec, Recipe
from spatialboost.scenes.source_registry import SourceOptions


def build(*words: object):
    return CliRunner().invoke(app, ["build", *map(str, words)])


def message(result) -> str:
    return " ".join((str(result.exception) + result.output).split())


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("depth", {}),
        ("depth:model=owner/name,device=cuda:0,half=true", {"model": "owner/name", "device": "cuda:0", "half": True}),
        ("clip:prompts=[a chair, a table],least=2", {"prompts": ["a chair", "a table"], "least": 2}),
        ('clip:{"prompts": ["a, b=c"], "threshold": 0.25}', {"prompts": ["a, b=c"], "threshold": 0.25}),
        ("depth:model=/models/a=b, c", {"model": "/models/a=b, c"}),
        ("depth:revision=", {"revision": None}),
    ],
)
def test_extractors_with_options_are_read(text, options):
    assert ExtractorSpec.parse(text) == ExtractorSpec(text.partition(":")[0], options)


@pytest.mark.parametrize("text", ["depth:model", "depth:=x", "depth:a=1,a=2", "depth:{a}", "depth:[1]"])
def test_options_in_another_form_are_refused(text):
    with pytest.raises(SpatialBoostError, match="--extract"):
        ExtractorSpec.parse(text)


def test_a_file_has_the_options_and_the_command_line_counts_more(tmp_path):
    (tmp_path / "here").mkdir()
    file = tmp_path / "here" / "build [1].yaml"
    file.write_text(
        "out: rooms\nsource: rooms\nnum: 5\nsize: 48x64\nturn: {depth: 2, left_right: 1}\nrows-per-file: 2\n"
        "extract: [{name: superpixels, max_objects: 4}]\ncache: ./cache\nseed:\ndepth: false\n"
    )
    result = build("--config", file, "--num", 3)
    assert result.exit_code == 0, message(result)
    facts = dataset_facts(tmp_path / "here" / "rooms" / "part-00000.parquet")
    assert facts["items"] == 3  # of the command line
    assert facts["source"] == "rooms 0-2 (48, 64) px with up to 4 proposals"
    assert (facts["plan"]["turns"], facts["rows_per_shard"]) == ({"depth": 2, "left_right": 1}, 2)
    assert (facts["seed"], facts["with_depth"]) == (0, False)
    assert list((tmp_path / "here" / "cache").rglob("*.npz"))
    manifest = json.loads((tmp_path / "here" / "rooms" / "manifest.json").read_text())
    assert manifest["provenance"] == [{"extractor": "up to 4 proposals"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sorce: rooms", "unknown key 'sorce'.*Did you mean 'source'"),
        ("num: 2\nnum: 3", "'num' is given twice"),
        ("rows-per-file: 2\nrows_per_file: 3", "given twice"),
        ("- rooms", "expected keys"),
        ("", "expected keys"),
        ("num: [1, 2]", "expected one value"),
        ("num: many", "valid integer"),
        ("extract: [{max_objects: 3}]", "expected a name"),
        ("extract: [{name: superpixels, max_object: 3}]", "no option 'max_object'"),
        ("extract: superpixel", "Did you mean 'superpixels'"),
        ("turn: {depth: many}", "expected KIND=COUNT"),
        ("a: &a [*a]", "nested too deep"),
        ("config: other.yaml", "unknown key"),
        ("num: 2024-13-45", "num|YAML"),
    ],
)
def test_wrong_files_are_refused_before_anything_is_written(tmp_path, text, expected):
    import re

    file = tmp_path / "build.yaml"
    file.write_text(text)
    result = build("--config", file, "--out", tmp_path / "out")
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit | SpatialBoostError), repr(result.exception)
    assert re.search(expected, message(result))
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path):
    assert "cannot read" in message(build("--config", tmp_path / "none.yaml", "--out", tmp_path / "out"))


def test_a_recipe_opens_the_same_items_again():
    recipe = Recipe("rooms", SourceOptions(num=2, size=32), (ExtractorSpec("superpixels", {"max_objects": 2}),))
    first, second = recipe(), recipe()
    assert first.name == second.name == "rooms 0-1 32 px with up to 2 proposals"
    assert (first[1].image_HW3 == second[1].image_HW3).all()

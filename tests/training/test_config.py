from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from spatialboost.errors import SpatialBoostError
from spatialboost.training.config import load_config

GOOD = {"encoder": {"name": "vit_tiny_patch16_224"}, "data": {"folders": ["rooms"]}, "out": "run"}

# what is changed -> what the error says
BAD = {
    "typo": ({"sede": 1}, r'unknown key "sede"; known here: encoder, llm, data, stage1, .*, out$'),
    "typo in a section": ({"stage1": {"lrr": 1}}, r'unknown key "stage1.lrr"; known here: steps, .*warmup'),
    "typo in the encoder": (
        {"encoder": {"name": "x", "patch": 1}},
        'unknown key "encoder.patch"; known here: name, library',
    ),
    "type": ({"stage3": {"steps": "many"}}, "key \"stage3.steps\": .*integer.*found 'many'"),
    "range": ({"stage2": {"lr": -1}}, r'key "stage2.lr": .*greater than 0, found -1'),
    "missing": ({"data": {}}, r'key "data.folders" is missing'),
    "choice": ({"encoder": {"name": "x", "library": "keras"}}, "unknown encoder library 'keras'; known are hf, .*timm"),
    "nothing to do": ({"stage1": None, "stage2": None, "stage3": None}, "nothing to train"),
    "two": ({"a": 1, "b": 2}, r'"a".*\(and 1 more\)'),
}


def test_defaults_are_those_of_llava():
    config = load_config(GOOD)
    assert (config.stage1.lr, config.stage2.lr, config.stage1.warmup, config.stage1.weight_decay) == (
        1e-3,
        2e-5,
        0.03,
        0,
    )
    assert config.llm.name == "smollm2" and not config.stage3.train_projector


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line(case):
    change, expected = BAD[case]
    with pytest.raises(SpatialBoostError, match=expected) as caught:
        load_config({**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_reads_yaml_and_names_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("encoder: {name: x}\ndata: {folders: [rooms]}\nout: run\nstage1: null\nstage3: {lr: 3.0e-4}\n")
    config = load_config(file)
    assert config.stage1 is None and config.stage3.lr == 3e-4
    for text, expected in {
        "a: [": "is not YAML",
        "- a": "holds list; expected keys",
        "seed: 1": '"encoder" is missing',
    }.items():
        file.write_text(text)
        with pytest.raises(SpatialBoostError, match=f"run.yaml.*{expected}"):
            load_config(file)
    with pytest.raises(SpatialBoostError, match=r"cannot read .*none.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_the_documented_configuration_is_one():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    config = load_config(yaml.safe_load(text))
    assert config.stage3.bf16 and config.stage1.turns == ["caption"] and config.data.held_out == 64

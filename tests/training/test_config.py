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
    "typo": ({"sede": 1}, r'unknown key "sede"; known here: encoder, data, teacher, layer, .*, out, stage1, .*stage3$'),
    "typo in a section": ({"stage1": {"lrr": 1}}, r'unknown key "stage1.lrr"; known here: .*steps, .*warmup'),
    "typo in the encoder": (
        {"encoder": {"name": "x", "patch": 1}},
        'unknown key "encoder.patch"; known here: name, library',
    ),
    "typo in the teacher": (
        {"teacher": {"lm": {}}},
        'unknown key "teacher.lm"; known here: kind, evaluate, llm, places, projector_start, standardise, max_length',
    ),
    "typo in the teacher's language model": (
        {"teacher": {"llm": {"nam": "x"}}},
        r'"teacher.llm.nam"; known here: name',
    ),
    "teacher": ({"teacher": {"kind": "langage"}}, "unknown teacher 'langage'; known are .*Did you mean 'language'"),
    "teacher without a name": (
        {"teacher": "language"},
        "key \"teacher\": expected keys such as kind, found 'language'",
    ),
    "stage of another teacher": ({"teacher": {"kind": "pixel"}, "stage1": {}}, 'unknown key "stage1"; .*head, boost'),
    "type": ({"stage3": {"steps": "many"}}, "key \"stage3.steps\": .*integer.*found 'many'"),
    "range": ({"stage2": {"lr": -1}}, r'key "stage2.lr": .*greater than 0, found -1'),
    "missing": ({"data": {}}, r'key "data.folders" is missing'),
    "choice": ({"encoder": {"name": "x", "library": "keras"}}, "unknown encoder library 'keras'; known are hf, .*timm"),
    "nothing to do": (
        {"stage1": None, "stage2": None, "stage3": None},
        r"all stages \(stage1, stage2, stage3\) are null, so there is nothing to train",
    ),
    "two": ({"a": 1, "b": 2}, r'"a".*\(and 1 more\)'),
    # Keys of earlier versions
    "moved language model": ({"llm": {"name": "small"}}, 'key "llm" has moved to "teacher.llm"'),
    "moved places": ({"places": True}, 'key "places" has moved to "teacher.places"'),
    "moved evaluate": ({"evaluate": 0}, 'key "evaluate" has moved to "teacher.evaluate"'),
    "moved length": (
        {"data": {"folders": ["x"], "max_length": 9}},
        'key "data.max_length" has moved to "teacher.max_len',
    ),
}


def test_defaults_are_those_of_llava():
    config = load_config(GOOD)
    first, second, third = config.stage1, config.stage2, config.stage3
    assert (first.lr, second.lr, first.warmup, first.weight_decay) == (1e-3, 2e-5, 0.03, 0)
    assert config.teacher.llm.name == "smollm2" and not third.train_projector


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line(case):
    change, expected = BAD[case]
    with pytest.raises(SpatialBoostError, match=expected) as caught:
        load_config({**GOOD, **change})
    assert "\n" not in str(caught.value)


def test_the_keys_of_the_teacher_go_with_its_kind():
    config = load_config({**GOOD, "teacher": {"kind": "pixel", "targets": ["segmentation"]}, "head": {"steps": 3}})
    assert list(config.stages) == ["head", "boost"] and config.head.steps == 3 and config.head.lr == 1e-3
    assert config.teacher.targets == ["segmentation"] and not hasattr(config, "stage1")
    assert list(load_config({**GOOD, "stage1": None}).stages) == ["stage2", "stage3"]


def test_reads_yaml_and_names_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("encoder: {name: x}\ndata: {folders: [rooms]}\nout: run\nstage1: null\nstage3: {lr: 3.0e-4}\n")
    config = load_config(file)
    assert config.stage1 is None and config.stage3.lr == 3e-4
    for text, expected in {
        "a: [": "is not YAML",
        "- a": "contains list; expected keys",
        "seed: 1": '"encoder" is missing',
    }.items():
        file.write_text(text)
        with pytest.raises(SpatialBoostError, match=f"run.yaml.*{expected}"):
            load_config(file)
    with pytest.raises(SpatialBoostError, match=r"cannot read .*none.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_the_documented_configurations_are_some():
    page = (Path(__file__).parents[2] / "docs" / "training-reference.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    config = load_config(yaml.safe_load(text))
    assert config.stage3.bf16 and config.stage1.turns == ["caption"] and config.data.held_out == 64
    (text,) = re.findall(r"^```yml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    config = load_config({**GOOD, **yaml.safe_load(text)})
    assert config.teacher.targets == ["depth", "segmentation"] and config.boost.head_lr == 1e-3


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("stage3.lr=1e-4", lambda config: config.stage3.lr == 1e-4),
        ("stage3.turns=[depth, closer]", lambda config: config.stage3.turns == ["depth", "closer"]),
        ("stage1=null", lambda config: "stage1" not in config.stages),
        ("teacher.llm.name=small", lambda config: config.teacher.llm.name == "small"),
        ("data.image_size=[96, 128]", lambda config: config.data.image_size == (96, 128)),
        ("encoder.kwargs.img_size=96", lambda config: config.encoder.kwargs == {"img_size": 96}),
        ("encoder=timm:vit_small_patch16_224", lambda config: config.encoder.name == "vit_small_patch16_224"),
        ("seed = 7", lambda config: config.seed == 7),
    ],
)
@pytest.mark.parametrize("encoder", [{"name": "vit_tiny_patch16_224"}, "timm:vit_tiny_patch16_224"])
def test_values_are_replaced_on_the_command_line(override, read, encoder):
    given = {**GOOD, "encoder": encoder, "stage3": {"steps": 3}}
    config = load_config(given, [override])
    assert read(config)
    assert given == {**GOOD, "encoder": encoder, "stage3": {"steps": 3}}  # as it was
    assert config.stage3.steps == 3


LANGUAGE = {
    **GOOD,
    "teacher": {"llm": {"name": "small"}, "places": True, "evaluate": 7},
    "stage1": None,
    "stage2": {"lr": 1e-5},
    "stage3": {"lr": 3e-4, "steps": 9, "gate": "scalar", "turns": ["depth"], "train_projector": True},
}


@pytest.mark.parametrize("first", [0, 1])
def test_another_teacher_is_one_key_and_has_the_same_data_encoder_and_stage_that_boosts(first, caplog):
    overrides = ["boost.head_lr=1e-2", "teacher.targets=[depth, segmentation]"]
    overrides.insert(first, "teacher.kind=pixel")
    with caplog.at_level("INFO", "spatialboost"):
        config = load_config(LANGUAGE, overrides)
    assert (
        config.teacher.kind == "pixel"
        and config.teacher.evaluate == 7
        and config.encoder.name == "vit_tiny_patch16_224"
    )
    assert config.teacher.targets == ["depth", "segmentation"] and list(config.stages) == ["head", "boost"]
    assert (config.boost.lr, config.boost.steps, config.boost.gate, config.boost.head_lr) == (3e-4, 9, "scalar", 1e-2)
    assert "no use for teacher.llm, teacher.places, stage1, stage2, stage3.turns, stage3.train_projector" in caplog.text
    assert list(load_config(LANGUAGE, ["teacher.kind=language"]).stages) == ["stage2", "stage3"]  # no change
    back = {**GOOD, "teacher": {"kind": "pixel", "targets": ["depth"]}, "boost": None, "head": {"steps": 3}}
    assert list(load_config(back, ["teacher.kind=language"]).stages) == ["stage1", "stage2"]
    with pytest.raises(SpatialBoostError, match=r"unknown teacher 'pixl'.*Did you mean 'pixel'"):
        load_config(LANGUAGE, ["teacher.kind=pixl"])
    with pytest.raises(SpatialBoostError, match=r'unknown key "teacher\.places"'):  # the file itself stays strict
        load_config({**LANGUAGE, "teacher": {"kind": "pixel", "places": True}})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stage3.lr", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("stage3..lr=3", "expected KEY=VALUE"),
        ("stage3.lrr=3", 'unknown key "stage3.lrr"'),
        ("stage3.lr=fast", 'key "stage3.lr"'),
        ("seed.first=3", "seed is 5, which has no keys"),
        ("stage3.lr=.inf", 'key "stage3.lr"'),
        ("data=null", 'section "data" is empty'),
    ],
)
def test_wrong_replacements_are_one_line(override, expected):
    with pytest.raises(SpatialBoostError, match=re.escape(expected)) as caught:
        load_config({**GOOD, "seed": 5}, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["encoder", "data", "teacher"])
def test_empty_sections_and_keys_given_twice_are_refused(tmp_path, section):
    with pytest.raises(SpatialBoostError, match=f'section "{section}" is empty'):
        load_config({**GOOD, section: None})
    file = tmp_path / "run.yaml"
    file.write_text("out: a\nout: b\n")
    with pytest.raises(SpatialBoostError, match="'out' is given twice"):
        load_config(file)

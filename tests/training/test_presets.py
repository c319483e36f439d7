"""The presets load as they are; a small version of each of the paper's trains, with the classes of the real models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipModel,
)

import spatialboost as sb
from spatialboost.errors import SpatialBoostError
from spatialboost.training.config import load_config
from spatialboost.training.presets import FOLDER, preset_names, read_preset
from spatialboost.training.run import train
from spatialboost.vlm.llms import build_tokenizer
from training_rows import make_rows, write_parquet

PAPER = [name for name in preset_names() if name.startswith("paper/")]
PAGE = Path(__file__).parents[2] / "docs" / "paper.md"
LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: (?P<value>[^#]*?))?(?:  # (?P<mark>.*))?$")


@pytest.mark.parametrize("name", preset_names())
def test_each_preset_loads_as_it_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    stages = {"correspondence": ["boost"], "language-correspondence": ["stage1", "match"], "field": ["field", "boost"]}
    assert list(config.stages) == stages.get(config.teacher.kind, ["stage1", "stage2", "stage3"])
    assert config.out.is_relative_to(tmp_path) and config.data.folders[0].is_relative_to(tmp_path)
    assert re.fullmatch(r"[\w.-]+(/[\w.-]+)?", config.encoder.name)
    if config.teacher.kind == "language":
        llm = config.teacher.llm.name
        assert re.fullmatch(r"\w+/[\w.-]+", llm) or (name == "demo" and (Path(llm) / "config.json").is_file())
    if config.encoder.library == "timm" and config.encoder.pretrained:
        import timm

        assert timm.get_pretrained_cfg(config.encoder.name, allow_unregistered=False).license == "apache-2.0"


def test_paths_of_overrides_start_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["data.folders=[rooms, more]", "out=runs/x", "teacher.earlier_run=runs/a", "encoder.weights=w.safetensors"]
    config = load_config("demo", given)
    assert config.data.folders == [tmp_path / "rooms", tmp_path / "more"] and config.out == tmp_path / "runs" / "x"
    assert config.teacher.earlier_run == tmp_path / "runs" / "a"
    assert config.encoder.weights == tmp_path / "w.safetensors"


def test_a_file_comes_before_a_preset_and_a_wrong_name_lists_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "dinov3").write_text("encoder: timm:own\ndata: {folders: [x]}\nout: y\n")
    assert load_config("paper/dinov3").encoder.name == "own"
    assert load_config("paper/dinov2").encoder.name == "facebook/dinov2-giant"
    with pytest.raises(
        SpatialBoostError, match=r"unknown preset 'paper/dino2'; known are demo, .*paper/dinov2, .*24gb"
    ):
        load_config(Path("paper/dino2"))
    with pytest.raises(SpatialBoostError, match=r"cannot read demo.yaml: No such file"):
        load_config("demo.yaml")


def test_the_four_differ_in_the_encoder_only():
    contents = {name: read_preset(name) for name in PAPER}
    for name, content in contents.items():
        assert content.pop("out") == f"runs/{name.replace('/', '-')}"
        assert (
            content["data"].pop("image_size")
            // {"facebook/dinov2-giant": 14}.get(content.pop("encoder")["name"], 14 if name == "paper/openclip" else 16)
            == 16
        )
    assert len(contents) == 4 and all(content == contents[PAPER[0]] for content in contents.values())


def marked(name: str) -> dict[str, tuple[str, str]]:
    """Key with dots -> its value as it is written, and its mark, for each line with a value."""
    found, path = {}, []
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        match = LINE.match(line)
        assert match, line
        depth = len(match["indent"]) // 2
        path[depth:] = [match["key"]]
        if match["value"]:
            found[".".join(path)] = (match["value"].strip(), match["mark"] or "")
    return found


SECTIONS = {
    "gasp/paper": "## Correspondence",
    "gasp/encoder": "## Correspondence",
    "spa3r/paper": "## Field",
}  # of docs/teachers.md


@pytest.mark.parametrize("name", [*PAPER, *SECTIONS])
def test_each_number_says_where_it_is_from_and_the_page_explains_what_is_open(name):
    page = PAGE.with_name("teachers.md") if name in SECTIONS else PAGE
    text = page.read_text()
    if name in SECTIONS:
        text = text.partition(f"\n{SECTIONS[name]}\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", text, re.MULTILINE))
    values = marked(name)
    assert len(values) > 40
    for key, (value, mark) in values.items():
        assert mark.startswith(("paper", "open", "ours")) or not re.fullmatch(r"[\d.e+-]+", value), f"{key} has no mark"
        if mark.startswith(("open", "ours")) or "; open" in mark:
            assert key in rows, f"{page.name} does not explain {key}"
            if name in ("paper/dinov3", *SECTIONS):
                assert f"`{value}`" in rows[key], f"{key}: the page says {rows[key]}, the preset {value}"
    same = [each for each in SECTIONS if SECTIONS[each] == SECTIONS.get(name)] or [name]  # one table for both
    together = [item for each in same for item in marked(each).items()]
    is_open = {key for key, (_, mark) in together if "open" in mark or "ours" in mark}
    assert set(rows) - is_open <= {"encoder.kwargs"}, "the page explains what no preset leaves open"


# --- small versions


TINY_ENCODERS: dict[str, Any] = {
    "paper/dinov2": lambda: Dinov2Model(
        Dinov2Config(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=14,
            image_size=56,
            use_swiglu_ffn=True,
        )
    ),
    "paper/dinov3": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=16,
            use_gated_mlp=True,
            num_register_tokens=4,
        )
    ),
    "paper/siglip2": lambda: SiglipModel(
        SiglipConfig(
            text_config={**SMALL, "vocab_size": 64, "max_position_embeddings": 8},
            vision_config={**SMALL, "patch_size": 16, "image_size": 32},
        )
    ),
}
SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Rows with one view and with two, and a small Qwen2 with random weights."""
    folder = tmp_path_factory.mktemp("world")
    rows = make_rows(16)
    for row in rows[8:]:
        row["images"] = row["images"] * 2
        row["messages"][0]["content"] = "<image>\n" + row["messages"][0]["content"]
    write_parquet(rows, folder / "data")
    tokenizer = build_tokenizer([row["messages"] for row in rows])
    torch.manual_seed(0)
    shape = {"num_key_value_heads": 1, "max_position_embeddings": 4096, "vocab_size": len(tokenizer)}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    Qwen2ForCausalLM(Qwen2Config(**SMALL, **shape, **ids)).save_pretrained(folder / "qwen2")
    tokenizer.save_pretrained(folder / "qwen2")
    return folder


@pytest.mark.parametrize("name", PAPER)
def test_a_small_version_of_each_of_the_papers_presets_trains(name, world, tmp_path):
    size = 28 if name in ("paper/openclip", "paper/dinov2") else 32
    if name == "paper/openclip":  # timm's own class for this model, with fewer and narrower layers
        shape = "{img_size: 28, embed_dim: 48, depth: 2, num_heads: 2, num_classes: 0}"
        encoder = [f"encoder.kwargs={shape}", "encoder.pretrained=false"]
    else:
        torch.manual_seed(0)
        TINY_ENCODERS[name]().save_pretrained(tmp_path / "encoder")
        encoder = [f"encoder.name={tmp_path / 'encoder'}"]
    small = [f"{stage}.{key}" for stage in ("stage1", "stage2") for key in ("steps=1", "batch_size=2", "accumulate=1")]
    small += ["stage3.steps=2", "stage3.batch_size=2", "stage3.accumulate=2", "stage3.require_answers=false"]
    given = [f"data.folders=[{world / 'data'}]", f"data.image_size={size}", "data.held_out=2", "data.workers=0"]
    given += [f"teacher.llm.name={world / 'qwen2'}", "teacher.evaluate=0", "device=cpu", f"out={tmp_path / 'out'}"]
    result = train(load_config(name, [*given, *encoder, *small, "data.single_view=0.5"]))
    layers = sb.status(result.encoder).layers
    assert [layer.index for layer in layers] == [0, 1] and result.stages["stage3"]["rows"] == 12
    dtype = torch.float32 if name == "paper/openclip" else torch.bfloat16
    trained = dict(sb.named_parameters(result.encoder))
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for n, p in result.encoder.named_parameters() if n not in trained} == {dtype}


def test_the_demo_is_its_preset():
    from spatialboost.demo import Settings, configuration, encoder_section

    config = read_preset("demo")
    ours = configuration(Path("x"), "default", Settings())
    assert {**config, "data": {**config["data"], "folders": ["x/data"]}} == {**ours, "out": config["out"]}
    facts = yaml.safe_load((FOLDER.parent / "assets" / "encoder" / "config.json").read_text())
    section = encoder_section()
    assert (section["kwargs"], section["mean"], section["std"]) == (facts["architecture"], facts["mean"], facts["std"])


def commands() -> list[list[str]]:
    """The commands of the page, with its variables put in."""
    found, variables = [], {}
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            if match := re.fullmatch(r'(\w+)="(.*)"', line):
                variables[match[1]] = match[2]
            else:
                found.append(shlex.split(line))
    return found


@pytest.mark.parametrize("words", commands(), ids=lambda words: words[-1])
def test_each_command_of_the_page_is_a_configuration(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words[:3] == ["spatialboost", "train", "--config"] and set(words[4::2]) == {"-o"}
    config = load_config(words[3], words[5::2])
    assert config.out.parent == tmp_path / "runs" and config.stages
    for override in words[5::2]:  # each changes something; the first folder is the preset's, and keys go with the kind
        if not override.startswith(("data.folders=", "teacher.kind=")):
            assert load_config(words[3], [o for o in words[5::2] if o != override]) != config, override

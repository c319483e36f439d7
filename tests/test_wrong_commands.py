"""A deterministic fuzz of the commands: every wrong value is one line on stderr with exit code 2, never a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from spatialboost import cli
from training_rows import SHAPE, make_rows, write_parquet

NAN, INF = float("nan"), float("inf")
NO_NUMBERS: list[Any] = [NAN, INF, -INF, -1, "many", [1], {"a": 1}, None, True, 10**400]
NO_TEXTS: list[Any] = [NAN, -1, [1], {"a": 1}, None]

# Where in a run's file, and which values are wrong there
WRONG: dict[str, list[Any]] = {
    "encoder": [3, [], None, "", "timm:", ":x", "keras:vit"],
    "encoder.name": [*NO_TEXTS, "", "no_such_model"],
    "encoder.library": ["keras", 3, None],
    "encoder.kwargs": [3, [1], "x"],
    "encoder.kwargs.depth": [-1, "two", NAN, [1], None],
    "encoder.kwargs.num_heads": [0, 7, "x", None],
    "encoder.kwargs.no_such_argument": [1],
    "encoder.weights": ["nowhere.safetensors", "a\0b", 3, "~/nowhere.safetensors"],
    "encoder.mean": [[NAN, 0, 0], [0.5], "x", 3],
    "encoder.std": [0, [0, 0, 0], [0.5, 0.0, 0.5], [NAN, 1, 1], [INF, 1, 1], [-1, 1, 1], [1, 1], "x"],
    "encoder.interpolation": ["cubic", 3],
    "data": [None, 3, []],
    "data.folders": [[], None, 3, "rooms", ["nowhere"], ["a\0b"], ["~nobody_of_this_name/x"], ["rooms[12]*?"]],
    "data.image_size": [NAN, -32, 0, 33, 10**9, "x", [32], [32, -1], [], INF],
    "data.held_out": [NAN, -1, 10**9, INF, "x"],
    "data.limit": [0, -1, NAN, "x"],
    "data.cache_gb": [0, -1, NAN, INF, "x"],
    "data.workers": [-1, NAN, "x"],
    "teacher": [None, 3, [], "language"],
    "teacher.kind": ["langage", 3, None, [], {}],
    "teacher.llm": [3, None, "small"],
    "teacher.llm.name": [*NO_TEXTS, "nowhere/at/all", "", "a\0b"],
    "teacher.llm.dtype": ["float8", 3],
    "teacher.llm.kwargs": [3, [1]],
    "teacher.llm.kwargs.width": [-1, 0, 7, "x", NAN, None],
    "teacher.llm.kwargs.layers": [-1, "x", NAN],
    "teacher.llm.kwargs.heads": [0, -2, 3, "x"],
    "teacher.llm.kwargs.kind": ["gpt3", 3],
    "teacher.llm.kwargs.no_such_argument": [1],
    "teacher.max_length": [0, -1, NAN, "x"],
    "teacher.evaluate": [-1, NAN, "x"],
    "layer": [9, -9, NAN, "x", None],
    "seed": [-1, 2**32, 10**30, NAN, "x", None],
    "device": ["abacus", 3],
    "out": [None, 3, "a\0b", ""],
    "stage1": [3, [], "x"],
    "stage1.steps": [0, -1, NAN, "x", 1.5],
    "stage1.no_such_key": [1],
    "no_such_key": [1],
    **{f"stage3.{key}": NO_NUMBERS[:7] for key in ("lr", "batch_size", "accumulate", "clip", "log_every", "epochs")},
    "stage3.warmup": [2, -1, NAN],
    "stage3.beta2": [1, 0, NAN],
    "stage3.turns": [3, ["no_such_kind"]],
    "stage3.kernel": ["fast"],
}
FILES = {
    "text": "just words",
    "list": "- 1\n- 2",
    "empty": "",
    "half": "encoder: {name: x",
    "recursive": "encoder: &a {name: x, kwargs: {b: *a}}",
    "recursive list": "data: &a [*a]",
    "deep": "encoder: " + "[" * 3000 + "]" * 3000,
    "many": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "\n".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)
    ),
    "date": "out: 2024-13-45",
    "tag": "out: !!python/object/apply:os.system [ls]",
    "tab": "out:\n\t- x",
    "key": "? [a, b]\n: 1",
    "number key": "1: 2",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_parquet(make_rows(8), folder / "data")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), folder / "encoder.safetensors")
    return folder


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SPATIALBOOST_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["spatialboost", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().err

    return call


def settings(world: Path, out: Path) -> dict[str, Any]:
    stage = {"steps": 1, "batch_size": 2, "save_every": 0}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": dict(SHAPE), "weights": str(world / "encoder.safetensors")},
        "teacher": {
            "kind": "language",
            "llm": {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}},
            "evaluate": 0,
        },
        "data": {"folders": [str(world / "data")], "image_size": 32, "held_out": 0},
        **{name: dict(stage) for name in ("stage1", "stage2", "stage3")},
        "device": "cpu",
        "out": str(out),
    }


def with_value(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *sections, last = path.split(".")
    section = config
    for key in sections:
        section = section[key]
    section[last] = value
    return config


def one_line(code: int, err: str, case: str) -> str | None:
    lines = [line for line in err.strip().splitlines() if line.startswith("error: ")]
    right = code == 2 and len(lines) == 1 and "Traceback" not in err and err.strip().splitlines()[-1] == lines[0]
    return None if right else f"{case}: code {code}, {err.strip()[-300:]}"


def run_all(command: Any, cases: dict[str, tuple[Any, ...]]) -> None:
    found = []
    for case, arguments in cases.items():
        try:
            found.append(one_line(*command(*arguments), case))
        except Exception as error:
            found.append(f"{case}: {type(error).__name__}: {str(error)[:200]}")
    wrong = [each for each in found if each]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(found)}:", *wrong])


def test_wrong_values_in_a_runs_file(command, world, tmp_path):
    cases = {}
    for path, values in WRONG.items():
        for number, value in enumerate(values):
            file = tmp_path / f"{path}-{number}.yaml"
            config = with_value(settings(world, tmp_path / "out" / file.stem), path, value)
            file.write_text(yaml.safe_dump(config), encoding="utf-8")
            cases[f"{path}: {value!r:.60}"] = ("train", "--config", file)
    run_all(command, cases)
    assert not list(tmp_path.glob("out/*/*/result.json"))  # before anything is trained


RANDOM = {  # arguments of an encoder with random weights: nothing else notices them
    "depth": [0, -1, "x", NAN], "embed_dim": [0, 7, -48, "x"], "num_heads": [0, 5], "patch_size": [0, -1, "x", 64],
    "img_size": [0, -1, "x"], "mlp_ratio": [NAN, -1, INF], "norm_layer": ["x"],
    "device": ["abacus"], "dtype": ["x"], "weight_init": ["x"],
}  # fmt: skip


def test_wrong_arguments_of_a_random_encoder(command, world, tmp_path):
    cases = {}
    for library in ("VisionTransformer", "hf"):
        for key, values in RANDOM.items():
            for number, value in enumerate(values):
                file = tmp_path / f"{library}-{key}-{number}.yaml"
                config = settings(world, tmp_path / "out" / file.stem)
                kwargs = {**SHAPE, key: value} if library == "VisionTransformer" else {key: value}
                name = {"name": str(world), "library": "hf"} if library == "hf" else {"name": library}
                config["encoder"] = {**name, "kwargs": kwargs, "pretrained": False}
                file.write_text(yaml.safe_dump(config), encoding="utf-8")
                cases[f"{library} {key}: {value!r}"] = ("train", "--config", file)
    run_all(command, cases)


def test_wrong_files(command, tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"out: \xe9\xff")
    cases = {}
    for name, text in FILES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        cases[f"train {name}"] = ("train", "--config", tmp_path / f"{name}.yaml")
        cases[f"probe {name}"] = ("probe", "depth", "--encoder", tmp_path / f"{name}.yaml", "--data", "rooms:9")
    for name in ("latin.yaml", "nowhere.yaml", ".", "a\0b"):
        if name != "a\0b":
            cases[name] = ("train", "--config", tmp_path / name)
    run_all(command, cases)


def test_wrong_options(command, world, tmp_path):
    (tmp_path / "file").touch()
    ours = ("probe", "depth", "--encoder", "timm:vit_tiny_patch16_224", "--random-weights", "--data", "rooms:9")
    small = (*ours, "--image-size", 32)
    cases = {
        **{f"image size {n}": (*ours, "--image-size", n) for n in (0, -16, 10**9, 30)},
        **{f"layer {n}": (*small, "--layer", n) for n in (99, -99)},
        **{f"subset {n}": (*small, "--subset", n) for n in ("nan", "inf", 0, -1, 2)},
        **{f"train {n}": (*small, "--train", n) for n in ("nan", "inf", 0, -1, 2)},
        **{f"test {n}": (*small, "--test", n) for n in ("nan", "inf", 0, -1)},
        **{f"batch {n}": (*small, "--batch-size", n) for n in (0, -1)},
        "seeds": (*small, "--seeds", 0),
        "panels": (*small, "--num-panels", -1),
        "out is a file": (*small, "--out", tmp_path / "file"),
        "out in a file": (*small, "--out", tmp_path / "file" / "x"),
        **{f"data {n}": (*ours[:-1], n) for n in ("rooms:", "rooms:-1", "rooms:nan", "nowhere", "~/nowhere", "")},
        **{f"encoder {n!r}": ("probe", "depth", "--encoder", n, "--data", "rooms:9") for n in ("", ":", "timm:", "x/")},
        "delta": (*small, "--delta", "nowhere/at/all"),
        "weights": (*small, "--weights", "nowhere.safetensors"),
        **{f"demo seed {n}": ("demo", "--out", tmp_path / "demo", "--seed", n) for n in (-1, 10**6, 2**40)},
        "demo in a file": ("demo", "--out", tmp_path / "file"),
        "demo over other files": ("demo", "--out", tmp_path),
    }
    run_all(command, cases)
    assert not (tmp_path / "demo").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["config.partial", "stage1/result.partial", "report.json"])
def test_a_full_disk_is_one_line(command, world, tmp_path, file):
    (tmp_path / "out" / file).parent.mkdir(parents=True)
    (tmp_path / "out" / file).symlink_to("/dev/full")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(world, tmp_path / "out")))
    code, err = command("train", "--config", tmp_path / "run.yaml")
    wrong = one_line(code, err, file)
    assert wrong is None and "the disk is full: free some space" in err, wrong

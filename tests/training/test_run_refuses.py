"""What a run refuses before it trains, where it stops, and what it leaves in its folder then."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from made_up_teacher import ColourObjective, ColourTeacher
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.registry import TEACHERS
from spatialboost.training.claim import locked
from spatialboost.training.config import load_config
from spatialboost.training.run import train
from spatialboost.vlm.llms import build_small_llm
from training_rows import SHAPE, make_rows, write_parquet


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), folder / "encoder.safetensors")
    write_parquet(make_rows(8), folder / "data")
    return folder


def settings(world: Path, out: Path, **changes: Any) -> dict[str, Any]:
    stage = {"steps": 3, "batch_size": 4, "log_every": 1, "save_every": 0, "lr": 1e-3}
    config = {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(world / "encoder.safetensors")},
        "teacher": {
            "kind": "language",
            "llm": {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}},
            "evaluate": 2,
        },
        "data": {"folders": [str(world / "data")], "image_size": 32, "held_out": 2},
        **{name: dict(stage) for name in ("stage1", "stage2")},
        "stage3": {**stage, "require_answers": False},
        "device": "cpu",
        "out": str(out),
    }
    return {key: value for key, value in {**config, **changes}.items() if value != "left out"}


def test_an_unknown_kind_of_turn_is_refused_before_anything_is_loaded(world, tmp_path, monkeypatch):
    monkeypatch.setattr("spatialboost.training.run._open_encoder", None)  # loading anything would fail
    given = settings(world, tmp_path / "out")
    given["stage3"]["turns"] = ["depth", "depht"]
    with pytest.raises(SpatialBoostError, match=r"stage3.turns: unknown kind of turn 'depht'; known are .*closer, .*"):
        train(load_config(given))
    assert not list((tmp_path / "out").glob("*.json"))


def made_up(world: Path, out: Path, **changes: Any) -> dict[str, Any]:
    none = {name: "left out" for name in ("stage1", "stage2", "stage3")}
    steps = {"steps": 2, "batch_size": 4, "lr": 1e-3, "save_every": 0}
    stages = {"head": dict(steps), "boost": dict(steps)}
    return settings(world, out, **none, teacher={"kind": "made_up"}, **{**stages, **changes})


@pytest.fixture
def made_up_teacher(monkeypatch):
    monkeypatch.setitem(TEACHERS, "made_up", "made_up_teacher:ColourTeacher")
    return ColourTeacher


# --- new weights that nothing trains


@pytest.mark.parametrize(
    ("left_out", "part"),
    [
        (("stage1", "stage2"), "vlm.projector|vlm.llm"),  # through a new projector
        (("stage2",), "vlm.llm"),  # through a new language model
        (("stage2", "stage3"), "vlm.llm"),  # the projector is trained, but for random words
    ],
)
def test_a_stage_through_random_weights_is_refused(world, tmp_path, left_out, part):
    given = settings(world, tmp_path / "out", **dict.fromkeys(left_out))
    with pytest.raises(
        SpatialBoostError, match=rf"stage\d would train through ({part}) with its first, random weights"
    ):
        train(load_config(given))
    assert not list((tmp_path / "out").glob("*/result.json"))


def test_stage_3_alone_with_a_language_model_from_a_folder(world, tmp_path):
    train(load_config(settings(world, tmp_path / "first", stage3=None)))
    teacher = {"kind": "language", "llm": {"name": str(tmp_path / "first" / "stage2" / "llm")}, "evaluate": 0}
    given = settings(world, tmp_path / "out", stage1=None, stage2=None, teacher=teacher)
    with pytest.raises(SpatialBoostError, match=r"stage3 would train through vlm\.projector"):
        train(load_config(given))
    given["teacher"] = {**teacher, "projector_start": "zero"}
    with pytest.raises(SpatialBoostError, match=r"stage3 would train through vlm\.projector"):
        train(load_config(given))
    given["teacher"], given["stage3"] = teacher, {**given["stage3"], "train_projector": True}
    assert train(load_config(given)).delta is not None


class Frozen(ColourTeacher):
    """A teacher that has forgotten its head in the last stage."""

    weights_from_elsewhere = False

    def groups(self, stage, config):
        return super().groups(stage, config) if stage == "head" else []

    def loaded(self):
        return [self.objective.head] if self.weights_from_elsewhere else []


def test_another_teacher_with_a_new_part_that_is_frozen(world, tmp_path, monkeypatch):
    monkeypatch.setitem(TEACHERS, "made_up", f"{__name__}:Frozen")
    with pytest.raises(
        SpatialBoostError, match=r"boost would train through head\.weight with its first, random weights"
    ):
        train(load_config(made_up(world, tmp_path / "a", head=None)))
    assert train(load_config(made_up(world, tmp_path / "b"))).delta is not None  # the stage before has trained it
    monkeypatch.setattr(Frozen, "weights_from_elsewhere", True)
    assert train(load_config(made_up(world, tmp_path / "c", head=None))).delta is not None


# --- a language model that cannot read the data


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("other words", r"\d+% of the answers' tokens are unknown"),
        ("a token without an embedding", r"has embeddings for \d+"),
        ("few positions", "an image takes 4 tokens, .* at most 4 tokens"),
    ],
)
def test_a_language_model_that_cannot_read_the_data(world, tmp_path, case, message):
    chats = [row["messages"] for row in make_rows(8)]
    if case == "other words":
        chats = [[{"role": "user", "content": "Wie tief?"}, {"role": "assistant", "content": "Etwa zwei Meter."}]]
    positions = 4 if case == "few positions" else 128
    llm, tokenizer = build_small_llm(chats, width=32, layers=1, heads=2, max_length=positions)
    if case == "a token without an embedding":
        llm.resize_token_embeddings(len(tokenizer) - 1)
    llm.save_pretrained(tmp_path / "llm"), tokenizer.save_pretrained(tmp_path / "llm")
    given = settings(world, tmp_path / "out")
    given["teacher"]["llm"] = {"name": str(tmp_path / "llm")}
    with pytest.raises(SpatialBoostError, match=message):
        train(load_config(given))
    assert not list((tmp_path / "out").glob("*/result.json"))


# --- numbers that are not finite


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_a_training_that_diverges_is_stopped(world, tmp_path, stage):
    given = settings(world, tmp_path / "out")
    given[stage] = {**given[stage], "lr": 1e38, "clip": 0, "steps": 30, "save_every": 1, "warmup": 0}
    if stage == "stage3":
        given[stage]["train_projector"] = True
    with pytest.raises(
        SpatialBoostError, match=rf"{stage}: .* not finite in step \d+; .*smaller `lr` \(it is 1e\+38\)"
    ):
        train(load_config(given))
    check_nothing_is_infinite(tmp_path / "out")
    assert not (tmp_path / "out" / stage / "result.json").exists()


def test_another_teacher_that_diverges_is_stopped(world, tmp_path, made_up_teacher):
    given = made_up(world, tmp_path / "out", boost={"steps": 30, "batch_size": 4, "lr": 1e30, "clip": 0})
    with pytest.raises(SpatialBoostError, match=r"boost: .* not finite in step \d+; .*set `clip: 1.0`"):
        train(load_config(given))
    check_nothing_is_infinite(tmp_path / "out")


def test_a_gradient_that_is_not_finite_is_named(world, tmp_path, made_up_teacher, monkeypatch):
    forward = ColourObjective.forward

    def steep(self, *args, **kwargs):
        loss = forward(self, *args, **kwargs)["loss"]
        return {"loss": loss + (self.head.bias * 0).abs().sqrt().sum()}  # 0, with an infinite derivative

    monkeypatch.setattr(ColourObjective, "forward", steep)
    with pytest.raises(SpatialBoostError, match="head: a gradient is not finite in step 1"):
        train(load_config(made_up(world, tmp_path / "out")))


def test_an_encoder_with_weights_that_are_not_finite(world, tmp_path):
    state = VisionTransformer(**SHAPE).state_dict()
    state["blocks.0.attn.qkv.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "bad.safetensors")
    given = settings(world, tmp_path / "out")
    given["encoder"]["weights"] = str(tmp_path / "bad.safetensors")
    with pytest.raises(SpatialBoostError, match="not finite"):
        train(load_config(given))


def check_nothing_is_infinite(out: Path) -> None:
    from safetensors.torch import load_file

    for file in out.rglob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(file).values()), file
    for file in out.rglob("*.json"):
        assert not {"NaN", "Infinity"} & set(file.read_text().replace(",", " ").split()), file


# --- random encoder weights


DRAWN = {
    "torch": "torch.randn(8)",
    "numpy": "torch.from_numpy(numpy.random.randn(8)).float()",
    "random": "torch.tensor([random.random() for _ in range(8)])",
    "time": "torch.full((8,), float(time.perf_counter_ns() % 997) + 1)",
}


@pytest.mark.parametrize("source", DRAWN)
def test_random_weights_are_the_same_in_each_process_or_refused(world, tmp_path, source, made_up_teacher):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(
        "import random, time\nimport numpy, torch\nfrom timm.models.vision_transformer import VisionTransformer\n"
        f"def small(**kwargs):\n    model = VisionTransformer(**{SHAPE!r})\n"
        f"    with torch.no_grad():\n        model.norm.weight[:8] += {DRAWN[source]}\n    return model\n"
    )
    encoder = {"library": "hub", "name": f"{tmp_path / 'hub'}:small", "mean": [0.5] * 3, "std": [0.5] * 3}
    given = made_up(world, tmp_path / "out", encoder=encoder, seed=3)
    if source == "time":
        with pytest.raises(SpatialBoostError, match=r"other random weights each time it is built.*encoder.weights"):
            train(load_config(given))
        return
    random.seed(time.time()), np.random.seed(int(time.time()))
    result = train(load_config(given))
    torch.manual_seed(99), random.seed(1), np.random.seed(2)
    assert train(load_config(given)).delta == result.delta  # a later process loads the delta onto the same encoder


def test_an_encoder_whose_weights_have_changed_is_refused(world, tmp_path, made_up_teacher):
    given = made_up(world, tmp_path / "out")
    file = tmp_path / "encoder.safetensors"
    given["encoder"] = {**given["encoder"], "weights": str(file)}
    save_file(VisionTransformer(**SHAPE).state_dict(), file)
    train(load_config(given))
    save_file(VisionTransformer(**SHAPE).state_dict(), file)
    with pytest.raises(SpatialBoostError, match=r"the encoder has other weights than when the run in .* began"):
        train(load_config(given))


# --- folders


@pytest.mark.parametrize("name", ["run[1]", "*?", "run {a}", "x[/b]", "ä $x$ 'q'"])
def test_any_name_is_a_folder(world, tmp_path, made_up_teacher, name):
    given = made_up(world, tmp_path / name)
    given["head"]["save_every"] = given["boost"]["save_every"] = 1
    assert train(load_config(given)).delta == tmp_path / name / "boost" / "delta"
    assert not list((tmp_path / name).rglob("checkpoint-*")) and not (tmp_path / name / ".lock").exists()


def test_the_home_folder(world, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(world))
    given = settings(world, Path("~/out"))
    given["data"]["folders"], given["encoder"]["weights"] = ["~/data"], "~/encoder.safetensors"
    config = load_config(given)
    assert config.out == world / "out" and config.data.folders == [world / "data"]
    assert config.encoder.weights == world / "encoder.safetensors"


def test_a_run_that_never_began_does_not_claim_its_folder(world, tmp_path, made_up_teacher):
    for wrong in (
        {"data": {"folders": [str(world / "data")], "image_size": 33, "held_out": 2}},
        {"head": {"steps": 9, "lr": 1e38, "clip": 0, "warmup": 0}},
        {"seed": 7, "data": {"folders": [str(world / "data")], "image_size": 32, "held_out": 99}},
    ):
        with pytest.raises(SpatialBoostError):
            train(load_config(made_up(world, tmp_path / "out", **wrong)))
    assert train(load_config(made_up(world, tmp_path / "out"))).delta is not None
    with pytest.raises(SpatialBoostError, match=r"another configuration \(seed is 0 there and 7 here\)"):
        train(load_config(made_up(world, tmp_path / "out", seed=7)))


def test_two_runs_in_one_folder(world, tmp_path, made_up_teacher):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "holds\n"
        given = load_config(made_up(world, tmp_path / "out"))
        with pytest.raises(SpatialBoostError, match=f"in use by process {holder.pid} on .*: wait until it has ended"):
            train(given)
        assert [file.name for file in (tmp_path / "out").iterdir()] == [".lock"]
    finally:
        holder.kill()
        holder.wait()
    assert train(given).delta is not None  # the holder is dead
    with locked(tmp_path / "out"), pytest.raises(SpatialBoostError, match="in use by process"):
        train(given)


HOLDER = """
import sys, time
from pathlib import Path
from spatialboost.training.claim import locked
with locked(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("file", ["config.json", "head/result.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "\udc80", "[" * 5000])
def test_damaged_files_of_a_run(world, tmp_path, made_up_teacher, file, text):
    given = load_config(made_up(world, tmp_path / "out"))
    (tmp_path / "out" / "head").mkdir(parents=True)
    (tmp_path / "out" / "head" / "result.json").write_text("{}")
    ours = given.model_dump(mode="json", exclude={"out": True, "device": True, "data": {"workers"}})
    (tmp_path / "out" / "config.json").write_text(json.dumps(ours))
    (tmp_path / "out" / file).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SpatialBoostError, match=f"{Path(file).name} is damaged .*: delete the folder"):
        train(given)


def test_paths_of_a_file_start_at_its_folder(world, tmp_path, monkeypatch, made_up_teacher):
    import yaml

    given = made_up(world, Path("out"))
    given["data"]["folders"], given["encoder"]["weights"] = ["data"], "encoder.safetensors"
    (world / "run.yaml").write_text(yaml.safe_dump(given))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config(world / "run.yaml")
    assert config.out == world / "out" and config.data.folders == [world / "data"]
    from spatialboost.boosting.channel import boosted_layers
    from spatialboost.encoders import open_encoder

    with pytest.raises(SpatialBoostError, match="has no delta yet"):
        open_encoder(world / "run.yaml")
    assert train(config).delta == world / "out" / "boost" / "delta"
    assert len(boosted_layers(open_encoder(world / "run.yaml"))) == 2


@pytest.mark.parametrize(
    "text", ["stage3: {steps: 1}\nboost: null\n", "boost: null\n", "teacher: {kind: pixel}\nstage3: null\n"]
)
def test_only_the_stage_of_its_own_teacher_may_be_left_out(tmp_path, text):
    from spatialboost.encoders import open_encoder

    (tmp_path / "run.yaml").write_text(f"out: out\nencoder: timm:vit_tiny_patch16_224\n{text}")
    with pytest.raises(SpatialBoostError, match="has no delta yet"):
        open_encoder(tmp_path / "run.yaml", pretrained=False)


# --- an earlier run


def test_stage_3_takes_up_what_an_earlier_run_has_learnt(world, tmp_path):
    first = train(load_config(settings(world, tmp_path / "first", stage3=None)))
    given = settings(world, tmp_path / "second", stage1=None, stage2=None)
    given["teacher"] = {"earlier_run": str(tmp_path / "first"), "evaluate": 0}
    second = train(load_config(given))
    for name in ("projector", "llm"):
        ours, theirs = (getattr(run.teacher.vlm, name).state_dict() for run in (second, first))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert second.delta is not None
    given["out"], given["teacher"]["earlier_run"] = str(tmp_path / "third"), str(tmp_path / "second")
    with pytest.raises(
        SpatialBoostError,
        match=r"second has no finished stage that trained a projector .*; expected the folder of a run",
    ):
        train(load_config(given))


def test_an_earlier_projector_of_another_width_is_refused(world, tmp_path):
    train(load_config(settings(world, tmp_path / "first", stage3=None)))
    shutil.rmtree(tmp_path / "first" / "stage2" / "llm")
    given = settings(world, tmp_path / "second", stage1=None)
    given["teacher"]["llm"]["kwargs"]["width"] = 48
    given["teacher"]["earlier_run"] = str(tmp_path / "first")
    with pytest.raises(SpatialBoostError, match=r"shapes .*\[32, 48\].* need .*\[48, 48\]"):
        train(load_config(given))

"""Whole runs of the teacher: training, the control, resuming, the plan, the report, scores, and refused settings."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import Trainer
from typer.testing import CliRunner

import spatialboost as sb
from paths_of_rooms import PLAN, run_settings
from spatialboost.encoders import open_encoder
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms
from spatialboost.training import load_config, train
from spatialboost.training.plan import plan
from spatialboost.training.run import evaluate


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    return {
        **run_settings(tmp_path_factory.mktemp("correspondence")),
        "teacher": {"kind": "correspondence", "frames": [2, 3], "grids": [6, 0], "width": 16, "evaluate": 3},
        "boost": {"steps": 6, "batch_size": 2, "lr": 1e-3, "log_every": 1, "save_every": 2},
    }


@pytest.fixture(scope="module")
def finished(settings):
    return train(load_config(settings))


def test_a_run_trains_attn_plus_and_heads_and_leaves_a_delta_without_heads(finished, settings):
    fit = finished.stages["boost"]["fit"]
    assert "moved: " in fit["moved"] and "heads (8)" in fit["moved"] and "unchanged: encoder base" in fit["moved"]
    assert fit["trainable"]["heads"][0] == fit["trainable"]["heads"][1] > 0
    skipped = finished.stages["boost"]["skipped"]
    assert set(map(int, skipped)) <= {0, 1, 2, 3} and skipped
    assert all("it has 1 view; correspondence needs at least two" in reason for reason in skipped.values())
    scores = {s["answerer"]: s for s in finished.stages["boost"]["scores"]}
    assert set(scores) == {"image", "guess"} and 0 < scores["guess"]["accuracy"] < 1 and scores["image"]["answers"] > 20
    names = set(load_file(finished.delta / "model.safetensors"))
    assert not [name for name in names if "head" in name]
    facts = json.loads((finished.delta / "config.json").read_text())["training"]
    assert facts["objective"] == "correspondence" and facts["layers"] == [0, 1] and facts["temperature"] == 0.07
    fresh = sb.load_pretrained(open_encoder(load_config(settings).encoder), finished.delta)
    assert len(sb.status(fresh).layers) == 2


def test_the_report_shows_the_scores(finished, settings):
    page = (Path(settings["out"]) / "report.html").read_text()
    assert "attention matches" in page and "correspondence" in page and "heads" in page


def test_heads_learn_at_four_times_the_rate(finished, settings):
    config = load_config(settings).boost
    assert {group["lr"] for group in finished.teacher.groups("boost", config)} == {4e-3}
    own = config.model_copy(update={"head_lr": 2e-4})
    assert {group["lr"] for group in finished.teacher.groups("boost", own)} == {2e-4}


def test_a_run_that_was_stopped_ends_as_one_that_was_not(finished, settings, tmp_path, monkeypatch):
    given, step, calls = {**settings, "out": str(tmp_path / "out")}, Trainer.training_step, iter(range(1, 99))

    def stopped(self, *args, **kwargs):
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", stopped)
    with pytest.raises(SpatialBoostError, match="boost was asked to end"):
        train(load_config(given))
    monkeypatch.undo()
    resumed = train(load_config(given))
    assert resumed.stages["boost"]["fit"]["resumed_from"] == 4
    ours, theirs = (load_file(each.delta / "model.safetensors") for each in (resumed, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (load_file(each.out / "boost" / "heads.safetensors") for each in (resumed, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_control_differs_by_one_key(finished, settings, tmp_path):
    result = train(load_config({**settings, "out": str(tmp_path / "out")}, ["boost.shuffle_pairs=true"]))
    ours, theirs = (each.stages["boost"]["fit"]["history"] for each in (result, finished))
    assert ours[0]["loss"] > theirs[0]["loss"] and ours[-1]["loss"] > theirs[-1]["loss"]


def test_a_finished_run_is_loaded_and_scored_again_by_layer_and_by_distance(finished, settings, monkeypatch):
    monkeypatch.setattr("spatialboost.training.stage.fit", None)  # training anything would fail
    assert train(load_config(settings)).delta == finished.delta
    scores = {(score.kind, score.answerer): score for score in evaluate(Path(settings["out"]), rows=3)}
    for layer in (0, 1):
        assert -1 <= scores[f"attention matches, layer {layer}", "image"].correlation <= 1
    apart = [scores[f"attention matches, {n} frames apart", "image"] for n in (1, 2)]
    assert sum(score.answers for score in apart) == scores["attention matches", "image"].answers
    mean = sum(scores[f"attention matches, layer {layer}", "image"].accuracy for layer in (0, 1)) / 2
    assert scores["attention matches", "image"].accuracy == pytest.approx(mean)


def test_the_plan_needs_no_data(settings, finished, tmp_path):
    without = {**settings, "data": {**settings["data"], "folders": [str(tmp_path / "none")]}}
    made_up = plan(load_config(without))[0]
    trained = finished.stages["boost"]["fit"]["trainable"]
    assert made_up.trained == sum(count for count, _ in trained.values()) and made_up.total() > 10**6
    assert "3 image(s), points 3x52x2" in made_up.example and "made up" in made_up.example


def test_the_command_plans_with_data(settings, tmp_path):
    from spatialboost.training import train_command

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    said = CliRunner().invoke(train_command.app, ["--config", str(tmp_path / "run.yaml"), "--plan"])
    assert said.exit_code == 0 and "boost" in said.output


REFUSED = {
    "no frames": (["teacher.frames=[5, 3]"], "frames is .5, 3.; expected the smallest number of views"),
    "one frame": (["teacher.frames=[1, 3]"], "greater than or equal to 2"),
    "no loss": (["teacher.contrast_weight=0", "teacher.depth_weight=0"], "both 0, so there is nothing to learn"),
    "no negatives": (["teacher.negatives=none"], "'frame' or 'frames'"),
    "unknown": (["teacher.temprature=1"], 'unknown key "teacher.temprature"; known here: kind, evaluate, frames'),
    "heads": (["boost.shuffle_answers=true"], 'unknown key "boost.shuffle_answers"; known here: .*shuffle_pairs'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_are_checked_before_anything_is_loaded(settings, name):
    overrides, message = REFUSED[name]
    with pytest.raises(SpatialBoostError, match=message):
        load_config(settings, overrides)


def test_rows_of_one_view_alone_are_refused_before_anything_is_loaded(settings, tmp_path):
    only = {**settings, "data": {**settings["data"], "folders": settings["data"]["folders"][:1], "held_out": 1}}
    with pytest.raises(SpatialBoostError, match="all 4 rows have one view, and correspondence needs at least two"):
        train(load_config({**only, "out": str(tmp_path / "out")}))


def test_the_tiny_preset_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_dataset(Rooms(6, size=64, views=4), tmp_path / "data/rooms-views", seed=0, plan=PLAN, with_depth=True)
    small = ["boost.steps=2", "boost.batch_size=2", "boost.save_every=0", "data.held_out=2", "device=cpu"]
    result = train(load_config("gasp/tiny", small))
    assert result.stages["boost"]["rows"] == 4 and len(sb.status(result.encoder).layers) == 6

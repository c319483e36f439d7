"""Whole runs of the teacher: both stages, the control, resuming, the plan, scores, the preset, and refused settings."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

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
        **run_settings(tmp_path_factory.mktemp("field")),
        "teacher": {
            "kind": "field",
            "frames": [2, 3],
            "width": 32,
            "heads": 2,
            "depth": 1,
            "latents": 8,
            "evaluate": 3,
        },
        "field": {"steps": 6, "batch_size": 3, "lr": 3e-3, "log_every": 1, "save_every": 2},
        "boost": {"steps": 6, "batch_size": 2, "lr": 1e-3, "log_every": 1, "save_every": 2},
    }


@pytest.fixture(scope="module")
def finished(settings):
    return train(load_config(settings))


def test_a_run_trains_the_field_and_then_attn_plus_and_leaves_a_delta_without_the_field(finished, settings):
    first, second = (finished.stages[name]["fit"] for name in ("field", "boost"))
    assert first["history"][-1]["loss"] < first["history"][0]["loss"]
    assert first["trainable"]["encoder"][0] == first["trainable"]["base_encoder"][0] == 0
    assert "moved: Attn+" in second["moved"] and "field" in second["moved"]
    assert "unchanged: encoder base" in second["moved"] and "base encoder" in second["moved"].partition("unchanged")[2]
    skipped = finished.stages["field"]["skipped"]
    assert skipped and set(map(int, skipped)) <= {0, 1, 2, 3}
    assert all("it has 1 view; a field needs at least two" in reason for reason in skipped.values())
    names = set(load_file(finished.delta / "model.safetensors"))
    assert names and not [name for name in names if not name.startswith("layers.")]
    facts = json.loads((finished.delta / "config.json").read_text())["training"]
    assert load_file(Path(settings["out"]) / "field" / "field.safetensors")["standard_context.mean_D"].any()
    assert facts["objective"] == "field" and facts["geometry"] == "known" and facts["pupil"] == "context"
    fresh = sb.load_pretrained(open_encoder(load_config(settings).encoder), finished.delta)
    assert len(sb.status(fresh).layers) == 2


def test_scores_stand_beside_a_guess_and_are_the_same_when_loaded(finished, settings, monkeypatch):
    scores = {(s["kind"], s["answerer"]): s for s in finished.stages["boost"]["scores"]}
    assert {kind for kind, _ in scores} == {"rendered features", "depth of rendered patches"}
    assert {answerer for _, answerer in scores} == {"image", "guess"}
    page = (Path(settings["out"]) / "report.html").read_text()
    assert "rendered features" in page and "depth of rendered patches" in page
    monkeypatch.setattr("spatialboost.training.stage.fit", None)  # training anything would fail
    assert train(load_config(settings)).delta == finished.delta
    for score in evaluate(Path(settings["out"]), rows=3):
        assert score.accuracy == pytest.approx(scores[score.kind, score.answerer]["accuracy"], abs=1e-6)


def test_other_rows_are_scored(finished, settings):
    scores = evaluate(Path(settings["out"]), folders=[Path(settings["data"]["folders"][1])], rows=4)
    assert {score.kind for score in scores} == {"rendered features", "depth of rendered patches"}


def test_a_run_that_was_stopped_ends_as_one_that_was_not(finished, settings, tmp_path, monkeypatch):
    given, step, calls = {**settings, "out": str(tmp_path / "out")}, Trainer.training_step, iter(range(1, 99))

    def stopped(self, *args, **kwargs):
        if next(calls) == 10:  # step 4 of the second stage
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", stopped)
    with pytest.raises(SpatialBoostError, match="boost was asked to end"):
        train(load_config(given))
    monkeypatch.undo()
    resumed = train(load_config(given))
    assert resumed.stages["boost"]["fit"]["resumed_from"] == 4
    for file in ("delta/model.safetensors", "field.safetensors"):
        ours, theirs = (load_file(each.out / "boost" / file) for each in (resumed, finished))
        assert theirs and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_control_starts_from_the_same_field_and_sees_other_places(finished, settings, tmp_path):
    import shutil

    shutil.copytree(Path(settings["out"]) / "field", tmp_path / "out" / "field")
    given = {**settings, "out": str(tmp_path / "out")}
    result = train(load_config(given, ["boost.exchange_views=true"]))
    ours, theirs = (each.stages["boost"]["fit"]["history"] for each in (result, finished))
    first, same = (each.stages["field"]["fit"]["history"] for each in (result, finished))
    assert first == same and ours[0]["loss"] != theirs[0]["loss"]


def test_the_encoder_as_the_target_leaves_the_field_as_it_is(finished, settings, tmp_path):
    given = {**settings, "teacher": {**settings["teacher"], "pupil": "semantic"}, "out": str(tmp_path / "out")}
    result = train(load_config(given, ["field.steps=2", "boost.steps=2"]))
    assert result.stages["boost"]["fit"]["trainable"]["field"][0] == 0
    assert "unchanged" in result.stages["boost"]["fit"]["moved"]
    before, after = (load_file(result.out / stage / "field.safetensors") for stage in ("field", "boost"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_plan_needs_no_data(settings, finished, tmp_path):
    without = {**settings, "data": {**settings["data"], "folders": [str(tmp_path / "none")]}}
    for made_up in plan(load_config(without)):
        trained = finished.stages[made_up.name]["fit"]["trainable"]
        assert made_up.trained == sum(count for count, _ in trained.values()) and made_up.total() > 10**5
        assert "3 image(s)" in made_up.example and "made up" in made_up.example


REFUSED = {
    "frames": (["teacher.frames=[5, 3]"], "frames is .5, 3.; expected the smallest number of views"),
    "one frame": (["teacher.frames=[1, 3]"], "greater than or equal to 2"),
    "width": (
        ["teacher.width=30"],
        "width is 30 with 2 heads; expected a multiple of 8 for each head, such as width: 16",
    ),
    "no loss": (["teacher.geometric_weight=0", "teacher.semantic_weight=0"], "both 0, so there is nothing to learn"),
    "vggt's key": (["teacher.geometry={name: x}"], "geometry.name is for kind: vggt; leave it out with kind: known"),
    "size": (["teacher.geometry={kind: vggt, image_size: [30, 28]}"], "expected multiples of 14"),
    "pupil": (["teacher.pupil=semantic", "teacher.semantic_weight=0"], "needs a semantic_weight above 0"),
    "unknown": (["teacher.laterns=1"], 'unknown key "teacher.laterns".*latents'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_are_checked_before_anything_is_loaded(settings, name):
    overrides, message = REFUSED[name]
    with pytest.raises(SpatialBoostError, match=message):
        load_config(settings, overrides)


def test_an_exchange_within_batches_of_one_row_is_refused(settings, tmp_path):
    given = {**settings, "out": str(tmp_path / "out")}
    with pytest.raises(SpatialBoostError, match=r"boost.exchange_views exchanges the rows .* is 1: set"):
        train(load_config(given, ["boost.exchange_views=true", "boost.batch_size=1"]))


def test_rows_of_one_view_alone_are_refused_before_anything_is_loaded(settings, tmp_path):
    only = {**settings, "data": {**settings["data"], "folders": settings["data"]["folders"][:1], "held_out": 1}}
    with pytest.raises(SpatialBoostError, match="all 4 rows have one view, and a field needs at least two"):
        train(load_config({**only, "out": str(tmp_path / "out")}))


def test_vggt_without_its_package_or_weights_is_told(settings, tmp_path):
    given = {**settings, "teacher": {**settings["teacher"], "geometry": {"kind": "vggt", "name": str(tmp_path)}}}
    with pytest.raises(SpatialBoostError, match=r"needs the package vggt|has no model.safetensors"):
        train(load_config({**given, "out": str(tmp_path / "out")}))


def test_the_tiny_preset_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_dataset(Rooms(6, size=64, views=4), tmp_path / "data/rooms-views", seed=0, plan=PLAN, with_depth=True)
    small = ["field.steps=2", "field.batch_size=2", "boost.steps=2", "boost.batch_size=2", "data.held_out=2"]
    result = train(load_config("spa3r/tiny", [*small, "device=cpu", "data.workers=0"]))
    assert result.stages["boost"]["rows"] == 4 and len(sb.status(result.encoder).layers) == 6

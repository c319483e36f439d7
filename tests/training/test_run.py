from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer
from typer.testing import CliRunner

import spatialboost as sb
from spatialboost.encoders import open_encoder, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.training import train_command
from spatialboost.training.config import load_config
from spatialboost.training.run import evaluate, open_teacher, train
from training_rows import SHAPE, make_rows, write_parquet


def settings(folder: Path, weights: Path, out: Path) -> dict[str, Any]:
    stage = {"steps": 8, "batch_size": 4, "log_every": 1, "save_every": 3, "lr": 1e-3}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(weights)},
        "teacher": {
            "kind": "language",
            "llm": {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}},
            "evaluate": 2,
        },
        "data": {"folders": [str(folder)], "image_size": 32, "held_out": 4},
        "stage1": {**stage, "steps": 2},
        "stage2": stage,
        "stage3": {**stage, "require_answers": False},
        "device": "cpu",
        "out": str(out),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of shards and the encoder's weights."""
    import timm

    base = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    encoder = timm.models.vision_transformer.VisionTransformer(**SHAPE)
    save_file(encoder.state_dict(), base / "encoder.safetensors")
    return write_parquet(make_rows(16), base / "data"), base / "encoder.safetensors"


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    config = load_config(settings(*world, tmp_path_factory.mktemp("run") / "out"))
    return config, train(config)


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_leaves_what_each_stage_has_learnt(finished):
    config, result = finished
    found = files(config.out)
    expected = {
        "config.json",
        "report.json",
        "losses.png",
        "stage1/projector.safetensors",
        "stage2/llm/model.safetensors",
    }
    assert expected | {"stage3/delta/model.safetensors", "stage3/delta/config.json"} <= found
    assert not [name for name in found if "checkpoint" in name or name.endswith((".bin", ".partial"))]
    report = json.loads((config.out / "report.json").read_text())
    assert set(report["stages"]) == {"stage1", "stage2", "stage3"} and report["stages"]["stage1"]["rows"] == 12
    assert {s["answerer"] for s in report["stages"]["stage3"]["scores"]} == {"image", "text", "guess"}
    assert [gate["layer"] for gate in report["gates"]] == [0, 1] and report["gates"][0]["mean"] != 0.5
    assert report["stages"]["stage3"]["fit"]["trainable"]["vlm"][0] == sum(
        p.numel() for _, p in sb.named_parameters(result.encoder)
    )


def test_the_delta_loads_onto_a_fresh_encoder(finished):
    config, result = finished
    fresh = sb.load_pretrained(open_encoder(config.encoder), result.delta).eval()
    images = torch.randn(2, 3, 32, 32)
    result.encoder.eval()
    assert torch.equal(read_tokens(fresh, images).patches, read_tokens(result.encoder, images).patches)
    facts = json.loads((result.delta / "config.json").read_text())["training"]
    assert facts["objective"] == "language" and facts["steps"] == 8


def test_finished_stages_are_loaded_and_not_trained_again(finished, monkeypatch):
    config, result = finished
    monkeypatch.setattr("spatialboost.training.stage.fit", None)  # training anything would fail
    again = train(config)
    ours, theirs = (each.teacher.objective.state_dict() for each in (again, result))
    assert set(ours) == set(theirs) and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_stage_can_be_left_out(world, tmp_path):
    given = {**settings(*world, tmp_path / "out"), "stage1": None, "stage3": None}
    given["teacher"] = {**given["teacher"], "evaluate": 0}
    given["data"] = {**given["data"], "limit": 5, "cache_gb": 1e-6}
    result = train(load_config(given))
    assert result.stages["stage2"]["rows"] == 5 and not (tmp_path / "out" / "features").exists()
    assert set(result.stages) == {"stage2"} and result.delta is None
    assert not (tmp_path / "out" / "stage3").exists()


def test_another_configuration_is_refused(finished):
    config, _ = finished
    given = config.model_dump()
    changed = {**given, "seed": 5, "stage3": {**given["stage3"], "lr": 0.5}}
    told = r"another configuration \(seed is 0 there and 5 here; stage3.lr is 0.001 there and 0.5 here\)"
    with pytest.raises(SpatialBoostError, match=told):
        train(load_config(changed))


def test_a_file_of_weights_may_be_elsewhere_but_not_other_weights(finished, tmp_path):
    config, _ = finished
    given = config.model_dump()
    state = load_file(given["encoder"]["weights"])
    save_file(state, tmp_path / "moved.safetensors")
    moved = {**given, "encoder": {**given["encoder"], "weights": tmp_path / "moved.safetensors"}}
    assert train(load_config(moved)).delta is not None
    save_file({**state, "cls_token": state["cls_token"] + 1}, tmp_path / "moved.safetensors")
    with pytest.raises(SpatialBoostError, match="the encoder has other weights than when the run"):
        train(load_config(moved))


def test_reading_with_workers_is_the_same_configuration_and_gives_the_same(finished, world, tmp_path):
    config, result = finished
    given = {**settings(*world, tmp_path / "out")}
    given["data"] = {**given["data"], "workers": 2}
    ours, theirs = (load_file(each / "model.safetensors") for each in (train(load_config(given)).delta, result.delta))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    train(config.model_copy(update={"data": config.data.model_copy(update={"workers": 2})}))  # finished: not refused


def test_a_bad_row_does_not_end_the_training(world, tmp_path):
    rows = make_rows(16)
    rows[2]["images"] = [{"bytes": b"no image", "path": None}]
    rows[5]["messages"] = rows[5]["messages"][:1]
    folder = write_parquet(rows, tmp_path / "data")
    given = settings(folder, world[1], tmp_path / "out")
    given["stage1"] = {**given["stage1"], "steps": 8}
    result = train(load_config(given))
    assert set(result.stages["stage1"]["skipped"]) == {2, 5} == set(result.stages["stage3"]["skipped"])
    written = json.loads((tmp_path / "out" / "report.json").read_text())["stages"]["stage1"]["skipped"]
    assert "not an image format" in written["2"] and "no assistant message" in written["5"]


def test_columns_that_the_teacher_needs_are_asked_for(world, tmp_path):
    given = {**settings(*world, tmp_path / "out"), "teacher": {"kind": "pixel"}}
    given = {key: value for key, value in given.items() if not key.startswith("stage")}
    with pytest.raises(
        SpatialBoostError, match=r"teacher 'pixel' needs the columns \['depths'\], and .* have \['images',"
    ):
        train(load_config(given))


def test_more_held_out_than_there_is(world, tmp_path):
    given = settings(*world, tmp_path / "out")
    given["data"]["held_out"] = 16
    with pytest.raises(SpatialBoostError, match="held_out is 16, but there are only 16 rows"):
        train(load_config(given))


def test_a_run_that_is_asked_to_end_saves_and_ends_the_same(finished, world, tmp_path, monkeypatch):
    _, result = finished
    given, step, calls = settings(*world, tmp_path / "out"), Trainer.training_step, iter(range(1, 100))

    def asked(self, *args, **kwargs):
        if next(calls) == 7:  # step 5 of stage 2, two steps after a checkpoint
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Trainer, "training_step", asked)
    with pytest.raises(SpatialBoostError, match=r"stage2 was asked to end \(SIGTERM\) .* after step 5: give the same"):
        train(load_config(given))
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "out" / "stage2" / "checkpoint-5").exists()
    monkeypatch.undo()
    resumed = train(load_config(given))
    assert resumed.stages["stage2"]["fit"]["resumed_from"] == 5
    ours, theirs = (load_file(each.delta / "model.safetensors") for each in (resumed, result))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_says_what_to_lower(world, tmp_path, monkeypatch, error):
    def full(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(Trainer, "training_step", full)
    with pytest.raises(
        SpatialBoostError, match="Set batch_size: 2 with accumulate: 2 in stage1, checkpointing: true, bf16"
    ):
        train(load_config(settings(*world, tmp_path / "out")))


def test_a_run_is_scored_again(finished, world, tmp_path):
    """`train eval`: on its held-out rows, and on others; the trained parts answer."""
    config, result = finished
    scores = evaluate(config.out, rows=4)
    assert {(s.kind, s.answerer) for s in scores} == {
        (kind, by) for kind in ("depth", "closer") for by in ("image", "text", "guess")
    }
    assert all(score.answers == 4 for score in scores)
    expected = {(s["kind"], s["answerer"]): s["loss"] for s in result.stages["stage3"]["scores"]}
    two = {(s.kind, s.answerer): s.loss for s in evaluate(config.out, rows=2)}
    assert two.keys() == expected.keys()
    assert all(expected[key] is None if loss is None else abs(loss - expected[key]) < 1e-3 for key, loss in two.items())
    other = write_parquet(make_rows(5, seed=9), tmp_path / "other")
    done = CliRunner().invoke(
        train_command.app, ["eval", str(config.out), "--data", str(other), "--out", str(tmp_path / "scores.json")]
    )
    assert done.exit_code == 0, done.output
    assert "answered from" in done.output
    assert {score["answers"] for score in json.loads((tmp_path / "scores.json").read_text())} == {5}


def test_a_teacher_is_opened_as_it_was_after_a_stage(finished):
    config, result = finished
    last, first = open_teacher(config.out).objective, open_teacher(config.out, until="stage1").objective
    trained = dict(sb.named_parameters(last.encoder))
    assert trained and all(torch.equal(p, dict(sb.named_parameters(result.encoder))[n]) for n, p in trained.items())
    with pytest.raises(SpatialBoostError, match="is not boosted"):
        list(sb.named_parameters(first.encoder))
    with pytest.raises(SpatialBoostError, match="stage 'stage9' is not finished; finished are"):
        open_teacher(config.out, until="stage9")


def test_what_cannot_be_scored_is_said(finished, tmp_path):
    config, _ = finished
    with pytest.raises(SpatialBoostError, match="expected the folder of a run"):
        evaluate(tmp_path)
    (tmp_path / "config.json").write_text((config.out / "config.json").read_text())
    with pytest.raises(SpatialBoostError, match="no stage is finished"):
        evaluate(tmp_path)
    with pytest.raises(SpatialBoostError, match="no parquet files"):
        evaluate(config.out, folders=[tmp_path])

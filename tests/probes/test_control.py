from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import spatialboost as sb
from spatialboost import cli
from spatialboost.errors import SpatialBoostError
from spatialboost.probes import CommonOptions, Features, run_probe
from spatialboost.probes.control import demonstrations
from spatialboost.probes.control.demonstrations import Demonstrations, record_demonstrations
from spatialboost.probes.control.policy import PolicyTraining, train_policy
from spatialboost.probes.control.probe import FIRST_EPISODE, ControlProbe, ControlTasks, run_episodes
from spatialboost.probes.control.simulator import TASKS, open_task
from spatialboost.probes.draws import take_all
from spatialboost.probes.protocol import ReadSplit
from spatialboost.probes.splits import Split

QUICK = {"episodes": 12, "evaluations": 2, "epochs": 40, "batch": 64, "rate": 0.003}


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tasks of somebody else: one file, and a line in the table for each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("Point", "Hard", "Blank", "Broken"):
        monkeypatch.setitem(TASKS, name.lower(), (f"point_task:{name}Task", name))


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)


def centres(images) -> torch.Tensor:
    """Features that contain the answer: where the two points are."""
    found = []
    for item in images:
        image = getattr(item, "image_HW3", item).astype(np.float64)
        y, x = (np.mgrid[: image.shape[0], : image.shape[1]] + 0.5) / image.shape[0]
        found.append([(grey * each).sum() / grey.sum() for grey in (image[..., 0], image[..., 1]) for each in (x, y)])
    return torch.tensor(found, dtype=torch.float32)


def noise(images) -> torch.Tensor:
    return torch.randn(len(images), 4, generator=torch.Generator().manual_seed(len(images)))


def measure(vectors, **options):
    def read(images) -> Features:
        return Features(torch.zeros(len(images), 1, 4), vectors(images), (1, 1), (32, 32), 0, "none")

    probe, splits = ControlProbe(**{**QUICK, **options}), []
    for source in record_demonstrations(["point"], demos=20, held_out=4, size=24):
        kept = [probe.keep(frame, (1, 1), (32, 32)) for frame in source]
        splits.append(ReadSplit(Split(source), read(list(source)), kept, features_of=read))
    return probe.measure("mine", *splits, [take_all(0).__class__(0, np.arange(len(splits[0])))], []), probe, splits


def test_features_that_contain_the_answer_solve_the_task_and_noise_does_not() -> None:
    (row,) = (found := measure(centres))[0].rows
    assert row.metrics["success"] >= 0.9 and row.metrics["action_error"] < 0.05
    assert row.metrics["success"] == np.mean(row.per_view) >= row.metrics["last"] and len(row.per_view) == 12
    (blind,) = measure(noise)[0].rows
    baseline = found[1].measure_baseline(*found[2])
    assert baseline.metrics["success"] <= 0.1 and blind.metrics["success"] <= 0.5 < row.metrics["success"]
    assert blind.metrics["action_error"] > 5 * row.metrics["action_error"]


def test_proprioception_is_a_part_of_the_input_if_it_is_asked_for() -> None:
    _, without, splits = measure(noise, epochs=2, episodes=1)
    _, probe, _ = measure(noise, epochs=2, episodes=1, proprioception=True)
    assert without._inputs(splits[0]).shape[1] == 12 and probe._inputs(splits[0]).shape[1] == 14


def test_the_history_of_a_frame_does_not_leave_its_demonstration() -> None:
    _, probe, (train, _) = measure(centres, epochs=2, episodes=1)
    inputs, vectors = probe._inputs(train), train.features.cls_VD
    for number, frame in enumerate(train.kept[:60]):
        for back in range(3):
            assert torch.equal(inputs[number, 4 * back : 4 * back + 4], vectors[number - min(back, frame.step)])


def test_episodes_are_the_same_whatever_runs_side_by_side() -> None:
    seen: dict[int, list] = {}

    def act(images, states, slots):
        return np.stack([simulators[slot].expert() for slot in slots])

    for side_by_side in (1, 3, 5):
        simulators = [open_task("point", 16) for _ in range(side_by_side)]
        seen[side_by_side] = run_episodes(simulators, act, None, 5)
    assert seen[1] == seen[3] == seen[5] == [1.0] * 5
    simulators = [open_task("point", 16)]
    simulators[0].reset(FIRST_EPISODE)
    assert run_episodes(simulators, lambda *_: np.zeros((1, 2)), None, 3) == [0.0] * 3


def test_base_against_boosted_on_the_same_demonstrations_and_episodes(tmp_path: Path) -> None:
    train, test = record_demonstrations(["point"], demos=4, held_out=1, size=32)
    options = CommonOptions(image_size=32, seeds=(0, 1), subset=1.0)
    probe = ControlProbe(episodes=3, evaluations=2, epochs=4, batch=32)
    result = run_probe(probe, sb.boost(tiny_vit()), train, test, options)
    assert result.names == ["base", "boosted", "mean action"] and result.gain("success").mean == 0  # not trained
    assert [len(row.per_view) for row in result.rows] == [3] * 5 and result.paired().p == 1.0
    assert (
        result.settings["token"] == "class token"
        and result.settings["score"] == "mean over tasks of the best evaluation"
    )
    again = run_probe(probe, sb.boost(tiny_vit()), train, test, options)
    assert again.to_dict()["rows"] == result.to_dict()["rows"]
    with pytest.raises(SpatialBoostError, match="give the encoder, not features"):
        features = [Features(torch.zeros(len(each), 1, 4), None, (1, 1), (32, 32), 0, "none") for each in (train, test)]
        run_probe(probe, {"mine": tuple(features)}, train, test, options)


def test_from_the_command_line_with_two_tasks(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(TASKS, "point2", TASKS["point"])
    monkeypatch.setattr(ControlProbe, "metrics", {**ControlProbe.metrics, **{
        f"success_{name}": ControlProbe.metrics["success"] for name in ("point", "point2")}})  # fmt: skip
    words = "spatialboost probe control --encoder timm:vit_tiny_patch16_224 --random-weights --image-size 32 --tasks"
    words += " point --tasks point2 --demos 2 --held-out 1 --frame-size 24 --episodes 2 --evaluations 1 --epochs 2"
    monkeypatch.setattr(
        sys, "argv", [*words.split(), "--seeds", "1", "--device", "cpu", "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    read = json.loads((tmp_path / "out" / "control.json").read_text())
    (row, baseline) = read["rows"]
    assert row["metrics"]["success"] == (row["metrics"]["success_point"] + row["metrics"]["success_point2"]) / 2
    assert len(row["per_view"]) == len(baseline["per_view"]) == 4 and read["settings"]["tasks"] == ["point", "point2"]


# --- demonstrations


def test_demonstrations_are_recorded_once_and_end_after_the_task_is_solved(monkeypatch, tmp_path, caplog) -> None:
    train, test = record_demonstrations(["point"], demos=3, held_out=2, size=16)
    assert {frame.demo for frame in train} == {0, 1, 2} and {frame.demo for frame in test} == {3, 4}
    assert train[0].image_HW3.shape == (16, 16, 3) and train[0].action.dtype == np.float32
    lengths = [sum(frame.demo == demo for frame in train) for demo in range(3)]
    assert all(demonstrations.AFTER < length < 20 for length in lengths)
    monkeypatch.setattr(demonstrations, "_record", lambda *_: pytest.fail("it is in the cache"))
    again, _ = record_demonstrations(["point"], demos=3, held_out=2, size=16)
    assert all(np.array_equal(a.image_HW3, b.image_HW3) for a, b in zip(train, again, strict=True))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(TASKS, "point", ("point_task:PointTask", "Point"))
    (file,) = (tmp_path / "cache" / "spatialboost" / "demonstrations").iterdir()
    file.write_bytes(file.read_bytes()[:500])
    anew, _ = record_demonstrations(["point"], demos=3, held_out=2, size=16)
    assert "recorded again" in caplog.text and len(anew) == len(train)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": ["hard"]}, "the expert failed in"),
        ({"tasks": ["blank"]}, "values from 0 to 0.*apt install libegl1"),
        ({"tasks": ["broken"]}, "no frame can be rendered.*eglQueryString.*MUJOCO_GL"),
        ({"tasks": ["pont"]}, "unknown task 'pont'.*Did you mean 'point'"),
        ({"tasks": []}, "at least one of each"),
        ({"tasks": ["point"], "demos": 0}, "demos 0"),
        ({"tasks": ["point"], "size": 8}, "frame_size 8"),
    ],
)
def test_tasks_that_cannot_be_recorded(given: dict, message: str) -> None:
    with pytest.raises(SpatialBoostError, match=message):
        record_demonstrations(**{"demos": 2, "held_out": 1, "size": 16, **given})


def test_wrong_options() -> None:
    for wrong in ({"token": "x"}, {"history": 0}, {"episodes": 0}, {"evaluations": 0}, {"epochs": 1}, {"rate": 0}):
        with pytest.raises(SpatialBoostError, match="expected"):
            ControlProbe(**wrong)
    with pytest.raises(SpatialBoostError, match="record_demonstrations"):
        ControlTasks.as_source("fetch-reach")
    with pytest.raises(SpatialBoostError, match="expected at least 2"):
        next(train_policy(torch.zeros(1, 3), torch.zeros(1, 2), PolicyTraining(), seed=0))
    assert Demonstrations([], 16, "none").tasks == []


# --- the real simulators, where they are installed


@pytest.mark.parametrize("task", ["fetch-reach", "reach", "button-press", "drawer-open", "hammer"])
def test_the_expert_of_a_real_task_solves_it(task: str) -> None:
    if task == "fetch-reach":
        pytest.importorskip("gymnasium_robotics", reason='pip install "spatialboost[control]"')
    else:
        pytest.importorskip("metaworld", reason='pip install "spatialboost[control]"')
    simulator = open_task(task, 64)
    simulator.reset(3)
    first, state = simulator.frame(), simulator.proprioception().copy()
    solved = any(simulator.step(simulator.expert()) for _ in range(simulator.horizon))
    assert solved and not np.array_equal(simulator.frame(), first)
    simulator.reset(4)
    assert not np.array_equal(simulator.frame(), first)
    simulator.reset(3)
    assert np.array_equal(simulator.frame(), first) and np.allclose(simulator.proprioception(), state)
    simulator.close()

"""A run whose prompt names the cells: conversations, shuffled answers, scores, resuming, an earlier run."""

from __future__ import annotations

import json

import pytest
import torch

from spatialboost.demo import ASSETS as DEMO
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms
from spatialboost.teachers.language import AlignConfig, ChatDataset, align, answer_accuracy
from spatialboost.training import load_config, train
from spatialboost.training.plan import plan
from spatialboost.training.run import evaluate
from spatialboost.vlm import SpatialVLM
from spatialboost.vlm.image_prompt import ImagePrompt
from training_rows import SHAPE, build

QUICK = {"steps": 2, "batch_size": 4, "save_every": 0, "lr": 1e-3, "pack": True}
GRID = (2, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells") / "data"
    plan = TurnPlan({"depth": 1, "closer": 1, "depths": 1}, cells=GRID)
    build_dataset(Rooms(16, size=32), folder, plan=plan, progress=False)
    return folder


def configuration(folder, out):
    small = {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2}}
    return {
        "encoder": {"library": "timm", "name": "VisionTransformer", "kwargs": SHAPE},
        "data": {"folders": [folder], "image_size": 32, "held_out": 6, "workers": 0},
        "teacher": {
            "llm": small,
            "prompt": "named",
            "tokens_per_cell": 2,
            "standardise": True,
            "projector_start": "digits",
            "evaluate": 6,
        },
        "stage1": QUICK,
        "stage2": QUICK,
        "stage3": {**QUICK, "require_answers": False},
        "device": "cpu",
        "out": out,
    }


def test_points_are_said_by_names_and_answers_stay_true(folder):
    rows = open_rows([folder])
    vlm, _, dataset = build(list(rows), prompt=ImagePrompt(GRID, "named"))
    for number in range(len(rows)):
        row = rows[number]
        assert check_conversation(row["messages"], json.loads(row["meta"])) == []
        messages, kinds = dataset.make_example.chat(number, row)
        names = {(0.25, 0.25): "A1", (0.75, 0.25): "A2", (0.25, 0.75): "B1", (0.75, 0.75): "B2"}
        for turn, kind in enumerate(kinds):
            facts = json.loads(row["meta"])["turns"][turn]
            asked, answer = (messages[2 * turn + k]["content"] for k in (0, 1))
            said = [names[tuple(point)] for point in facts["points"]]
            assert "(0." not in asked + answer and all(name in asked for name in said)
            if kind == "depths":
                pairs = [part.split(": ") for part in answer.removesuffix(".").split("; ")]
                assert [name for name, _ in pairs] == said
                assert [float(depth) for _, depth in pairs] == pytest.approx(facts["depths"], abs=0.0501)
    assert dataset[0]["visual_mask"].sum() == 4
    with pytest.raises(SpatialBoostError, match=r"the conversations have the prompt .*ChatDataset\(..., prompt=vlm"):
        align(vlm, dataset, AlignConfig(steps=1), folder=folder.parent / "stage")
    assert isinstance(vlm, SpatialVLM)


def test_shuffled_depths_keep_their_points(folder):
    rows = list(open_rows([folder]))
    own, other = (build(rows, prompt=ImagePrompt(GRID, "named"), **more)[2] for more in ({}, {"shuffle_answers": True}))
    changed = asked = 0
    for number, row in enumerate(rows):
        (true, kinds), (false, _) = (each.make_example.chat(number, row) for each in (own, other))
        for turn, kind in enumerate(kinds):
            if kind == "depths":
                pair = [each[2 * turn + 1]["content"].removesuffix(".").split("; ") for each in (true, false)]
                assert [part.split(": ")[0] for part in pair[0]] == [part.split(": ")[0] for part in pair[1]]
                asked, changed = asked + 1, changed + (pair[0] != pair[1])
    assert asked > 3 and changed > asked / 2


def test_a_run_with_names_is_scored_saved_and_taken_up(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    config = configuration(folder, tmp_path / "run")
    result = train(load_config(config))
    teacher = result.teacher
    assert teacher.num_tokens == 8 and result.delta.is_dir()
    readiness = result.stages["stage3"]["readiness"]
    assert set(readiness["kinds"]) == {"depth", "closer", "depths"}
    held_out = ChatDataset(
        open_rows([folder]), _images(result), teacher.tokenizer, numbers=range(8, 14), prompt=teacher.vlm.prompt
    )
    scores = answer_accuracy(teacher.vlm, teacher.tokenizer, held_out, kinds=None, max_new_tokens=None, progress=False)
    assert {score.kind for score in scores} == {"depth", "closer", "depths"}
    guess = next(each for each in scores if (each.kind, each.answerer) == ("depths", "guess"))
    assert 0 < guess.relative_error < 1  # the median depth, not a missing one

    assert evaluate(tmp_path / "run", folders=[folder], rows=2)  # other rows, of which none is trained on
    again = train(load_config(config))  # everything is finished: only loaded
    for ours, theirs in zip(again.teacher.vlm.projector.parameters(), teacher.vlm.projector.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(again.teacher.vlm.projector[0].mean_D, teacher.vlm.projector[0].mean_D)
    assert float(teacher.vlm.projector[0].spread_D.std()) > 0  # measured

    later = {**config, "stage1": None, "stage2": None, "out": tmp_path / "later"}
    later["teacher"] = {**config["teacher"], "earlier_run": tmp_path / "run"}
    taken = train(load_config(later))
    torch.testing.assert_close(taken.teacher.vlm.projector[1].weight, teacher.vlm.projector[1].weight)
    with pytest.raises(SpatialBoostError, match=r'trained with teacher.prompt: "named", and here .* is "plain"'):
        train(load_config({**later, "out": tmp_path / "plain"}, ["teacher.prompt=plain"]))


@pytest.mark.parametrize("with_data", [True, False])
def test_a_plan_has_the_parts_of_the_run(folder, tmp_path, with_data):
    config = configuration(folder if with_data else tmp_path / "nowhere", tmp_path / "run")
    config["teacher"]["llm"] = {"name": str(DEMO / "llm")}
    for stage in ("stage1", "stage2", "stage3"):
        config[stage] = {**config[stage], "pack": False}
    stages = {each.name: each for each in plan(load_config(config))}
    inside = 48 * 128 + 128 + 128 * 2 * 128 + 2 * 128  # two tokens of each cell, for a language model of width 128
    assert stages["stage1"].trained == inside and stages["stage1"].total() > 0
    assert not (tmp_path / "run").exists()


def _images(result):
    from spatialboost.training import RowImages

    return RowImages(result.encoder, 32)


def test_points_outside_the_grid_are_refused_before_anything_is_built():
    for wrong in ((0, 4), (4,), (4, 51), "4x4", (4, 2.5)):
        with pytest.raises(SpatialBoostError, match="expected rows and columns from 1 to 50"):
            TurnPlan({"depth": 1}, cells=wrong)

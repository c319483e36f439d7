"""Prompts, scores and means are those of lmms-eval's own functions, on the same rows and the same replies."""

from __future__ import annotations

import importlib
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark_writers import SPAR, WRITERS
from spatialboost.evaluation import find_benchmark
from spatialboost.evaluation.benchmark import sums

pytest.importorskip("lmms_eval", reason='needs lmms-eval: pip install "spatialboost[lmms-eval]"')

REPLIES = (
    *("A", "(B)", "B.", "c", "D. back", "The correct answer is (A).", "I think the answer is C because of it"),
    *("It is (B), not (C)", "A\nB", "the bed", "Answer: D", " A ", "(a) left", "E", "a chair", "None of them"),
    *("3", "2.5", "2.4 m", "about 1.8", "twenty-one", "three hundred and twenty-one", "one apple, room 2", "204cm"),
    *("-1", "x^2 is 4.0", "2 or 3.1", "1.9, 2.6", "0", "24.0 square meters", "many"),
    *("move_right:0.3,move_up:0.1", "move_left:0.2,rotate_right:20", "move_right:much", "turn left"),
    *(truth for _, truth in SPAR.values()),
)
TASKS = {
    "blink": ("blink", "_default_template_yaml"),
    "cv-bench": ("cv_bench", "_default_template_yaml"),
    "spar-bench": ("sparbench", "_default_template_yaml"),
    "view-spatial": ("viewspatial", "viewspatial.yaml"),
    "vsi-bench": ("vsibench", "_default_template_yaml"),
}


def theirs(name: str) -> tuple[Any, dict[str, Any]]:
    """The functions of lmms-eval's task, and the wording that it gives them."""
    folder, template = TASKS[name]
    module = importlib.import_module(f"lmms_eval.tasks.{folder}.utils")
    if name == "spar-bench":  # it uses the name without importing it, and takes the error for a wrong answer
        module.partial = partial
    lines = Path(module.__file__).with_name(template).read_text(encoding="utf-8").splitlines()
    options = yaml.safe_load("\n".join(line for line in lines if "!function" not in line))
    return module, (options.get("lmms_eval_specific_kwargs") or {}).get("default", {})


def their_prompt(module: Any, name: str, row: dict[str, Any], wording: dict[str, Any]) -> str:
    return getattr(module, f"{TASKS[name][0]}_doc_to_text")(row, wording)


def their_results(module: Any, name: str, rows: list[dict[str, Any]], replies: list[str]) -> dict[str, list[Any]]:
    process = getattr(module, f"{TASKS[name][0]}_process_results")
    found: dict[str, list[Any]] = {}
    for row, reply in zip(rows, replies, strict=True):
        for metric, value in process(deepcopy(row), [reply]).items():
            found.setdefault(metric, []).append(value)
    return found


def ours(name: str, questions: list[Any], replies: list[str]) -> dict[str, float]:
    benchmark = find_benchmark(name)
    scores = [benchmark.score(question, reply) for question, reply in zip(questions, replies, strict=True)]
    return benchmark.means(sums(questions, scores))


@pytest.fixture(scope="module", params=TASKS)
def task(request, tmp_path_factory) -> tuple[str, list[dict[str, Any]], list[Any]]:
    folder = tmp_path_factory.mktemp(request.param)
    rows = WRITERS[request.param](folder)
    questions = find_benchmark(request.param).read(folder).questions
    assert len(questions) == len(rows)
    return request.param, rows, questions


def drawn(count: int, shift: int) -> list[str]:
    return [REPLIES[(7 * number + shift) % len(REPLIES)] for number in range(count)]


def test_prompts_are_equal(task):
    name, rows, questions = task
    module, wording = theirs(name)
    assert [their_prompt(module, name, row, wording) for row in rows] == [question.prompt for question in questions]


def test_every_reply_scores_the_same(task):
    name, rows, questions = task
    module, _ = theirs(name)
    benchmark = find_benchmark(name)
    for row, question in zip(rows, questions, strict=True):
        for reply in REPLIES:
            found = their_results(module, name, [row], [reply])
            assert benchmark.score(question, reply) == _score(found), (question.id, reply)


def _score(found: dict[str, list[Any]]) -> float:
    """The score of the only row, wherever the task keeps it."""
    value = next(iter(found.values()))[0]
    for key in ("is_correct", "score", "accuracy", "MRA:.5:.95:.05", "vci_metric"):
        if key in value:
            return float(value[key])
    raise AssertionError(value)


@pytest.mark.parametrize("shift", range(12))
def test_means_are_equal(task, shift):
    name, rows, questions = task
    module, _ = theirs(name)
    replies = drawn(len(rows), shift)
    found, mine = their_results(module, name, rows, replies), ours(name, questions, replies)
    if name == "vsi-bench":
        pairs = {
            "vsibench_overall": "overall",
            "obj_appearance_order_accuracy": "obj_appearance_order",
            "object_rel_direction_accuracy": "object_rel_direction",
            "object_rel_distance_accuracy": "object_rel_distance",
            "route_planning_accuracy": "route_planning",
            **{f"{kind}_mra": kind for kind in ("object_abs_distance", "object_counting", "object_size_estimation")},
            "room_size_estimation_mra": "room_size_estimation",
        }
        for metric, category in pairs.items():
            aggregate = getattr(module, f"vsibench_aggregate_{metric.removeprefix('vsibench_')}")
            assert aggregate(found[metric]) == round(mine[category], 6), metric
    elif name == "spar-bench":
        subscores = module._compute_all_subscores(found["sparbench_score"])
        suffix = "_MRA:.5:.95:.05"
        renamed = {
            k.removesuffix(suffix).removesuffix("_accuracy").removesuffix("_vci_metric"): v
            for k, v in subscores.items()
        }
        assert renamed == mine
        assert module.sparbench_aggregate_results(found["sparbench_score"]) == mine["overall"] * 100
    elif name == "view-spatial":
        assert module.viewspatial_aggregate_results(found["overall_accuracy"]) == mine["overall"]
        for title, metric in module.VIEWSPATIAL_QUESTION_TYPES.items():
            aggregate = getattr(module, f"viewspatial_aggregate_{metric}")
            assert aggregate(found[f"{metric}_accuracy"]) == mine[title]
    elif name == "blink":
        assert module.blink_aggregate_results(found["blink_acc"]) == mine["accuracy"]
        for kind in {row["sub_task"] for row in rows}:
            part = [each for each in found["blink_acc"] if each["sub_task"] == kind]
            assert module.blink_aggregate_results(part) == mine[kind]
    else:
        assert module.cv_bench_aggregate_results(found["cv_bench_acc"]) == mine["accuracy"]
        assert module.cv_bench_default_aggregate_results(found["cv_bench_acc"]) == mine["overall"]


def test_known_differences_of_spar_bench(tmp_path):
    """Where lmms-eval 0.7.3 is wrong: an empty reply is right in every choice, and every number is wrong."""
    rows = WRITERS["spar-bench"](tmp_path)
    benchmark = find_benchmark("spar-bench")
    module, _ = theirs("spar-bench")
    for row, question in zip(rows, benchmark.read(tmp_path).questions, strict=True):
        if question.letters:
            assert _score(their_results(module, "spar-bench", [row], [""])) == 1.0
            assert benchmark.score(question, "") == 0.0
        elif "prediction" in question.category:
            assert benchmark.score(question, question.truth) == 1.0
            del module.partial
            assert _score(their_results(module, "spar-bench", [row], [question.truth])) == 0.0
            module.partial = partial

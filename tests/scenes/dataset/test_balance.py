"""What the text of the questions tells is left out; the rest of a data set stays as it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.balance import LEFT_OUT, balance_dataset, told_turns
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.schema import dataset_facts, dataset_files
from spatialboost.scenes.dataset.text_only import measure_text_only
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.checker import check_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from tiny_cues import tiny_cues

NAMES = ["red box", "blue ball", "grey chair", "green lamp"]


def talks(told: float, num: int = 240) -> list[tuple[list[dict[str, str]], dict]]:
    """Conversations with one question each. In this share of them, the object that comes first in NAMES is above."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(num):
        a, b = rng.permutation(4)[:2]
        above = a < b if rng.random() < told else rng.random() < 0.5
        answer = f"The {NAMES[a]} is {'above' if above else 'below'}. Answer: {'Yes' if above else 'No'}."
        messages = [("user", f"<image>\nIs the {NAMES[a]} above the {NAMES[b]}?"), ("assistant", answer)]
        turns = [{"kind": "above_below", "names": [NAMES[a], NAMES[b]]}]
        found.append(([{"role": role, "content": text} for role, text in messages], {"turns": turns, "source": str(i)}))
    return found


def test_what_names_tell_is_left_out():
    rows = talks(told=0.6, num=400)
    before = measure_text_only(rows)["above_below"]
    assert before.text_only > before.prior + 0.15
    told = told_turns(rows)
    after = measure_text_only([row for i, row in enumerate(rows) if i not in told])["above_below"]
    assert after.prior < before.prior + 0.05  # neither answer becomes more frequent
    assert after.text_only <= after.prior + 0.05
    assert after.asked > 130  # the turns that the names do not tell are still there
    assert told_turns(rows) == told


def test_questions_that_tell_nothing_stay():
    assert len(told_turns(talks(told=0.0))) < 12


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """One view again and again, as on a walk through a room with few things."""
    folder = tmp_path_factory.mktemp("walk") / "walk"
    views = [replace(tiny_cues(), source=f"frame {i}") for i in range(50)]
    plan = TurnPlan({"closer": 1, "left_right": 1, "caption": 1})
    build_dataset(views, folder, plan=plan, rows_per_shard=20, with_depth=True, progress=False)
    return folder


@pytest.fixture(scope="module")
def balanced(walk):
    return balance_dataset(walk, walk.parent / "balanced")


def test_a_data_set_loses_only_the_turns_that_the_text_tells(walk, balanced):
    before = open_rows([walk])
    metas = [json.loads(row["meta"]) for row in before]
    told = measure_text_only(zip([row["messages"] for row in before], metas, strict=True))
    assert told["left_right"].text_only > told["left_right"].prior + 0.1
    report, after = balanced, open_rows([balanced.path])
    assert report.left_out["left_right"] > 10
    assert "caption" not in report.left_out
    assert len(after) == report.rows == 50
    for old, new in zip(before, after, strict=True):
        meta = json.loads(new["meta"])
        assert not check_conversation(new["messages"], meta)
        assert new["messages"][0]["content"].startswith("<image>\n")
        gone = [turn for turn in json.loads(old["meta"])["turns"] if turn not in meta["turns"]]
        assert {turn["kind"] for turn in gone} == {
            kind for kind, why in meta.get("left_out", {}).items() if why == LEFT_OUT
        }
        assert (old["images"], old["depths"], old["poses"]) == (new["images"], new["depths"], new["poses"])
    manifest = json.loads((balanced.path / "manifest.json").read_text())
    assert manifest["balanced"]["left_out"] == report.left_out
    assert manifest["manifest.json"]["settings"]["items"] == 50
    assert dataset_facts(dataset_files(balanced.path)[0])["source"].endswith(" balanced")


def test_the_new_folder_must_not_exist(walk, tmp_path):
    with pytest.raises(SpatialBoostError, match="exists; choose another folder"):
        balance_dataset(walk, tmp_path)
    with pytest.raises(SpatialBoostError, match="no parquet files"):
        balance_dataset(tmp_path, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_no_build_continues_a_balanced_data_set(balanced):
    with pytest.raises(SpatialBoostError, match="was built with source"):
        build_dataset([tiny_cues()] * 50, balanced.path, rows_per_shard=20, with_depth=True, progress=False)

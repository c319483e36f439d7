"""lmms-eval itself runs our models on its own tasks, with the data in a local folder: its scores are ours."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

import tiny_vlms
from benchmark_writers import write_blink, write_vsi_bench
from spatialboost.evaluation import evaluate
from tiny_language_models import save_llava

pytest.importorskip("lmms_eval", reason='needs lmms-eval: pip install "spatialboost[lmms-eval]"')


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def run_lmms_eval(folder: Path, template: str, task: dict, model_args: str) -> dict:
    """The scores of a task, whose file takes all but the place of the data from lmms-eval's own one."""
    import lmms_eval.tasks
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    own = Path(lmms_eval.tasks.__file__).parent / template
    (folder / "task").mkdir()
    (folder / "task" / f"{task['task']}.yaml").write_text(yaml.safe_dump({"include": str(own), **task}))
    manager = TaskManager(include_path=str(folder / "task"))
    options = {"model": "spatialboost", "model_args": model_args, "batch_size": 1, "task_manager": manager}
    found = simple_evaluate(**options, tasks=[task["task"]], device="cpu", log_samples=True)
    return found


def replies(found: dict, task: str) -> list[str]:
    return [sample["resps"][0][0] for sample in sorted(found["samples"][task], key=lambda sample: sample["doc_id"])]


def our_replies(out: Path, seen: str, ids: list[str]) -> list[str]:
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    found = {line["question"]: line["reply"] for line in lines if line["seen"] == seen}
    return [found[each] for each in ids]


def test_the_entry_point_names_our_model_class():
    from lmms_eval.models import get_model

    named = [each for each in entry_points(group="lmms_eval.models") if each.name == "spatialboost"]
    if not named:
        pytest.skip("spatialboost is not installed, so that lmms-eval cannot find it")
    assert named[0].load()().model_id == "spatialboost"
    assert get_model("spatialboost").__name__ == "SpatialBoostModel"


def test_blink(tmp_path):
    rows = [row for row in write_blink(tmp_path / "data") if row["sub_task"] == "Relative_Depth"]
    prompt = (
        f"Note: You only need to respond with A, B without providing any additional information.\n{rows[1]['prompt']}"
    )
    save_llava(tmp_path / "llava", prompt, {60: "B", 180: "A"}, steps=60)
    file = tmp_path / "data" / "Relative_Depth" / "val-00000-of-00001.parquet"
    task = {"task": "blink_here", "dataset_path": "parquet", "dataset_kwargs": {"data_files": {"val": str(file)}}}
    found = run_lmms_eval(tmp_path, "blink/_default_template_yaml", task, f"model={tmp_path / 'llava'}")
    ours = evaluate("blink", tmp_path / "llava", data=file, out=tmp_path / "out", device="cpu")
    theirs = next(v for key, v in found["results"]["blink_here"].items() if key.startswith("blink_acc,"))
    assert 0 < theirs < 1 and theirs == ours.means["image"]["accuracy"]
    assert replies(found, "blink_here") == our_replies(tmp_path / "out", "image", [row["idx"] for row in rows])


def test_vsi_bench_with_videos_and_without(tmp_path, monkeypatch):
    data = tmp_path / "vsibench"  # where lmms-eval looks for the videos: a folder in HF_HOME
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    rows = write_vsi_bench(data)
    tiny_vlms.save("qwen2_5_vl", tmp_path / "qwen")
    file = data / "test-00000-of-00001.parquet"
    task = {"task": "vsi_here", "dataset_path": "parquet", "test_split": "test"}
    task["dataset_kwargs"] = {"data_files": {"test": str(file)}}
    ours = evaluate("vsi-bench", tmp_path / "qwen", data=data, out=tmp_path / "out", frames=3, device="cpu")
    template = "vsibench/_default_template_yaml"
    for seen, more in (("image", ""), ("text", ",text_only=True")):
        folder = tmp_path / seen
        folder.mkdir()
        found = run_lmms_eval(folder, template, task, f"model={tmp_path / 'qwen'},frames=3{more}")
        assert replies(found, "vsi_here") == our_replies(tmp_path / "out", seen, [str(row["id"]) for row in rows])
        theirs = next(v for key, v in found["results"]["vsi_here"].items() if key.startswith("vsibench_overall,"))
        assert theirs == round(ours.means[seen]["overall"], 6)

"""A whole evaluation: replies, resuming, baselines, and what is said of mistakes. Models are true classes, tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tiny_vlms
from benchmark_writers import WRITERS, write_blink, write_view_spatial, write_vsi_bench
from spatialboost.cli import app
from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation import Question, evaluate, find_benchmark, open_answerer, score
from spatialboost.evaluation.baseline import constant_answers, differences
from tiny_language_models import save_llama, save_llava


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Looks:
    """Knows the answer to a question of ViewSpatial's writer by the brightness of its image; says A without one."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.calls, self.stop_after = 0, stop_after

    def __call__(self, prompt: str, images: list[Any], *, max_new_tokens: int) -> str:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        if not images:
            return "A"
        return "ABCD"[round(np.asarray(images[0]).mean() / 25) % 4]


def test_a_model_that_looks_beats_itself_without_images(tmp_path):
    write_view_spatial(tmp_path / "data")
    result = evaluate("view-spatial", Looks(), data=tmp_path / "data", out=tmp_path / "out")
    assert result.means["image"]["overall"] == 1.0 and result.means["text"]["overall"] == 0.3
    assert result.means["constant"]["overall"] == 0.5 and result.means["chance"]["overall"] == 0.25
    gain = result.differences["text"]["overall"]
    assert gain.value == pytest.approx(0.7) and 0 < gain.low < 0.7 < gain.high <= 1
    saved = json.loads((tmp_path / "out" / "result.json").read_text())
    assert saved["means"]["image"]["overall"] == 1.0 and saved["settings"]["model"] == "Looks"
    assert {"python", "torch", "transformers"} <= saved["settings"]["versions"].keys()
    assert sum(saved["counts"].values()) == 10 and not saved["unread"]["image"]


def test_a_second_run_asks_only_what_is_missing(tmp_path):
    write_view_spatial(tmp_path / "data")
    places = {"data": tmp_path / "data", "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        evaluate("view-spatial", Looks(stop_after=7), **places)
    with (tmp_path / "out" / "answers.jsonl").open("a") as file:
        file.write('{"question": "ViewSpatial-Bench.json:9", "se')  # killed while it wrote
    second = Looks()
    result = evaluate("view-spatial", second, **places)
    assert second.calls == 20 - 7 and result.means["image"]["overall"] == 1.0
    third = Looks(stop_after=0)
    assert evaluate("view-spatial", third, **places).means == result.means
    with pytest.raises(
        SpatialBoostError, match=r"replies of other settings \(max_new_tokens differ; .* was 100 and is 5"
    ):
        evaluate("view-spatial", Looks(), **places, max_new_tokens=5)


def test_a_limit_can_be_raised_later(tmp_path):
    write_view_spatial(tmp_path / "data")
    places = {"data": tmp_path / "data", "out": tmp_path / "out"}
    assert sum(evaluate("view-spatial", Looks(), **places, limit=4).counts.values()) == 4
    rest = Looks()
    evaluate("view-spatial", rest, **places, text_only=False)
    assert rest.calls == 6


def test_bad_images_are_skipped_counted_and_named(tmp_path, caplog):
    write_view_spatial(tmp_path / "data")
    broken = sorted((tmp_path / "data").rglob("*.jpg"))[0]
    broken.write_bytes(b"no image")
    result = evaluate("view-spatial", Looks(), data=tmp_path / "data", out=tmp_path / "out")
    assert sum(result.counts.values()) == 9 and len(result.skipped) == 1
    assert "cannot be read as an image" in next(iter(result.skipped.values()))
    assert "1 questions were not asked" in caplog.text


def test_questions_that_all_have_the_same_answer_are_noted():
    questions = [Question(str(number), ("depth",), "Which?", "A", letters="AB") for number in range(3)]
    result = score(find_benchmark("view-spatial"), questions, {"image": ["A", "A", "A"], "text": ["A", "A", "A"]})
    assert result.notes == ("all 3 answers of depth are 'A', so its score tells nothing",)
    assert result.means["constant"]["overall"] == 1.0 and result.differences["text"]["overall"].value == 0


def test_replies_without_an_answer_are_counted():
    questions = [Question(str(number), ("depth",), "Which?", "A", letters="AB") for number in range(3)]
    result = score(find_benchmark("view-spatial"), questions, {"image": ["A", "C", "none"]})
    assert result.unread == {"image": 2} and "2 of 3 from image" in result.lines()[0]


def test_the_best_constant_of_numbers():
    truths = ["1", "2", "2.1", "2.2", "9"]
    questions = [Question(str(i), ("object_counting",), "How many?", truth) for i, truth in enumerate(truths)]
    assert constant_answers(find_benchmark("vsi-bench"), questions) == {("object_counting",): "2.1"}


def test_the_interval_is_that_of_the_scenes():
    """Ten questions on each of twelve scenes, all right or all wrong: as wide as of twelve questions."""
    rng = np.random.default_rng(0)
    right = rng.random(12) < 0.5
    questions, ours = [], []
    for scene, value in enumerate(right):
        for number in range(10):
            questions.append(Question(f"{scene}-{number}", ("depth",), "?", "A", letters="AB", scene=str(scene)))
            ours.append(float(value))
    found = differences(find_benchmark("view-spatial"), questions, ours, [0.0] * len(ours))["overall"]
    spread = np.std(right) / np.sqrt(12)
    assert found.value == pytest.approx(right.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_llava_on_blink(tmp_path, caplog):
    """The true class, taught nothing: several images, replies on disk, all of them scored."""
    rows = write_blink(tmp_path / "data")
    save_llava(tmp_path / "llava", rows[0]["prompt"], {0: "A", 255: "B"}, steps=0)
    result = evaluate("blink", tmp_path / "llava", data=tmp_path / "data", out=tmp_path / "out", max_new_tokens=3)
    assert sum(result.counts.values()) == 12 and not result.skipped
    assert result.settings["class"] == "LlavaForConditionalGeneration" and result.settings["dtype"] == "float32"
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 24 and "frames" not in result.settings


def test_qwen_on_videos_by_the_command(tmp_path):
    write_vsi_bench(tmp_path / "data")
    tiny_vlms.save("qwen2_5_vl", tmp_path / "qwen")
    command = ["evaluate", "vsi-bench", "--model", tmp_path / "qwen", "--data", tmp_path / "data"]
    command += ["--out", tmp_path / "out", "--frames", 3, "--limit", 6, "--max-new-tokens", 2, "--device", "cpu"]
    done = CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    assert done.exit_code == 0 and "difference (95 %)" in done.output and "result.json" in done.output
    saved = json.loads((tmp_path / "out" / "result.json").read_text())
    assert saved["settings"]["frames"] == 3 and sum(saved["counts"].values()) == 6
    assert saved["settings"]["class"] == "Qwen2_5_VLForConditionalGeneration" and saved["settings"]["limit"] == 6


def test_the_reply_of_a_model_depends_on_the_image(tmp_path):
    from PIL import Image

    save_llava(tmp_path, "How bright is it?", {0: "dark", 255: "bright"}, steps=60)
    answerer = open_answerer(tmp_path, device="cpu")
    said = [answerer("How bright is it?", [Image.new("RGB", (28, 28), (v,) * 3)], max_new_tokens=4) for v in (0, 255)]
    assert said == ["dark", "bright"]
    assert answerer("How bright is it?", [], max_new_tokens=4) in ("dark", "bright", "")


def test_models_that_cannot_answer(tmp_path):
    with pytest.raises(SpatialBoostError, match="nowhere/at-all"):
        open_answerer("nowhere/at-all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpatialBoostError, match=r"empty has no config.json; expected the folder of a model"):
        open_answerer(tmp_path / "empty")
    save_llama(tmp_path / "llama", ["some words"])
    with pytest.raises(SpatialBoostError, match="is a llama, from which no AutoModelForImageTextToText can be built"):
        open_answerer(tmp_path / "llama")
    with pytest.raises(SpatialBoostError, match="dtype is 'int3'; expected one of auto, float32"):
        open_answerer(tmp_path / "llama", dtype="int3")
    save_llava(tmp_path / "llava", "some words", {0: "dark"}, steps=0)
    with pytest.raises(SpatialBoostError, match="device is 'tpu9'"):
        open_answerer(tmp_path / "llava", device="tpu9")
    for file in ("chat_template.jinja", "chat_template.json"):
        (tmp_path / "llava" / file).unlink(missing_ok=True)
    _without_template(tmp_path / "llava" / "tokenizer_config.json")
    _without_template(tmp_path / "llava" / "processor_config.json")
    with pytest.raises(SpatialBoostError, match="llava has no chat template"):
        open_answerer(tmp_path / "llava")


def _without_template(file: Path) -> None:
    if file.is_file():
        content = json.loads(file.read_text())
        content.pop("chat_template", None)
        file.write_text(json.dumps(content))


def test_a_model_that_fails_at_every_question_is_an_error(tmp_path):
    write_view_spatial(tmp_path / "data")

    def refuses(prompt, images, *, max_new_tokens):
        raise SpatialBoostError("too long")

    with pytest.raises(SpatialBoostError, match=r"none of 10 questions could be asked; .*: too long"):
        evaluate("view-spatial", refuses, data=tmp_path / "data", out=tmp_path / "out")


@pytest.mark.parametrize("option", ["frames", "limit", "max_new_tokens"])
def test_numbers_below_one(option, tmp_path):
    WRITERS["view-spatial"](tmp_path)
    with pytest.raises(SpatialBoostError, match=f"{option} is 0; expected at least 1"):
        evaluate("view-spatial", Looks(), data=tmp_path, out=tmp_path / "out", **{option: 0})

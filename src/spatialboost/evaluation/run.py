"""Ask a model all questions of a benchmark, with the images and without them, and score its replies."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation.answerer import Answerer, facts_of, open_answerer
from spatialboost.evaluation.answers import IMAGE, TEXT, AnswersFile
from spatialboost.evaluation.baseline import chance, constant_answers, differences
from spatialboost.evaluation.benchmark import Benchmark, sums
from spatialboost.evaluation.question import Question
from spatialboost.evaluation.registry import find_benchmark
from spatialboost.evaluation.result import EvaluationResult

logger = logging.getLogger(__name__)

PACKAGES = ("spatialboost", "torch", "transformers", "numpy", "pillow", "av")


def evaluate(
    benchmark: str | Benchmark,
    model: str | Path | Answerer,
    *,
    data: str | Path,
    out: str | Path,
    text_only: bool = True,
    frames: int = 32,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    progress: bool = False,
) -> EvaluationResult:
    """Evaluate a vision-language model on a benchmark of spatial questions.

    Example:
        >>> result = evaluate("vsi-bench", "Qwen/Qwen2.5-VL-3B-Instruct", data="VSI-Bench", out="runs/vsi")
        ... # doctest: +SKIP
        >>> result.means["image"]["overall"], result.differences["text"]["overall"].value  # doctest: +SKIP

    Replies are appended to ``answers.jsonl`` in `out` as they come. The same call again asks only the questions that
    have no reply yet. ``result.json`` has all scores and settings.

    Args:
        benchmark: Its name, see `spatialboost.evaluation.registry.BENCHMARKS`.
        model: Folder or id of a model, or a function, see `open_answerer`.
        data: Folder of the benchmark as it is handed out, or one of its tables.
        out: Folder for replies and scores.
        text_only: Ask each question also without its images.
        frames: Frames of a video.
        limit: Ask only so many questions, evenly spaced; None asks all.
        max_new_tokens: Length of a reply; None takes the benchmark's.
        dtype: Dtype of the weights, see `open_answerer`.
        device: ``auto``, or a name of torch.
        progress: Show a progress bar.

    Raises:
        SpatialBoostError: The folder is none of this benchmark, the model is unknown, `out` has replies of other
            settings, or no question could be asked.
    """
    own = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    for name, value in {"frames": frames, "limit": limit, "max_new_tokens": max_new_tokens}.items():
        if value is not None and value < 1:
            raise SpatialBoostError(f"{name} is {value}; expected at least 1")
    folder = user_path(out)
    reading = own.read(data)
    questions = _some(reading.questions, limit)
    answerer = open_answerer(model, dtype=dtype, device=device)
    length = own.max_new_tokens if max_new_tokens is None else max_new_tokens
    tables = {f"{file.parent.name}/{file.name}": file.stat().st_size for file in reading.files}
    settings = {"benchmark": own.title, "tables": tables, **facts_of(answerer), "max_new_tokens": length}
    if any(question.video is not None for question in questions):
        settings["frames"] = frames
    skipped = dict(reading.skipped)
    ways = (IMAGE, TEXT) if text_only else (IMAGE,)
    with AnswersFile(folder, settings) as answers:
        by_video = sorted(questions, key=lambda question: str(question.video or ""))  # so that it is decoded once
        for question in tqdm(by_video, desc=own.title, disable=not progress):
            try:
                _ask(answerer, question, answers, ways, frames, length)
            except SpatialBoostError as error:
                skipped[question.id] = str(error)
    asked = [each for each in questions if all((each.id, way) in answers.replies for way in ways)]
    if not asked:
        first = next(iter(skipped.items()))
        raise SpatialBoostError(f"none of {len(questions)} questions could be asked; {first[0]}: {first[1]}")
    if skipped:
        first = next(iter(skipped.items()))
        logger.warning("%d questions were not asked; the first, %s: %s", len(skipped), *first)
    facts = {**settings, "limit": limit, "versions": versions()}
    result = score(own, asked, {way: [answers.replies[each.id, way] for each in asked] for way in ways}, facts, skipped)
    result.save(folder)
    return result


def score(
    benchmark: Benchmark,
    questions: Sequence[Question],
    replies: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any] | None = None,
    skipped: Mapping[str, str] | None = None,
) -> EvaluationResult:
    """Score replies that are there already.

    Args:
        benchmark: The benchmark.
        questions: Its questions.
        replies: ``image``, and ``text`` if it was asked: the reply to each question.
        settings: What the result says of the model.
        skipped: What the result says of questions that were not asked.
    """
    scores = {
        way: [benchmark.score(question, reply) for question, reply in zip(questions, texts, strict=True)]
        for way, texts in replies.items()
    }
    constants = constant_answers(benchmark, questions)
    scores["constant"] = [benchmark.score(question, constants[question.cell]) for question in questions]
    unread = {
        way: sum(
            benchmark.answer(question, reply) in (None, "") for question, reply in zip(questions, said, strict=True)
        )
        for way, said in replies.items()
    }
    means = {way: _plain(benchmark.means(sums(questions, values))) for way, values in scores.items()}
    uniform = chance(benchmark, questions)
    lettered = [number for number, value in enumerate(uniform) if value is not None]
    means["chance"] = {}
    if lettered:
        some = [questions[number] for number in lettered]
        found = _plain(benchmark.means(sums(some, [float(uniform[number] or 0) for number in lettered])))
        # a mean over numbers and letters has no chance level
        means["chance"] = {
            name: value
            for name, value in found.items()
            if len(some) == len(questions) or name in {question.category for question in some}
        }
    compared = {
        way: differences(benchmark, questions, scores[IMAGE], scores[way])
        for way in (TEXT, "constant")
        if way in scores
    }
    counts = {
        name: sum(each.category == name for each in questions) for name in sorted({q.category for q in questions})
    }
    return EvaluationResult(
        benchmark=benchmark.title,
        overall=benchmark.overall,
        settings=dict(settings or {}),
        counts=counts,
        means=means,
        differences=compared,
        unread=unread,
        skipped=dict(skipped or {}),
        notes=tuple(_notes(questions)),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a reply depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # av is needed for videos only; spatialboost may not be installed
            continue
    return found


def _ask(
    answerer: Answerer, question: Question, answers: AnswersFile, ways: Sequence[str], frames: int, length: int
) -> None:
    """Ask a question in the ways in which it has no reply yet. With the images comes first: it may be impossible."""
    for way in ways:
        if (question.id, way) not in answers.replies:
            images = question.look(frames) if way == IMAGE else []
            answers.add(question.id, way, answerer(question.prompt, images, max_new_tokens=length))


def _some(questions: Sequence[Question], limit: int | None) -> list[Question]:
    if limit is None or limit >= len(questions):
        return list(questions)
    return [questions[place] for place in np.linspace(0, len(questions) - 1, limit).round().astype(int)]


def _plain(means: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in means.items()}


def _notes(questions: Sequence[Question]) -> list[str]:
    """Categories whose questions all have the same answer: a model that always says it looks perfect."""
    truths: dict[str, set[str]] = {}
    for question in questions:
        truths.setdefault(question.category, set()).add(question.truth)
    counts = {name: sum(question.category == name for question in questions) for name in truths}
    return [
        f"all {counts[name]} answers of {name} are {next(iter(found))!r}, so its score tells nothing"
        for name, found in truths.items()
        if len(found) == 1 and counts[name] > 1
    ]

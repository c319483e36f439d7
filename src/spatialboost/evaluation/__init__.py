"""Benchmarks of spatial questions for vision-language models, each beside the same model without the images.

Open `run.py` first: it asks a model all questions and scores its replies.

- `benchmark.py`, `registry.py`, `sets/`: what a benchmark is, the table of all, and one file each.
- `question.py`, `tables.py`, `frames.py`: questions, the files that they stand in, frames of videos.
- `replies.py`: how an answer is read out of a reply, and how a number is scored.
- `answerer.py`, `run_answerer.py`: models of transformers and runs of ours as functions that answer.
- `answers.py`, `baseline.py`, `result.py`: replies on disk, what scores are compared with, and the result.
- `lmms_eval_models.py`: the same models in lmms-eval. `evaluate_command.py`: the command line.
"""

from spatialboost.evaluation.answerer import Answerer, TransformersAnswerer, open_answerer
from spatialboost.evaluation.benchmark import Benchmark
from spatialboost.evaluation.question import Question
from spatialboost.evaluation.registry import BENCHMARKS, find_benchmark
from spatialboost.evaluation.result import EvaluationResult
from spatialboost.evaluation.run import evaluate, score

__all__ = [
    "BENCHMARKS",
    "Answerer",
    "Benchmark",
    "EvaluationResult",
    "Question",
    "TransformersAnswerer",
    "evaluate",
    "find_benchmark",
    "open_answerer",
    "score",
]

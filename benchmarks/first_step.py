"""The time of a training run until its first step, for different numbers of rows; a few rows are repeated.

    python benchmarks/first_step.py                          # 10^3 and 10^6 rows, in this process
    python benchmarks/first_step.py --rows 1000 --workers 2

For each number of rows and each of stage 2 (features of the frozen encoder, conversations) and stage 3 (pixels):
seconds from the opened rows to the end of one training step, and the additional memory of this process, as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spatialboost.demo import SIZE, load_encoder, load_language_model
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms
from spatialboost.teachers.language import BoostConfig, ChatDataset, InstructConfig, boost_encoder, instruct
from spatialboost.training import RowImages
from spatialboost.vlm import SpatialVLM
from spatialboost.vlm.projector import build_projector


class Repeated(Sequence[Any]):
    """A few rows, repeated to look like many rows."""

    def __init__(self, rows: Sequence[Any], count: int) -> None:
        self.rows, self.count = rows, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: Any) -> Any:
        return self.rows[number % len(self.rows)]


def first_step(rows: Sequence[Any], stage: str, workers: int, folder: Path) -> dict[str, Any]:
    """Seconds that a stage of one step takes, and the additional megabytes of this process."""
    encoder, (llm, tokenizer) = load_encoder(), load_language_model()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    dataset = ChatDataset(rows, RowImages(encoder, SIZE), tokenizer)
    vlm = SpatialVLM(encoder, llm, projector=build_projector(encoder, llm))  # stage 3 leaves it as it is
    options: dict[str, Any] = {"folder": folder, "workers": workers, "device": "auto"}
    keys: dict[str, Any] = {"steps": 1, "batch_size": 16, "save_every": 0}
    if stage == "stage2":
        instruct(vlm, dataset, InstructConfig(**keys), **options)
    else:
        boost_encoder(vlm, dataset, BoostConfig(**keys), **options)
    seconds = time.perf_counter() - began
    gained = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    return {
        "rows": len(rows),
        "stage": stage,
        "workers": workers,
        "seconds": round(seconds, 2),
        "megabytes": round(gained),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=(10**3, 10**6))
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build_dataset(Rooms(32, size=SIZE), folder / "rooms", seed=0, progress=False)
        few = open_rows([folder / "rooms"])
        first_step(Repeated(few, 100), "stage2", 0, folder / "warm-up")  # imports are not counted
        for stage in ("stage2", "stage3"):
            for count in args.rows:
                print(json.dumps(first_step(Repeated(few, count), stage, args.workers, folder / f"{stage}-{count}")))


if __name__ == "__main__":
    main()

"""`spatialboost evaluate BENCHMARK`: ask a vision-language model the spatial questions of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    benchmark: Annotated[
        str, typer.Argument(help="vsi-bench, all-angles, blink, cv-bench, spar-bench or view-spatial.")
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Folder of a model of transformers, its id in the local cache, or a run of spatialboost train."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Folder of the benchmark as it is handed out, or one of its tables.")],
    out: Annotated[Path, typer.Option(help="Folder for replies and scores; the same command again resumes.")],
    text_only: Annotated[
        bool, typer.Option("--text-only/--no-text-only", help="Ask each question also without its images.")
    ] = True,
    frames: Annotated[int, typer.Option(min=1, help="Frames of a video.")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only so many questions, evenly spaced.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of a reply. Default: as in lmms-eval.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")] = "auto",
) -> None:
    """Ask a vision-language model spatial questions, with their images and without."""
    from rich.console import Console

    from spatialboost.evaluation.result import RESULT
    from spatialboost.evaluation.run import evaluate as run

    result = run(
        benchmark,
        model,
        data=data,
        out=out,
        text_only=text_only,
        frames=frames,
        limit=limit,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
        progress=True,
    )
    Console().print(result)
    typer.echo(f"wrote {out / RESULT}")

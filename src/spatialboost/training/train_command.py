"""`spatialboost train`: run a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML file of the run; see docs/training.md.")],
    override: Annotated[
        list[str] | None,
        typer.Option("--override", "-o", help="KEY=VALUE, such as stage3.lr=1e-4; replaces a value of the file."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; replaces `out` of the file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the configuration.")] = False,
) -> None:
    """Boost an encoder, stage by stage. Run the same command again to resume an interrupted run."""
    from spatialboost.encoders.run_file import user_path
    from spatialboost.training.config import load_config

    settings = load_config(config, override or ())
    if out is not None:
        settings = settings.model_copy(update={"out": user_path(out)})
    if check:
        typer.echo(settings.model_dump_json(indent=2))
        return
    from spatialboost.training.run import train as run

    result = run(settings)
    typer.echo(f"report: {result.out / 'report.json'}")
    if result.delta is not None:
        typer.echo(f"delta:  {result.delta}")

"""`spatialboost train`: run a configuration; `spatialboost train eval`: score a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from spatialboost.errors import SpatialBoostError, everywhere, plain

app = typer.Typer(help="Boost an encoder, stage by stage.", invoke_without_command=True)


@app.callback()
def train(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file of the run; see docs/training.md.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--override", "-o", help="KEY=VALUE, such as stage3.lr=1e-4; replaces a value of the file."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; replaces `out` of the file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the configuration.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only compute the memory of each stage; no weights are read.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=2, help="For --plan: number of GPUs of one run on several.")] = 8,
) -> None:
    """Boost an encoder, stage by stage. Run the same command again to resume an interrupted run."""
    if context.invoked_subcommand is not None:
        return
    if config is None:
        raise SpatialBoostError("give the YAML file of the run: spatialboost train --config run.yaml")
    from spatialboost.encoders.run_file import user_path
    from spatialboost.training.config import load_config

    try:
        settings = load_config(config, override or ())
    except SpatialBoostError as error:  # every process reads the same file
        raise everywhere(error) from None
    if out is not None:
        settings = settings.model_copy(update={"out": user_path(out)})
    if check:
        typer.echo(settings.model_dump_json(indent=2))
        return
    if plan:
        _print_plan(settings, gpus)
        return
    from spatialboost.training.processes import is_main
    from spatialboost.training.run import train as run

    result = run(settings)
    if not is_main():
        return
    page = result.out / "report.html"  # not there if it could not be made, which is logged
    typer.echo(f"report: {page if page.exists() else result.out / 'report.json'}")
    if result.delta is not None:
        typer.echo(f"delta:  {result.delta}")


def _print_plan(settings: Any, gpus: int) -> None:
    from rich.console import Console

    from spatialboost.training.plan import plan
    from spatialboost.training.plan_table import plan_tables

    console = Console()
    for part in plan_tables(plan(settings), gpus):
        console.print(part)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run that `spatialboost train` wrote.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder with other rows; repeat it for several. Default: held-out rows.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Largest number of conversations.")] = 200,
    out: Annotated[Path | None, typer.Option(help="JSON file to write. Default: RUN/eval.json.")] = None,
) -> None:
    """Answer held-out questions of every kind: with the image, without it, and by the best constant answer."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from spatialboost.encoders.run_file import user_path
    from spatialboost.training.run import evaluate as score

    run = user_path(run)
    scores = score(run, folders=[user_path(each) for each in data or ()], rows=rows)
    table = Table(box=None, pad_edge=False)  # without lines it fits into 80 columns
    for column in ("kind", "answers", "answered from", "right", "relative error", "loss"):
        table.add_column(column, no_wrap=column != "relative error")
    for each in scores:
        numbers = (f"{value:.3f}" if value is not None else "" for value in (each.relative_error, each.loss))
        right = f"{100 * each.accuracy:.1f} %"
        if each.interval is not None:
            right += " ({:.0f} to {:.0f})".format(*(100 * end for end in each.interval))
        table.add_row(escape(plain(each.kind)), str(each.answers), each.answerer, right, *numbers)
    Console().print(table)
    typer.echo("in brackets: 95 % interval of the share that is right, with the conversation as the unit")
    file = user_path(out) if out is not None else run / "eval.json"
    file.write_text(json.dumps([each.to_json() for each in scores], indent=1) + "\n", encoding="utf-8")
    typer.echo(f"scores: {file}")

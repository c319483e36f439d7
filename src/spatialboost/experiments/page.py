"""Show an experiment as one HTML page, or as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spatialboost.boosting import status
from spatialboost.experiments.changes import draw_changes
from spatialboost.experiments.experiment import Experiment, SeedRun
from spatialboost.page import fill_template
from spatialboost.scenes.dataset.drawing import as_uri
from spatialboost.training.report import plot_losses


def write_page(
    experiment: Experiment, file: Path, *, title: str, introduction: str, links: Mapping[str, str] | None = None
) -> Path:
    """Write one HTML page with verdict, pictures, tables, losses and layers.

    Args:
        experiment: The experiment to show.
        file: The file of the page; it contains the pictures.
        title: Title of the page.
        introduction: A few sentences under the title.
        links: Text -> address of further pages.
    """
    runs = [
        {
            "seed": run.seed,
            "probes": {
                name: (probe, _inline(_probe_folder(experiment, run, name))) for name, probe in run.probes.items()
            },
            "changes": dict(_changes(experiment, run)),
            "scores": list(_scores(run)),
            "losses": _inline(_draw_losses(experiment, run)),
            "layers": str(status(run.encoders["boosted"])),
            "seconds": run.seconds,
        }
        for run in experiment.runs
    ]
    verdicts = {name: experiment.verdict(name) for name in experiment.runs[0].probes}
    shown = {"title": title, "introduction": introduction, "links": links or {}, "verdicts": verdicts, "runs": runs}
    file.write_text(fill_template("spatialboost.experiments", "experiment.html.j2", shown), encoding="utf-8")
    return file


def print_summary(experiment: Experiment) -> None:
    """Print the answers, the probes and the verdict."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for run in experiment.runs:
        answers = Table(title=f"answers on held-out rows, seed {run.seed}", title_justify="left")
        for column in ("after", "question", "answered from", "right (lengths: within 25 %)", "relative error"):
            answers.add_column(column)
        for stage, score in _scores(run):
            error = "" if score["relative_error"] is None else f"{score['relative_error']:.3f}"
            right = f"{score['accuracy']:.1%} of {score['answers']}"
            answers.add_row(stage, Text(score["kind"]), score["answerer"], right, error)  # a kind may contain [/]
        console.print(answers)
        for probe in run.probes.values():
            console.print(probe.table())
    for name in experiment.runs[0].probes:
        console.print(experiment.verdict(name), highlight=False, markup=False)


def _scores(run: SeedRun) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stage and score on the held-out rows, for the boosted run."""
    for stage, record in run.stages["boosted"].items():
        for score in record.get("scores", []):
            yield stage, score


def _draw_losses(experiment: Experiment, run: SeedRun) -> Path:
    """A picture with the losses of the boosted run, and of the stages that each control has trained itself."""
    stages = dict(run.stages["boosted"])
    for name in experiment.controls:
        own = {stage: record for stage, record in run.stages[name].items() if record != run.stages["boosted"][stage]}
        stages |= {f"{stage}, {name}": record for stage, record in own.items()}
    file = experiment.out / f"seed{run.seed}" / "losses.png"
    plot_losses(stages, file)
    return file


def _changes(experiment: Experiment, run: SeedRun) -> Iterator[tuple[str, str]]:
    """For each probe with pictures, what boosting has changed, as a data URL."""
    for name, probe in run.probes.items():
        picture = draw_changes(probe, _probe_folder(experiment, run, name).with_name("changes.png"))
        if picture is not None:
            yield name, _inline(picture)


def _probe_folder(experiment: Experiment, run: SeedRun, name: str) -> Path:
    return experiment.out / f"seed{run.seed}" / "probes" / name / f"{run.probes[name].probe}.png"


def _inline(picture: Path) -> str:
    """A picture as a data URL."""
    return as_uri(picture.read_bytes())

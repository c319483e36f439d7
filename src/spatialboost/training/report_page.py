"""The page of a run, ``report.html``: what was trained, the curves, what the model answers, and what has changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from spatialboost.boosting.channel import boosted_layers
from spatialboost.errors import SpatialBoostError
from spatialboost.page import fill_template
from spatialboost.scenes.dataset.asked import asked_marks
from spatialboost.scenes.dataset.drawing import as_uri
from spatialboost.scenes.dataset.reader import open_image, open_rows
from spatialboost.teachers.protocol import BAD_DATA, Sample, Teacher, row_images
from spatialboost.training.charts import gate_chart, stage_charts
from spatialboost.training.data import RowDataset
from spatialboost.training.parts import size
from spatialboost.training.pictures import depth_pictures, small_photo, token_pictures
from spatialboost.training.trackers import public_config

logger = logging.getLogger(__name__)

PAGE = "report.html"
ANSWERED = 4  # held-out rows whose questions of all kinds are answered for the page
SAMPLES = 3  # answers of a kind that are shown
IMAGES, WIDTH = 4, 320  # images of a row that are shown, and their width in pixels


@dataclass(frozen=True)
class Finished:
    """A finished run, as the page needs it.

    Attributes:
        report: The content of ``report.json``.
        config: The configuration.
        teacher: The teacher after the last stage.
        training: Numbers of the training rows.
        held_out: Numbers of the rows that were held out.
        dataset: Makes examples of some rows, with all turns.
    """

    report: Mapping[str, Any]
    config: Any
    teacher: Teacher
    training: Sequence[int]
    held_out: Sequence[int]
    dataset: Callable[[Sequence[int]], RowDataset]

    @property
    def encoder(self) -> nn.Module:
        """The encoder after the last stage."""
        return self.teacher.objective.encoder


def write_page(run: Finished) -> Path | None:
    """Write ``report.html`` into the folder of the run; None if it could not be made, which is logged.

    Args:
        run: The finished run.
    """
    from spatialboost.scenes.dataset.files import replace_file

    try:
        page = render_page(run)
    except Exception:  # the run and its results are there all the same
        logger.warning("%s could not be written; report.json has the figures", PAGE, exc_info=True)
        return None
    file = Path(run.config.out) / PAGE
    replace_file(file, page.encode("utf-8", "replace"))
    return file


def render_page(run: Finished) -> str:
    """The page as HTML. A part that cannot be made is replaced by a line that says why.

    Everything that is shown is on the page itself. The number of images is bounded, whatever the size of the run.

    Args:
        run: The finished run.
    """
    rows = open_rows(run.config.data.folders)
    samples, depth, tokens = (
        _attempt(name, make)
        for name, make in (
            ("sample answers", lambda: _samples(run)),
            ("depth", lambda: _depth(run, rows)),
            ("tokens", lambda: _tokens(run, rows)),
        )
    )
    stages = run.report["stages"]
    shown = dict(
        title=run.config.out.resolve().name,
        report=run.report,
        summary=list(_summary(run, depth)),
        manifest=[run_manifest(folder) for folder in run.config.data.folders],
        training=len(run.training),
        held_out=len(run.held_out),
        stages={name: {**record, "charts": stage_charts(record["fit"]["history"])} for name, record in stages.items()},
        settings={name: _settings(stage) for name, stage in run.config.stages.items()},
        gates=gate_chart(run.report["gates"]),
        scores=_by_kind(stages),
        samples=samples,
        photos=_photos(rows, samples),
        depth=depth,
        tokens=tokens,
        config=json.dumps(public_config(run.report["config"]), indent=2),
    )
    return fill_template("spatialboost.training", "report.html.j2", shown, {"size": size, "clock": _clock})


def _attempt(name: str, make: Callable[[], Any]) -> dict[str, Any]:
    """What `make` returns under ``value``, or ``why`` there is none. The report must not cost a run its result."""
    try:
        return {"value": make()}
    except SpatialBoostError as error:
        return {"why": str(error)}
    except Exception as error:  # whatever an encoder, a language model or a picture may raise
        logger.warning("report.html is without the part %r", name, exc_info=True)
        return {"why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def run_manifest(folder: Path) -> dict[str, Any]:
    """Name, files, rows and origin of a folder of rows."""
    from spatialboost.scenes.dataset.schema import dataset_facts, dataset_files

    files = dataset_files(folder)
    found: dict[str, Any] = {"name": Path(folder).resolve().name, "files": len(files)}
    found["bytes"] = sum(file.stat().st_size for file in files)
    try:
        facts = dataset_facts(files[0])
        found |= {key: facts[key] for key in ("source", "seed") if key in facts}
    except SpatialBoostError:
        found["source"] = "written by other software"
    return found


def _summary(run: Finished, depth: Mapping[str, Any]) -> Iterable[str]:
    """What the reader should know first, in whole sentences."""
    stages = run.report["stages"]
    seconds = sum(record["fit"]["seconds"] for record in stages.values())
    yield (
        f"{len(stages)} stage{'s' if len(stages) != 1 else ''} of the teacher {run.config.teacher.kind} on "
        f"{len(run.training):,} rows, trained in {_clock(seconds)}; {len(run.held_out):,} rows were held out."
    )
    for name, record in stages.items():
        if "readiness" in record:
            yield f"Before {name}: {record['readiness']['reason']}."
    gates = run.report["gates"]
    if gates:
        most = max(gates, key=lambda gate: abs(gate["mean"] - 0.5))
        yield (
            f"{len(gates)} layers are boosted. The mean gate that is farthest from its start is that of layer "
            f"{most['layer']}: Attn+ has a share of {1 - most['mean']:.4f} (0.5 at the start)."
        )
    if "value" in depth:
        value, rmse = depth["value"], depth["value"]["rmse"]
        fitted, measured = value["counts"]
        yield (
            f"Depth from a linear probe on {fitted} training rows, measured on {measured} held-out rows: RMSE "
            f"{rmse['base']:.3f} m with the base encoder, {rmse['boosted']:.3f} m with the boosted one, "
            f"{rmse['constant depth']:.3f} m without any image. Boosted is better on {value['won']} of {measured} rows."
        )


def _settings(stage: Any) -> dict[str, Any]:
    """The settings of a stage that differ from its defaults, and its learning rate."""
    default = type(stage)()
    values = stage.model_dump(mode="json")
    return {k: v for k, v in values.items() if k == "lr" or v != default.model_dump(mode="json")[k]}


def _by_kind(stages: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each stage and kind, with the score of each way to answer."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for stage, record in stages.items():
        for score in record.get("scores", ()):
            entry = found.setdefault((stage, score["kind"]), {"stage": stage, "kind": score["kind"], "by": {}})
            entry["by"][score["answerer"]] = score
    return list(found.values())


def _samples(run: Finished) -> dict[str, list[Sample]]:
    """Kind -> a few answers to held-out questions of this kind."""
    _check_whole(run)
    if not len(run.held_out):
        raise SpatialBoostError("the run holds no rows out (data.held_out is 0)")
    if not run.config.teacher.evaluate:
        raise SpatialBoostError("no held-out rows are scored (teacher.evaluate is 0)")
    scores = run.teacher.score(run.dataset(run.held_out[:ANSWERED]), every_kind=True)
    found = {score.kind: list(score.samples)[:SAMPLES] for score in scores if score.samples}
    if not found:
        raise SpatialBoostError(f"the teacher {run.config.teacher.kind} answers no questions")
    return found


def _photos(rows: Any, samples: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Row -> its images, for the rows of the samples; a row whose images cannot be read has none."""
    found: dict[int, list[dict[str, Any]]] = {}
    for sample in [each for group in samples.get("value", {}).values() for each in group]:
        if sample.row in found:
            continue
        try:
            row = rows[sample.row]
            images = [np.asarray(open_image(image)) for image in row_images(row)[:IMAGES]]
            meta = row.get("meta")
            meta = json.loads(meta) if isinstance(meta, str) and meta else meta or {}
        except BAD_DATA:
            found[sample.row] = []
            continue
        found[sample.row] = [
            {"uri": as_uri(small_photo(image, WIDTH)), "size": image.shape[1::-1], "marks": _marks(meta, view)}
            for view, image in enumerate(images)
        ]
    return found


def _marks(meta: Mapping[str, Any], view: int) -> dict[int, Any]:
    """Turn -> what it asks about in a view; turns of other software have no marks."""
    found = {}
    for turn in range(len(meta.get("turns", ()))):
        try:
            marks = asked_marks(meta, turn).get(view)
        except (KeyError, IndexError, TypeError, ValueError):
            continue
        if marks:
            found[turn] = marks
    return found


def _check_whole(run: Finished) -> None:
    parameters = list(run.teacher.objective.parameters())
    if any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in parameters):
        raise SpatialBoostError(
            "the model is spread over several processes; `spatialboost train eval` and `spatialboost probe` load what "
            "was saved"
        )


def _check_boosted(run: Finished) -> None:
    _check_whole(run)
    if not boosted_layers(run.encoder):
        raise SpatialBoostError("the encoder has no Attn+ that could be left out to see its base")


def _depth(run: Finished, rows: Any) -> dict[str, Any]:
    """The depth probe of base and boosted on the run's own rows, with its picture."""
    _check_boosted(run)
    if "depths" not in rows.column_names:
        raise SpatialBoostError("the rows have no depth maps (`spatialboost data build` writes them unless --no-depth)")
    if not len(run.held_out):
        raise SpatialBoostError("the run holds no rows out (data.held_out is 0)")
    result, picture = depth_pictures(
        run.encoder,
        rows.select_columns(["images", "depths"]),
        run.training,
        run.held_out,
        image_size=run.config.data.image_size,
        layer=run.config.layer,
    )
    base, boosted = (next(row.per_view for row in result.rows if row.name == name) for name in ("base", "boosted"))
    won = sum(ours < theirs for ours, theirs in zip(boosted, base, strict=True))
    return {
        "result": result,
        "picture": as_uri(picture),
        "rmse": {name: result.spread(name, "rmse").mean for name in result.names},
        "won": won,
        "counts": list(result.settings["views"]),
    }


def _tokens(run: Finished, rows: Any) -> list[dict[str, Any]]:
    """The colours of tokens on held-out rows; on training rows if none are held out."""
    _check_boosted(run)
    numbers: Sequence[int] = run.held_out or run.training
    pictures = token_pictures(
        run.encoder,
        rows.select_columns(["images"]),
        numbers,
        image_size=run.config.data.image_size,
        layer=run.config.layer,
    )
    return [
        {
            "row": each.row,
            "images": [as_uri(each.image), as_uri(each.base), as_uri(each.boosted), as_uri(each.change)],
            "mean_change": each.mean_change,
        }
        for each in pictures
    ]


def _clock(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> _clock(59.6), _clock(3700)
        ('60 s', '1 h 2 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

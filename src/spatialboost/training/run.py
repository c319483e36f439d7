"""A whole run: build the parts, train each stage and save its weights, write the report."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spatialboost.encoders import open_encoder, read_tokens
from spatialboost.encoders.learnt import FOLDERS, load_learnt
from spatialboost.encoders.libraries import find_library
from spatialboost.errors import SpatialBoostError, everywhere
from spatialboost.scenes.dataset.reader import Rows, open_rows
from spatialboost.teachers.protocol import Readiness, Score, Teacher, TeacherInputs
from spatialboost.teachers.registry import teacher_class
from spatialboost.training.claim import (
    CONFIG,
    DATA,
    ENCODER,
    PROCESSES,
    check_claim,
    keep_global_batches,
    locked,
    read_json,
    write_claim,
    write_json,
)
from spatialboost.training.config import StageConfig, TrainConfig, load_config
from spatialboost.training.data import RowDataset, RowImages, num_workers
from spatialboost.training.features import FeatureStore
from spatialboost.training.fit import Fit, remove_checkpoints
from spatialboost.training.methods import METHODS
from spatialboost.training.movement import state_digest
from spatialboost.training.processes import begin, from_main, is_main, own_device, wait, world_size
from spatialboost.training.provenance import data_digest, write_provenance
from spatialboost.training.report import write_report
from spatialboost.training.report_page import Finished, write_page
from spatialboost.training.stage import check_new_weights, check_ready, new_weights, train_stage
from spatialboost.training.strategy import StrategyConfig, chosen_strategy
from spatialboost.training.subset import choose_rows
from spatialboost.training.trackers import Trackers, check_trackers, public_config

logger = logging.getLogger(__name__)

RESULT = "result.json"  # written last: if the file exists, the stage is finished
FEATURES = "features"


@dataclass
class TrainResult:
    """The result of a run.

    Attributes:
        teacher: The teacher, with its objective and the parts that it adds to the encoder.
        encoder: The encoder; boosted, if a stage that boosts was run.
        out: Folder of the run.
        stages: Stage name -> its record, as in ``report.json``.
        delta: Folder with what a stage that boosts has learnt, if one was run: the boosted weights, or those of the
            stage's other `method`. `spatialboost.encoders.open_encoder` takes each as its `delta`.
    """

    teacher: Teacher
    encoder: nn.Module
    out: Path
    stages: dict[str, dict[str, Any]]
    delta: Path | None


def train(config: TrainConfig) -> TrainResult:
    """Run the stages of a configuration in order, or resume a run that was interrupted.

    Example:
        >>> result = train(load_config("run.yaml"))  # doctest: +SKIP
        >>> encoder = sb.load_pretrained(my_encoder, result.delta)  # doctest: +SKIP

    Finished stages are loaded from the folder of the run. An unfinished stage resumes from its last checkpoint. The
    folder contains ``report.html``, ``report.json``, ``losses.png``, and one folder for each stage with the files of
    the teacher. The folder of a stage that boosts also contains ``delta/``, for `spatialboost.load_pretrained`; or
    ``adapter/`` for its method ``lora``, and ``encoder/`` for ``full``. ``run.json`` says what the run was made of.

    Args:
        config: The result of `load_config`.

    Raises:
        SpatialBoostError: The folder has a run with another configuration, or a part cannot be built.
    """
    strategy = chosen_strategy(config.strategy)
    begin(config.device)
    if world_size() > 1:
        logger.info("%d processes share the work by %s", world_size(), strategy.kind)
    with locked(config.out):
        return _train(config, strategy)


def _train(config: TrainConfig, strategy: StrategyConfig) -> TrainResult:
    check_trackers(config.report_to)
    # These may change when a run is resumed
    own: Any = {"out": True, "device": True, "strategy": True, "report_to": True, "data": {"workers"}}
    ours = config.model_dump(mode="json", exclude=own)
    ours[PROCESSES] = world_size()
    check_claim(config.out, ours)  # before anything is loaded
    kind = teacher_class(config.teacher.kind)
    rows = _open(config, kind.columns(config.teacher))
    kind.check_rows(config.stages, rows)
    ours[DATA] = data_digest(rows)
    check_claim(config.out, ours)
    keep_global_batches(config.out, ours, config.stages)
    run = _Run(config, strategy=strategy)
    run.check_rows()
    ours[ENCODER] = run.encoder_digest
    begun = check_claim(config.out, ours)
    wait()  # all have looked before the main process writes
    if not begun and is_main():
        write_claim(config.out, ours)
    if is_main():
        write_provenance(config.out, config, rows)
    records = {name: run.stage(name, stage) for name, stage in config.stages.items()}
    delta = run.finish()
    if is_main():
        report = write_report(config.out, config.model_dump(mode="json"), records, run.encoder)
        write_page(
            Finished(
                report, config, run.teacher, run.training, run.held_out, lambda numbers: run.dataset(None, numbers)
            )
        )
    return TrainResult(run.teacher, run.encoder, config.out, records, delta)


def evaluate(out: str | Path, *, folders: Sequence[Path] = (), rows: int = 200, device: str = "auto") -> list[Score]:
    """Score a finished run, or the stages of it that are finished, on held-out rows or on other data.

    Example:
        >>> for score in evaluate(Path("runs/one"), folders=[Path("data/other-rooms")]):  # doctest: +SKIP
        ...     print(score.kind, score.answerer, score.accuracy)

    Args:
        out: Folder of the run.
        folders: Folders with other rows, all of which may be scored; without any, the run's held-out rows are.
        rows: Largest number of rows.
        device: ``auto`` uses a GPU if there is one.

    Raises:
        SpatialBoostError: There is no finished stage, or no row to score.
    """
    config = _config_of(Path(out), device)
    if folders:
        config.data.folders, config.data.held_out = list(folders), 0
    elif not config.data.held_out:
        raise SpatialBoostError("the run holds no rows out (data.held_out is 0); give the folder of other data")
    config.teacher.evaluate = rows
    run = _loaded(config, held_out=bool(folders))
    return list(run.teacher.score(run.dataset(None, run.held_out), every_kind=True))


def open_teacher(out: str | Path, *, until: str | None = None, device: str = "auto") -> Teacher:
    """The teacher of a finished run with all its parts, which a delta leaves out.

    Example:
        >>> field = open_teacher("runs/spa3r-tiny", until="field").objective.field  # doctest: +SKIP

    Args:
        out: Folder of the run.
        until: The last stage whose weights are loaded; None is the last one that is finished.
        device: ``auto`` uses a GPU if there is one.

    Raises:
        SpatialBoostError: No stage is finished, or not this one.
    """
    return _loaded(_config_of(Path(out), device), until=until).teacher


def _config_of(out: Path, device: str) -> TrainConfig:
    """The configuration that a run has written into its folder."""
    if not (out / CONFIG).is_file():
        raise SpatialBoostError(f"{out} has no {CONFIG}; expected the folder of a run of `spatialboost train`")
    given = {key: value for key, value in read_json(out / CONFIG).items() if key not in (DATA, ENCODER, PROCESSES)}
    return load_config({**given, "out": out, "device": device})


def _loaded(config: TrainConfig, *, held_out: bool = False, until: str | None = None) -> _Run:
    """A run with the weights of its finished stages, up to one of them."""
    names = [name for name in config.stages if (config.out / name / RESULT).exists()]
    if not names:
        raise SpatialBoostError(f"{config.out}: no stage is finished, so there is nothing to score yet")
    if until is not None and until not in names:
        raise SpatialBoostError(f"{config.out}: stage {until!r} is not finished; finished are {names}")
    run = _Run(config, held_out=held_out)
    for name in names[: None if until is None else names.index(until) + 1]:
        run.load(name)
    return run


class _Run:
    """The parts of a run, built from its configuration.

    Args:
        config: The configuration.
        held_out: All rows are held out, and none is trained on.
        strategy: How several processes share the work.
    """

    def __init__(self, config: TrainConfig, *, held_out: bool = False, strategy: StrategyConfig | None = None) -> None:
        self.config, self.out = config, config.out
        kind = teacher_class(config.teacher.kind)
        self.rows = _open(config, kind.columns(config.teacher))
        count = len(self.rows)
        self.training: Sequence[int]
        self.training, self.held_out = (
            (range(0), range(count)) if held_out else choose_rows(config.data, self.rows, config.seed)
        )
        self.features = FeatureStore(len(self.rows), folder=self.out / FEATURES, limit=config.data.cache_gb * 1e9)
        finished = {name: self.out / name for name in config.stages if (self.out / name / RESULT).exists()}
        with torch.random.fork_rng(devices=[]):  # one seed for all new weights; the encoder comes first
            torch.manual_seed(config.seed)
            self.encoder = _open_encoder(config)
            self.images = RowImages(self.encoder, config.data.image_size)
            inputs = TeacherInputs(
                self.encoder, self.rows, self.training, self.images, config.layer, config.seed, finished
            )
            self.teacher = kind.build(config.teacher, inputs)
        self.encoder_digest = _digest(self.encoder)
        self.new = new_weights(self.teacher)
        self.strategy = strategy or StrategyConfig()
        rests = self.strategy.shards and world_size() > 1  # in main memory; each stage puts its shards on the devices
        self.teacher.objective.to("cpu" if rests else own_device(config.device))
        self.delta: Path | None = None

    def check_rows(self) -> None:
        """Make one example for each stage that is not finished, so that stage 3 does not fail after stages 1 and 2."""
        for name, stage in self.config.stages.items():
            if not (self.out / name / RESULT).exists():
                self.teacher.prepare(name, stage)
                self.dataset(stage, self.training)[0]

    def stage(self, name: str, stage: Any) -> dict[str, Any]:
        """Train a stage, or load it if it is finished; returns its record."""
        folder = self.out / name
        boosts = self.teacher.stages[name].boosts
        if boosts:
            self.delta = folder / FOLDERS[stage.method]
        if (folder / RESULT).exists():
            logger.info("%s is finished and is loaded", name)
            self.load(name)
            return read_json(folder / RESULT)
        check_new_weights(self.teacher, self.config.stages, name, self.new)
        dataset = self.dataset(stage, self.training)
        record: dict[str, Any] = {}

        def before(teacher: Teacher) -> None:
            readiness = self._check_ready(teacher, name, stage) if boosts else None
            if readiness is not None:
                record["readiness"] = readiness.to_json()

        def after(teacher: Teacher) -> None:
            if teacher.stages[name].scored and self.config.teacher.evaluate and self.held_out:
                scores = teacher.score(self.dataset(None, self.held_out))
                record["scores"] = [_finite(score.to_json()) for score in scores]

        fitted = train_stage(
            self.teacher,
            name,
            stage,
            dataset,
            folder=folder,
            seed=self.config.seed,
            device=self.config.device,
            workers=num_workers(self.config.data.workers),
            strategy=self.strategy,
            before=before,
            after=after,
            trackers=Trackers(self.config.report_to, self.out, public_config(self.config.model_dump(mode="json"))),
        )
        skipped = dataset.skipped
        record = {"fit": asdict(fitted), "rows": len(dataset), "skipped": skipped, **record}
        if boosts:
            record["method"] = stage.method
        if is_main():
            self._save(name, stage, fitted)
            write_json(folder / RESULT, record)
            remove_checkpoints(folder)
        wait()
        return record

    def load(self, name: str) -> None:
        """Load the results of a finished stage."""
        self.teacher.load(name, self.out / name)
        if self.teacher.stages[name].boosts:
            load_learnt(self.encoder, self.out / name / FOLDERS[getattr(self.config, name).method])

    def _check_ready(self, teacher: Teacher, name: str, stage: StageConfig) -> Readiness | None:
        """Refuse a stage that boosts while the teacher has nothing to teach."""
        if not (self.held_out and self.config.teacher.evaluate):
            logger.warning("no held-out rows are scored, so it is not known whether %s has something to teach", name)
            return None
        found = from_main(teacher.readiness(name, stage, self.dataset(None, self.held_out)))
        try:
            check_ready(name, found)
        except SpatialBoostError as error:
            raise everywhere(error) from None
        return found

    def finish(self) -> Path | None:
        """Check the saved delta and delete the stored features; returns the folder of the delta."""
        if self.delta is not None:
            self._check_reload(self.delta)
        wait()
        if is_main():
            shutil.rmtree(self.out / FEATURES, ignore_errors=True)
        return self.delta

    def dataset(self, stage: StageConfig | None, numbers: Sequence[int]) -> RowDataset:
        """Examples of some rows: for a stage, or all turns of held-out rows for None."""
        make_example = self.teacher.make_example(stage, self.rows, numbers)
        return RowDataset(self.rows, self.images, make_example, numbers=numbers, features=self.features)

    def _save(self, name: str, stage: Any, fitted: Fit) -> None:
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        self.teacher.save(name, folder)
        if not self.teacher.stages[name].boosts:
            return
        facts = {
            "objective": self.config.teacher.kind,
            **self.teacher.facts(),
            "steps": fitted.steps,
            "layer": self.config.layer,
            "image_size": self.config.data.image_size,
            "seed": self.config.seed,
            name: stage.model_dump(mode="json"),
        }
        own_name = self.config.encoder.name if self.config.encoder.name != "VisionTransformer" else None
        base = Path(own_name).name if own_name and Path(own_name).is_absolute() else own_name
        METHODS[stage.method].save(self.encoder, folder / FOLDERS[stage.method], base=base, training=facts)

    @torch.no_grad()
    def _check_reload(self, delta: Path) -> None:
        """Check that a fresh encoder with the saved delta gives the same patch tokens as the trained encoder."""
        _, example = next(self.dataset(None, self.training).usable(1))
        device, layer = next(self.encoder.parameters()).device, self.teacher.objective.layer
        pixels = example["pixel_values"].to(device)
        fresh = load_learnt(open_encoder(self.config.encoder, seed=self.config.seed), delta).to(device).eval()
        self.teacher.objective.eval()
        ours, theirs = (read_tokens(encoder, pixels, layer=layer).patches for encoder in (self.encoder, fresh))
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
            difference = float((ours - theirs).abs().max())
            raise SpatialBoostError(
                f"the delta in {delta} does not give the features of the trained encoder (difference "
                f"{difference:.2g}): please report this"
            )


def _open(config: TrainConfig, columns: Sequence[str]) -> Rows:
    """The rows, with only the columns that the teacher needs, and ``meta`` if there is one."""
    rows = open_rows(config.data.folders)
    missing = sorted(set(columns) - set(rows.column_names))
    if missing:
        raise SpatialBoostError(
            f"teacher {config.teacher.kind!r} needs the columns {missing}, and the rows of "
            f"{', '.join(map(str, config.data.folders))} have {rows.column_names}: build them with these columns "
            "(`spatialboost data build` writes depths and labels unless --no-depth is given)"
        )
    return rows.select_columns([name for name in rows.column_names if name in (*columns, "meta")])


def _open_encoder(config: TrainConfig) -> nn.Module:
    """The encoder. Random weights must be the same in each process, as a run is resumed and its delta loaded in others.

    Raises:
        SpatialBoostError: The encoder draws other weights each time.
    """
    section = config.encoder
    if section.weights is not None or find_library(section.library).loads_weights(section):
        return open_encoder(section, seed=None)
    encoder = open_encoder(section, seed=config.seed)
    if _digest(encoder) != _digest(open_encoder(section, seed=config.seed)):
        raise SpatialBoostError(
            f"the encoder {section.name} has other random weights each time it is built, so its delta could never be "
            "loaded: save its weights in a safetensors file and give it as encoder.weights"
        )
    return encoder


def _digest(encoder: nn.Module) -> str:
    return hashlib.sha256(repr(state_digest(encoder)).encode()).hexdigest()[:16]


def _finite(score: dict[str, Any]) -> dict[str, Any]:
    """A score without numbers that are not finite, which JSON cannot store."""
    wrong = [key for key, value in score.items() if isinstance(value, float) and not math.isfinite(value)]
    if wrong:
        logger.warning("%s of %s answered from %s is not finite", ", ".join(wrong), score["kind"], score["answerer"])
    return {**score, **dict.fromkeys(wrong)}

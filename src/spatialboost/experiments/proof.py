"""The proof: several ways to train one encoder, each with several seeds, and the same probes for all of them.

A cell is one row with one seed. It is trained and measured once: what is finished stays in the folder, so that a second
call goes on where the first stopped, and several processes can share the cells.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from spatialboost.encoders import open_encoder
from spatialboost.encoders.local import config_of
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.experiments.experiment import take_over_stages
from spatialboost.experiments.proof_file import BASE, Dataset, ProbeSection, ProofFile, within
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.protocol import find_probe
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import run_probe
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.training.config import TrainConfig, load_config
from spatialboost.training.run import train
from spatialboost.weights.info import versions

logger = logging.getLogger(__name__)

PICTURED = 3  # rows in a picture: base, the main row and the row after it


@dataclass
class Proof:
    """A proof in a folder. `run` trains and measures cells, `results` reads what is finished.

    Example:
        >>> proof = Proof(read_proof("tiny"), Path("proof"))  # doctest: +SKIP
        >>> proof.run()  # doctest: +SKIP
        >>> print(proof.results()["depth on unseen rooms"].table())  # doctest: +SKIP

    Attributes:
        file: What is trained and measured.
        out: Folder of the proof.
        data: Folder with recordings and images that the file names; None if there is none.
        encoder: Encoder in place of the file's: ``LIBRARY:NAME``, a folder, or the safetensors file of a ViT.
        left_out: Row or probe -> why it cannot be run here.
    """

    file: ProofFile
    out: Path
    data: Path | None = None
    encoder: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.section = self._encoder_section()
        for name in self.file.rows:  # before anything is trained
            config = self.config(name, 0)
            self._check_stages(name, config)
        for name, probe in self.file.probes.items():
            self._options(name, probe)
            self._note_missing(name, (probe.train, probe.test), probe.open)
        for name in self.file.rows:
            self._note_missing(name, [self.file.datasets[each].source for each in self.file.datasets_of(name)], {})
            like = self.file.rows[name].like
            if like in self.left_out and name not in self.left_out:
                self.left_out[name] = f"it is like {like}, which is left out"

    def cells(self, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[tuple[str, int]]:
        """The cells to train, row and seed, seed by seed: so the main rows are complete for one seed first.

        Args:
            rows: Only these rows; without any, all.
            seeds: Only these seeds; without any, all of each row.

        Raises:
            SpatialBoostError: There is no such row or no such seed.
        """
        for row in rows:
            if row not in self.file.rows and row != BASE:
                raise unknown("row of the proof", row, [BASE, *self.file.rows])
        most = max(row.seeds for row in self.file.rows.values())
        if wrong := [seed for seed in seeds if not 0 <= seed < most]:
            raise SpatialBoostError(f"seed {wrong[0]} is not in the proof; its rows have up to {most}, from 0 on")
        for row in rows:
            count = most if row == BASE else self.file.rows[row].seeds
            if seeds and all(seed >= count for seed in seeds):
                raise SpatialBoostError(f"row {row!r} has no seed {seeds[0]}; its seeds are {list(range(count))}")
        return [
            (name, seed)
            for seed in range(most)
            for name, row in self.file.rows.items()
            if seed < row.seeds and (not rows or name in rows) and (not seeds or seed in seeds)
            if name not in self.left_out
        ]

    def run(self, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> None:
        """Build the data, then train and measure each cell that is not finished.

        Args:
            rows: Only these rows; without any, all.
            seeds: Only these seeds; without any, all of each row.
        """
        cells = self.cells(rows, seeds)
        for name, why in self.left_out.items():
            logger.warning("left out: %s: %s", name, why)
        self._build(dict.fromkeys(each for name, _ in cells for each in self.file.datasets_of(name)))
        if not rows or BASE in rows:
            self._measure(BASE, 0, lambda: open_encoder(self.section, seed=0))
        for name, seed in cells:
            logger.info("%s, seed %d ...", name, seed)
            self._train(name, seed)
            self._measure(name, seed, lambda name=name, seed=seed: self.open(name, seed))  # type: ignore[misc]
        self._draw()

    def config(self, row: str, seed: int) -> TrainConfig:
        """The configuration of the run of a cell."""
        run = self.file.run_of(row)
        folders = [str(self.out / "data" / name) for name in self.file.datasets_of(row)]
        data = {**(run.get("data") or {}), "folders": folders, "image_size": self.file.image_size}
        own = {"encoder": self.section, "data": data, "seed": seed, "out": str(self.folder(row, seed))}
        try:
            return load_config({**run, **own})
        except SpatialBoostError as error:
            raise SpatialBoostError(f"row {row!r}: {error}") from None

    def folder(self, row: str, seed: int) -> Path:
        """The folder of the run of a cell."""
        return self.out / f"seed{seed}" / row

    def open(self, row: str, seed: int) -> nn.Module:
        """The trained encoder of a cell; for `base`, the encoder as it is.

        Raises:
            SpatialBoostError: The cell is not trained yet.
        """
        if row == BASE:
            return open_encoder(self.section, seed=0).eval()
        found = [each for each in self.folder(row, seed).glob("*/*") if each.name in ("delta", "adapter", "encoder")]
        if not found:
            raise SpatialBoostError(f"{row}, seed {seed}, is not trained yet")
        from spatialboost.encoders.learnt import load_learnt

        return load_learnt(open_encoder(self.section, seed=seed), found[0]).eval()

    def results(self) -> dict[str, dict[str, list[ProbeResult]]]:
        """Probe -> row -> the result of each seed that is finished; rows without one are missing."""
        found: dict[str, dict[str, list[ProbeResult]]] = {}
        for name in self.file.probes:
            rows = {
                row: [
                    ProbeResult.read(file) for seed in range(seeds) if (file := self._result(name, row, seed)).is_file()
                ]
                for row, seeds in ((BASE, 1), *((row, each.seeds) for row, each in self.file.rows.items()))
            }
            found[name] = {row: each for row, each in rows.items() if each}
        return found

    def own_stages(self, row: str, seed: int) -> dict[str, dict[str, Any]]:
        """The record of each finished stage of a cell, without those that it has from the row that it is like."""
        stages, begin_at = list(self.config(row, seed).stages), self.file.rows[row].begin_at
        stages = stages[0 if begin_at is None else stages.index(begin_at) :]
        files = {stage: self.folder(row, seed) / stage / "result.json" for stage in stages}
        return {stage: json.loads(file.read_text()) for stage, file in files.items() if file.is_file()}

    def picture(self, probe: str) -> Path:
        """The picture of a probe: base, the first row and its control side by side."""
        return self.out / "figures" / f"{probe}.png"

    def save(self) -> Path:
        """Write all results into ``proof.json``."""
        results = {
            name: {row: [each.to_dict() for each in seeds] for row, seeds in rows.items()}
            for name, rows in self.results().items()
        }
        stages = {
            row: [found for seed in range(each.seeds) if (found := self.own_stages(row, seed))]
            for row, each in self.file.rows.items()
        }
        facts = {
            "file": self.file.model_dump(mode="json"),
            "encoder": self.section,
            "left_out": self.left_out,
            "versions": {package: found for package, found in versions().items() if found},
            "stages": stages,
            "probes": results,
        }
        file = self.out / "proof.json"
        replace_file(file, (json.dumps(facts, indent=1, default=str) + "\n").encode())
        return file

    def _encoder_section(self) -> dict[str, Any]:
        """The encoder as a section of a run's file, for images of the proof's size."""
        given = self.encoder if self.encoder is not None else self.file.encoder
        config = config_of(given) if isinstance(given, str) else EncoderConfig.of(given)
        if config.library != "hf" and "img_size" not in config.kwargs:
            config = replace(config, kwargs={**config.kwargs, "img_size": self.file.image_size})
        values = {each.name: getattr(config, each.name) for each in fields(config)}
        return {key: str(value) if key == "weights" else value for key, value in values.items() if value}

    def _check_stages(self, row: str, config: TrainConfig) -> None:
        begin_at = self.file.rows[row].begin_at
        if begin_at is not None and begin_at not in config.stages:
            raise SpatialBoostError(f"row {row!r} begins at {begin_at!r}, but its stages are {list(config.stages)}")

    def _note_missing(self, name: str, sources: Iterable[Any], given: Mapping[str, Any]) -> None:
        """Note a row or a probe whose data is not there."""
        folders = [each.folder for each in sources if each is not None and each.folder is not None]
        try:
            for folder in folders:
                within(folder, self.data)
            _joined(given, self.data)
        except SpatialBoostError as error:
            self.left_out[name] = str(error)

    def _build(self, names: Iterable[str]) -> None:
        from spatialboost.scenes.dataset.writer import build_dataset

        for name in names:
            dataset = self.file.datasets[name]
            source = dataset.source.open(self.file.image_size, self.data)
            report = build_dataset(
                source,
                self.out / "data" / name,
                order=dataset.order,
                plan=_plan(dataset),
                with_depth=True,  # the teachers of depth and of matches need it
            )
            if not report.written:
                raise SpatialBoostError(f"no conversation of dataset {name!r} could be made: {dict(report.skipped)}")

    def _train(self, row: str, seed: int) -> None:
        config, section = self.config(row, seed), self.file.rows[row]
        if section.like is not None and section.begin_at is not None:
            names = list(config.stages)
            self._train(section.like, seed)
            shared = names[: names.index(section.begin_at)]
            take_over_stages(self.folder(section.like, seed), self.folder(row, seed), shared)
        train(config)

    def _measure(self, row: str, seed: int, open_row: Any) -> None:
        """Run the probes that are not finished."""
        encoder: nn.Module | None = None
        for name, section in self.file.probes.items():
            file = self._result(name, row, seed)
            key = self._key(section)
            if name in self.left_out or (file.is_file() and ProbeResult.read(file).settings.get("cell") == key):
                continue
            encoder = open_row().eval() if encoder is None else encoder
            logger.info("%s, seed %d: %s ...", row, seed, name)
            result = self._probe(name, {row: encoder})
            replace(result, settings={**result.settings, "cell": key}).save(file.parent)

    def _probe(self, name: str, encoders: Mapping[str, nn.Module]) -> ProbeResult:
        section = self.file.probes[name]
        probe, options = self._options(name, section)
        if section.open:
            train_on, test_on = probe.splits(**_joined(section.open, self.data)).open()
        else:
            train_on, test_on = (
                None if source is None else source.open(self.file.image_size, self.data)
                for source in (section.train, section.test)
            )
        return run_probe(probe, encoders, train_on, test_on, options)

    def _options(self, name: str, section: ProbeSection) -> tuple[Any, CommonOptions]:
        kind = find_probe(section.probe)
        common = {each.name for each in fields(CommonOptions)}
        own = {key: value for key, value in section.options.items() if key not in common}
        shared: dict[str, Any] = {"image_size": self.file.image_size, "progress": True}
        shared |= {key: value for key, value in section.options.items() if key in common}
        known = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # a probe is a dataclass
        for key in own:
            if key not in known:
                raise SpatialBoostError(f"probe {name!r}: {unknown('option', key, [*known, *common])}")
        return kind(**own), CommonOptions(**shared)

    def _key(self, section: ProbeSection) -> str:
        """What a stored result must have been measured with, to be used again."""
        content = [section.model_dump(mode="json", exclude={"picture"}), self.section, self.file.image_size]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _draw(self) -> None:
        """Draw the pictures: the first rows with seed 0, measured together."""
        from spatialboost.experiments.changes import draw_changes

        rows = [BASE, *(row for row in self.file.rows if row not in self.left_out)][:PICTURED]
        for name, section in self.file.probes.items():
            done = all(self._result(name, row, 0).is_file() for row in rows)
            if not section.picture or self.picture(name).is_file() or not done:
                continue
            logger.info("picture: %s ...", name)
            result = self._probe(name, {row: self.open(row, 0) for row in rows})
            self.picture(name).parent.mkdir(parents=True, exist_ok=True)
            draw_changes(result, self.picture(name), shown=rows)

    def _result(self, probe: str, row: str, seed: int) -> Path:
        """The file with the result of one probe for one cell."""
        return self.out / f"seed{seed}" / "probes" / probe / row / f"{self.file.probes[probe].probe}.json"


def _plan(dataset: Dataset) -> Any:
    from spatialboost.scenes.questions.plan import TurnPlan

    if dataset.turns is None:
        return TurnPlan(wordings=dataset.wordings, cells=dataset.cells)
    return TurnPlan(dataset.turns, wordings=dataset.wordings, cells=dataset.cells)


def _joined(given: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """The options by which a command says its data, with the folders within the folder of data."""
    kinds = {"data": str, "test_data": str, "train": Path, "test": Path}
    return {
        key: kinds[key](within(value, data)) if key in kinds and isinstance(value, str) else value
        for key, value in given.items()
    }

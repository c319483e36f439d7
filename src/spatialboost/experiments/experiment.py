"""One experiment: a training run and its controls, with one seed or several, and the probe results of each encoder.

The demo is such an experiment; a proof has many runs of one encoder, see `proof.py`.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from spatialboost.encoders import open_encoder
from spatialboost.errors import SpatialBoostError
from spatialboost.experiments.verdict import verdict
from spatialboost.probes.result import ProbeResult
from spatialboost.training.config import load_config
from spatialboost.training.report import gates_per_layer
from spatialboost.training.run import TrainResult, train

logger = logging.getLogger(__name__)

Encoders = Mapping[str, nn.Module]
Probe = Callable[[Encoders], ProbeResult]

# The control of the language teacher: the same training, but each answer belongs to another image.
SHUFFLED_ANSWERS: Mapping[str, Mapping[str, Any]] = {"shuffled answers": {"stage3.shuffle_answers": True}}


@dataclass
class SeedRun:
    """The results of one seed.

    Attributes:
        seed: Seed for data order and new weights.
        stages: For each run (`"boosted"` and each control), the record of each stage.
        gates: For each run, the mean gate of each layer.
        probes: Result of each probe, by the name of the probe in the experiment.
        encoders: `"base"`, `"boosted"` and each control, in evaluation mode.
        results: For each run, the result of the training: the teacher with all its parts, the delta.
        seconds: Duration of each part.
    """

    seed: int
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    gates: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    probes: dict[str, ProbeResult] = field(default_factory=dict)
    encoders: dict[str, nn.Module] = field(default_factory=dict)
    results: dict[str, TrainResult] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Experiment:
    """The runs of an experiment; `run_experiment` makes it.

    Attributes:
        out: Folder of the experiment.
        config: Configuration of the run that is compared with its base.
        controls: Name -> settings in which a control differs.
        runs: One result for each seed.
    """

    out: Path
    config: Mapping[str, Any]
    controls: Mapping[str, Mapping[str, Any]]
    runs: list[SeedRun]

    def probe(self, name: str) -> list[ProbeResult]:
        """The results of one probe, seed by seed."""
        return [run.probes[name] for run in self.runs]

    def verdict(self, name: str) -> str:
        """One sentence that says whether boosted beats base and controls in one probe."""
        return verdict(self.probe(name), list(self.controls))

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured, JSON-able."""
        runs = [
            {
                "seed": run.seed,
                "stages": run.stages,
                "gates": run.gates,
                "probes": {name: probe.to_dict() for name, probe in run.probes.items()},
                "seconds": run.seconds,
            }
            for run in self.runs
        ]
        verdicts = {name: self.verdict(name) for name in self.runs[0].probes}
        controls = {name: dict(changes) for name, changes in self.controls.items()}
        return {"verdicts": verdicts, "config": dict(self.config), "controls": controls, "runs": runs}

    def save(self, **facts: Any) -> Path:
        """Write `result.json` into the experiment's folder, with further facts in addition to the results."""
        file = self.out / "result.json"
        file.write_text(json.dumps({**facts, **self.to_dict()}, indent=2, default=str) + "\n", encoding="utf-8")
        return file


def run_experiment(
    config: Mapping[str, Any],
    out: Path | str,
    *,
    probes: Mapping[str, Probe],
    controls: Mapping[str, Mapping[str, Any]] = SHUFFLED_ANSWERS,
    seeds: Sequence[int] = (0,),
) -> Experiment:
    """Train, train the controls, and probe base, boosted and controls, for each seed.

    Example:
        >>> rooms = Rooms(300, first=500_000), Rooms(200, first=600_000)  # doctest: +SKIP
        >>> probes = {"rooms": lambda encoders: depth_probe(encoders, *rooms)}  # doctest: +SKIP
        >>> experiment = run_experiment(config, "runs/one", probes=probes)  # doctest: +SKIP
        >>> print(experiment.verdict("rooms"))  # doctest: +SKIP

    A control shares the stages before the first one in which it differs: their results are copied, so that both
    start that stage from the same weights. A second call with the same folder continues where the first stopped.

    Args:
        config: Configuration of the run, for `spatialboost.training.load_config`; `seed` and `out` are set here.
        out: Folder of the experiment: `seed0/boosted`, `seed0/shuffled answers`, ... are the folders of the runs.
        probes: Name -> function of the encoders (`"base"`, `"boosted"` and each control) to a result.
        controls: Name -> settings in which the control differs, such as `{"stage3.shuffle_answers": True}`.
        seeds: One complete run with its controls and probes for each seed.

    Raises:
        SpatialBoostError: No seed, a control with the name of an encoder, or settings that do not exist.
    """
    out = Path(out)
    if not seeds:
        raise SpatialBoostError("an experiment without a seed; expected at least one")
    if taken := {"base", "boosted"} & set(controls):
        raise SpatialBoostError(f"a control is named {taken.pop()!r}, as an encoder is; give it another name")
    for changes in controls.values():  # before anything is trained
        load_config({**_changed(config, changes), "out": out})
    runs = [_run_seed(config, out, probes, controls, seed) for seed in seeds]
    experiment = Experiment(out, config, controls, runs)
    experiment.save()
    return experiment


def _run_seed(
    config: Mapping[str, Any],
    out: Path,
    probes: Mapping[str, Probe],
    controls: Mapping[str, Mapping[str, Any]],
    seed: int,
) -> SeedRun:
    run, folder = SeedRun(seed), out / f"seed{seed}"
    clock = Clock(run.seconds)
    own = {**config, "seed": seed}
    with clock("boosted"):
        boosted = train(load_config({**own, "out": folder / "boosted"}))
    run.encoders["base"] = open_encoder(load_config({**own, "out": folder / "boosted"}).encoder, seed=seed)
    _note(run, "boosted", boosted)
    for name, changes in controls.items():
        with clock(name):
            take_over_stages(folder / "boosted", folder / name, _before(list(boosted.stages), changes))
            control = train(load_config({**_changed(own, changes), "out": folder / name}))
        _note(run, name, control)
    for name, probe in probes.items():
        with clock(f"probe: {name}"):
            run.probes[name] = probe(run.encoders)
            run.probes[name].save(folder / "probes" / name)
    return run


def _note(run: SeedRun, name: str, result: TrainResult) -> None:
    """Put the records and the result of a training run into `run`."""
    run.stages[name] = result.stages
    run.gates[name] = gates_per_layer(result.encoder)
    run.encoders[name] = result.encoder.eval()
    run.results[name] = result


def take_over_stages(source: Path, target: Path, stages: Sequence[str]) -> None:
    """Copy the results of finished stages from the folder of one run to that of another, unless it has its own."""
    for stage in stages:
        if not (target / stage).exists():
            unfinished = target / f".{stage}.copy"  # a copy that is interrupted must not look like a finished stage
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(source / stage, unfinished)
            unfinished.rename(target / stage)


def _before(stages: Sequence[str], changes: Mapping[str, Any]) -> Sequence[str]:
    """The stages before the first one in which a control differs; none, if a setting that all share differs."""
    differs = [key.partition(".")[0] for key in changes]
    if not differs or any(key not in stages for key in differs):
        return []
    return stages[: min(stages.index(key) for key in differs)]


def _changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some settings replaced, each named by its keys with dots between."""
    changed = dict(config)
    for path, value in changes.items():
        *sections, last = path.split(".")
        section: Any = changed
        for key in sections:
            inner = section.get(key, {})
            if not isinstance(inner, Mapping):
                raise SpatialBoostError(f"{path!r} cannot be set: {key!r} is {inner!r}, not a section of settings")
            section[key] = dict(inner)  # a copy: two stages may be given as one and the same dictionary
            section = section[key]
        section[last] = value
    return changed


class Clock:
    """Adds the seconds of each named part to a dictionary, and logs when a part begins.

    Example:
        >>> seconds = {}
        >>> with Clock(seconds)("data"):
        ...     pass
        >>> list(seconds)
        ['data']
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def __call__(self, name: str) -> Clock:
        """Set the name of the part that begins."""
        self.name = name
        logger.info("%s ...", name)
        return self

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.name] = round(time.perf_counter() - self.began, 1)

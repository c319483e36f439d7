"""One stage of any teacher: freeze, boost, choose the trained parameters, fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.protocol import Readiness, Teacher
from spatialboost.training.data import RowDataset
from spatialboost.training.fit import Fit, fit
from spatialboost.training.methods import METHODS
from spatialboost.training.movement import state_digest
from spatialboost.training.optimizers import muon_groups
from spatialboost.training.processes import own_device, wait, world_size
from spatialboost.training.sharding import call, sharded
from spatialboost.training.strategy import StrategyConfig
from spatialboost.training.trackers import Trackers

logger = logging.getLogger(__name__)


def train_stage(
    teacher: Teacher,
    name: str,
    config: Any,
    dataset: RowDataset,
    *,
    folder: Path,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    strategy: StrategyConfig | None = None,
    before: Callable[[Teacher], None] | None = None,
    after: Callable[[Teacher], None] | None = None,
    trackers: Trackers | None = None,
) -> Fit:
    """Train one stage of a teacher. All parameters that the stage does not train are frozen.

    Example:
        >>> train_stage(teacher, "head", HeadConfig(steps=100), dataset, folder=Path("run/head"))  # doctest: +SKIP

    Args:
        teacher: The teacher. Its objective is changed in place, and the encoder too if the stage boosts.
        name: Name of the stage.
        config: Settings of the stage.
        dataset: Training rows.
        folder: Folder for checkpoints.
        seed: Random seed for the order of the data.
        device: ``auto`` uses a GPU if there is one.
        workers: Worker processes that read data.
        strategy: How several processes share the work; None is data parallel.
        before: Called with the teacher before the first step, also if the training is resumed from a checkpoint.
        after: Called with the teacher after the last step. It is a teacher with a sharded objective under FSDP2.
        trackers: Trackers that get the log.
    """
    stage, objective = teacher.stages[name], teacher.objective
    groups = prepare_stage(teacher, name, config, size=dataset.images.size, seed=seed)
    if stage.cached:
        dataset.features.open(objective.encoder, objective.layer, image_size=dataset.images.size)
    rows = dataset.with_features(stage.cached)
    strategy, place = strategy or StrategyConfig(), own_device(device)
    if strategy.shards and stage.cached and world_size() > 1:
        objective.encoder.to(place)
        rows.fill_features()  # a sharded encoder cannot be called by one process alone
        objective.encoder.to("cpu")
        wait()
    with sharded(teacher, groups, strategy, place) as (ours, own_groups):
        if before is not None:
            call(ours.objective, lambda: before(ours))
        fitted = fit(
            ours.objective,
            rows,
            own_groups,
            config,
            folder=folder,
            collate=teacher.collate,
            seed=seed,
            device=device,
            workers=workers,
            strategy=strategy,
            name=name,
            trackers=trackers,
        )
        if after is not None:
            call(ours.objective, lambda: after(ours))
    rows.warn_of_skipped()
    return fitted


def prepare_stage(
    teacher: Teacher, name: str, config: Any, *, size: tuple[int, int], seed: int = 0
) -> list[dict[str, Any]]:
    """Freeze all, boost if the stage does, and let the stage's parameters require gradients; returns their groups.

    Args:
        teacher: The teacher.
        name: Name of the stage.
        config: Settings of the stage.
        size: Height and width of the images in pixels.
        seed: Random seed for new weights.
    """
    objective = teacher.objective
    objective.requires_grad_(False)
    teacher.prepare(name, config)
    groups: list[dict[str, Any]] = []
    if teacher.stages[name].boosts:
        groups += METHODS[config.method].groups(objective.encoder, objective.layer, config, size=size, seed=seed)
    groups += teacher.groups(name, config)
    objective.requires_grad_(False)  # new weights that this stage leaves as they are
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    if config.matrix_lr is not None:
        groups = muon_groups(groups, config.matrix_lr, tables=objective)
    if config.checkpointing:
        recompute_activations(objective)
    return groups


def new_weights(teacher: Teacher) -> dict[str, tuple[int, ...]]:
    """Checksums of the parameters that are new: those outside the encoder and outside `Teacher.loaded`."""
    known = {id(p) for part in (teacher.objective.encoder, *teacher.loaded()) for p in part.parameters()}
    return {name: state_digest(p) for name, p in teacher.objective.named_parameters() if id(p) not in known}


def check_ready(name: str, found: Readiness | None) -> None:
    """Refuse a stage that boosts if the teacher has nothing to teach; log why, if it may begin in any case.

    Args:
        name: The stage that is about to begin.
        found: The result of `Teacher.readiness`; None if the teacher has no such condition.
    """
    if found is None:
        return
    if found.required and not found.ready:
        raise SpatialBoostError(
            f"{name} is not begun: {found.reason}. What it would learn could only make the encoder worse. Train the "
            f"stages before it longer or on more data, or set {name}.require_answers: false to begin in any case"
        )
    logger.log(logging.INFO if found.ready else logging.WARNING, "%s: %s", name, found.reason)


def check_new_weights(
    teacher: Teacher, stages: Mapping[str, Any], name: str, new: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a stage that would train through random weights which no stage has trained.

    Args:
        teacher: The teacher.
        stages: The stages of the run, by name, in order.
        name: The stage that is about to begin.
        new: The result of `new_weights`, before the first stage.
    """
    names = list(stages)
    later = [] if teacher.stages[name].boosts else names[names.index(name) + 1 :]
    trained = {id(p) for each in (name, *later) for g in teacher.groups(each, stages[each]) for p in g["params"]}
    left = [
        each
        for each, p in teacher.objective.named_parameters()
        if each in new and id(p) not in trained and state_digest(p) == new[each]
    ]
    if left:
        part = ".".join(left[0].split(".")[:2])
        raise SpatialBoostError(
            f"{name} would train through {part} with its first, random weights: no stage trains it. Run the stage "
            f"before it that does (the stages are {', '.join(teacher.stages)}), or let {name} train it, too. "
            "A teacher names parts with weights from elsewhere in `Teacher.loaded`"
        )


def recompute_activations(module: nn.Module) -> None:
    """Turn on activation checkpointing in each timm or transformers model inside a module.

    Reentrant checkpointing is not used: if the inputs need no gradient, it gives the parameters no gradient either.
    """
    host: Any = module
    if hasattr(host, "activation_checkpointing_enable"):  # the method's name since transformers 5.2x
        host.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    elif hasattr(host, "gradient_checkpointing_enable"):
        host.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    elif hasattr(host, "set_grad_checkpointing"):
        host.set_grad_checkpointing(True)
    else:
        for part in module.children():
            recompute_activations(part)

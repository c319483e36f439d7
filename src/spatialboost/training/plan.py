"""The memory that a run needs, stage by stage, before anything is trained: no weights are read and no GPU is needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.encoders import open_encoder, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.teachers.protocol import BAD_DATA, Example, Row, Teacher, TeacherInputs, row_images
from spatialboost.teachers.registry import teacher_class
from spatialboost.training.config import TrainConfig, load_config
from spatialboost.training.data import RowCollator, RowImages
from spatialboost.training.stage import prepare_stage
from spatialboost.training.step_memory import AssumeEqual, StepMemory, measure_step, shape_only
from spatialboost.training.subset import choose_rows

# A card sold as 80 GB has about 80 * 2**30 bytes. Here a GB is 10**9 bytes: the 7 % between are left to CUDA's context,
# the workspaces of its libraries and the gaps between tensors, none of which is counted.
GB = 10**9
CARDS = (24, 80)
LOOKED_AT = 64  # rows of which the largest is taken
FAR = 32  # a batch this many times larger is measured too: with small ones, another moment of a step is the largest
SAVERS = ("checkpointing=true", "bf16=true")  # settings of a stage that need less memory


@dataclass(frozen=True)
class Strategy:
    """A way to spread a training over GPUs; what is True is held in parts, one on each GPU.

    Attributes:
        label: Its name.
        weights: Weights in parts; a block is gathered while it is computed.
        gradients: Gradients in parts.
        optimizer: The optimiser's state in parts.
        buckets: The gradients are held twice, the second time in buckets that are sent to the other GPUs.
    """

    label: str
    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    buckets: bool = False


ONE = Strategy("one GPU")
STRATEGIES = (
    Strategy("DDP", buckets=True),
    Strategy("ZeRO-2", gradients=True, optimizer=True),
    Strategy("FSDP2, ZeRO-3", weights=True, gradients=True, optimizer=True),
)


@dataclass
class StagePlan:
    """The memory of one stage.

    Attributes:
        name: Name of the stage.
        batch_size: The batch size of the configuration.
        example: What one row was taken to be.
        trained: Trained parameters.
        memory: Batch size -> the memory of a step with it.
        gathered: Bytes of weights and of gradients that are whole for a moment if the weights are held in parts: the
            parts of the model outside its blocks, and the two largest blocks.
        savers: For a stage that does not fit one GPU of `CARDS`: settings -> bytes with batch size 1, each together
            with those before it.
    """

    name: str
    batch_size: int
    example: str
    trained: int
    memory: dict[int, StepMemory]
    gathered: tuple[int, int]
    savers: dict[str, int] = field(default_factory=dict)

    def total(self, strategy: Strategy = ONE, gpus: int = 1, batch_size: int | None = None) -> int:
        """Bytes on each GPU; a batch size that was not measured is computed from the nearest two that were.

        Args:
            strategy: How the training is spread.
            gpus: Number of GPUs.
            batch_size: Rows in one forward on one GPU; None is that of the configuration.
        """
        wanted = batch_size or self.batch_size
        if wanted in self.memory:
            return self._measured(strategy, gpus, wanted)
        sizes = sorted(self.memory)
        place = next((i for i, size in enumerate(sizes) if size > wanted), len(sizes) - 1)
        low, high = sizes[max(0, place - 1)], sizes[max(1, place)]
        first, second = (self._measured(strategy, gpus, size) for size in (low, high))
        return first + (second - first) * (wanted - low) // (high - low)

    def largest_batch(self, bytes_: int, strategy: Strategy = ONE, gpus: int = 1) -> int:
        """The largest batch size on one GPU with so much memory; 0 if not even 1 fits."""
        if self.total(strategy, gpus, 1) > bytes_:
            return 0
        low, high = 1, 2
        while self.total(strategy, gpus, high) <= bytes_ and high < 2**20:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.total(strategy, gpus, middle) <= bytes_ else (low, middle)
        return low

    def _measured(self, strategy: Strategy, gpus: int, batch_size: int) -> int:
        memory = self.memory[batch_size]
        shards = gpus if strategy.gradients else 1
        total = memory.weights // (gpus if strategy.weights else 1)
        total += memory.optimizer // (gpus if strategy.optimizer else 1)
        total += memory.working(shards)
        total += memory.gradients if strategy.buckets else 0
        if strategy.gradients:
            total += self.gathered[1] * (gpus - 1) // gpus
        if strategy.weights:
            total += self.gathered[0] * (gpus - 1) // gpus
        return total


def plan(config: TrainConfig) -> list[StagePlan]:
    """The memory of each stage of a run.

    Example:
        >>> from spatialboost.training.config import load_config
        >>> shape = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}
        >>> config = load_config({
        ...     "encoder": {"name": "VisionTransformer", "kwargs": shape}, "data": {"folders": ["x"], "image_size": 32},
        ...     "teacher": {"kind": "pixel"}, "out": "run", "boost": {"batch_size": 4}})
        >>> for stage in plan(config):
        ...     print(stage.name, stage.trained, stage.total() < 10**8)
        head 49 True
        boost 18961 True

    One step of each stage is run on tensors without values (`spatialboost.training.step_memory`). If the folders of the
    data exist, the largest of some rows is taken for every row of a batch; else the teacher makes one up.

    Args:
        config: The result of `load_config`.

    Raises:
        SpatialBoostError: The configuration of a model is neither on this machine nor to be reached, or the teacher
            cannot tell the size of an example without data.
    """
    planned = []
    parts = _outline(config)
    for name, stage in config.stages.items():  # one after another on the same parts, as a run trains them
        found = _plan_stage(parts, name, stage)
        bytes_ = CARDS[0] * GB
        if found.total() > bytes_:
            found.savers = _try_savers(config, name, found, bytes_)
        planned.append(found)
    return planned


@dataclass(frozen=True)
class _Parts:
    """A teacher without weights, the mode that its tensors belong to, and what examples are made from."""

    teacher: Teacher
    mode: Any
    images: RowImages
    rows: Sequence[Row]
    training: Sequence[int]


def _plan_stage(parts: _Parts, name: str, stage: Any, batch_sizes: Sequence[int] = ()) -> StagePlan:
    objective = parts.teacher.objective
    batch_sizes = batch_sizes or (1, stage.batch_size, FAR * stage.batch_size)
    with _quiet():
        make_batch, told = _batches(parts, name, stage)
        groups = _prepare(parts, name, stage)
    parameters = [p for group in groups for p in group["params"]]
    memory = {}
    for size in sorted(set(batch_sizes)):
        memory[size] = measure_step(objective, groups, stage, lambda size=size: make_batch(size))  # type: ignore[misc]
        for parameter in parameters:
            parameter.grad = None
    return StagePlan(name, stage.batch_size, told, sum(p.numel() for p in parameters), memory, _gathered(objective))


def _prepare(parts: _Parts, name: str, stage: Any) -> list[dict[str, Any]]:
    """Freeze, boost and choose the trained parameters as `train_stage` does; returns their groups."""
    with AssumeEqual():  # when an encoder is boosted, it is checked whether its weights are shared or changed
        return prepare_stage(parts.teacher, name, stage, size=parts.images.size)


def _batches(parts: _Parts, name: str, stage: Any) -> tuple[Callable[[int], Mapping[str, Any]], str]:
    """A function that makes a batch of this many rows, and what one row was taken to be."""
    teacher = parts.teacher
    example, num_images, told = _example(parts, stage)
    held: list[Tensor] = []  # the Trainer keeps a batch until its step is done, also the pixels of stored features

    def make(size: int) -> Mapping[str, Any]:
        batch: dict[str, Any] = RowCollator(teacher.collate)([{**example, "row": torch.tensor(0)}] * size)
        with parts.mode:
            pixels = torch.empty(size * num_images, 3, *parts.images.size)
        held[:] = [pixels]
        if not teacher.stages[name].cached:
            return {**batch, "pixel_values": pixels}
        return {**batch, "patch_features": _features(teacher.objective, pixels)}

    return make, told


@torch.no_grad()
def _features(objective: Any, pixels: Tensor) -> Tensor:
    """What the store of features computes for the images of a batch that are not stored yet."""
    was_training = objective.encoder.training
    objective.encoder.eval()
    patches = read_tokens(objective.encoder, torch.cat([pixels]), layer=objective.layer).patches
    objective.encoder.train(was_training)
    return patches


def _outline(config: TrainConfig) -> _Parts:
    kind = teacher_class(config.teacher.kind)
    rows = _rows(config)
    training = choose_rows(config.data, rows, config.seed)[0] if rows else ()
    with _quiet():
        with torch.device("meta"):
            encoder = open_encoder(replace(config.encoder, weights=None, pretrained=False), seed=None)
        images = RowImages(encoder, config.data.image_size)
        inputs = TeacherInputs(encoder, rows, training, images, config.layer, config.seed)
        teacher = kind.outline(config.teacher, inputs)
    return _Parts(teacher, shape_only(teacher.objective), images, rows, training)


def _rows(config: TrainConfig) -> Any:
    """The rows of the run; none if a folder does not exist yet."""
    if not all(Path(folder).is_dir() for folder in config.data.folders):
        return ()
    return open_rows(config.data.folders)


def _example(parts: _Parts, stage: Any) -> tuple[Example, int, str]:
    """The largest example among some rows, or a made-up one; its number of images; and what it was taken from."""
    found: list[tuple[Example, int]] = []
    if parts.rows:
        make_example = parts.teacher.make_example(stage, parts.rows, parts.training)
        for number in parts.training[:: max(1, len(parts.training) // LOOKED_AT)]:
            row = parts.rows[number]
            try:
                example = dict(make_example(number, row))
                images = len(example["pixel_values"]) if "pixel_values" in example else len(row_images(row))
                found.append((example, images))
            except BAD_DATA:
                continue  # training reports bad rows when it reads them
    made_up = None if found else parts.teacher.typical_example(stage)
    if not found and made_up is None:
        raise SpatialBoostError(
            f"{type(parts.teacher).__name__} cannot tell the size of its examples without data: build the data first"
        )
    example, images = made_up or max(found, key=lambda each: (sum(t.numel() for t in each[0].values()), each[1]))
    sizes = ", ".join(f"{key} {'x'.join(map(str, value.shape))}" for key, value in example.items())
    source = "made up, as there is no data yet" if made_up else f"the largest of {len(found)} rows"
    return example, images, f"{images} image(s), {sizes} ({source})"


def _gathered(objective: nn.Module) -> tuple[int, int]:
    """Bytes of weights, and of gradients, outside the blocks and in the two largest blocks."""
    blocks = [block for stack in _stacks(objective) for block in stack]
    inside = {id(p) for block in blocks for p in block.parameters()}
    rest = [p for p in objective.parameters() if id(p) not in inside]

    def size(parameters: Any, trained: bool) -> int:
        return sum(p.numel() * p.element_size() for p in parameters if p.requires_grad or not trained)

    def both(trained: bool) -> int:
        return size(rest, trained) + sum(sorted(size(block.parameters(), trained) for block in blocks)[-2:])

    return both(False), both(True)


def _stacks(module: nn.Module) -> Iterator[list[nn.Module]]:
    """The outermost lists of equal blocks in a module."""
    children = list(module.children())
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(children) > 1 and len(set(map(type, children))) == 1:
        yield children
        return
    for child in children:
        yield from _stacks(child)


def _try_savers(config: TrainConfig, name: str, found: StagePlan, bytes_: int) -> dict[str, int]:
    """Settings that need less memory, one after another, until the stage fits with one row at a time."""
    tried = {"batch_size=1": found.total(batch_size=1)}
    changes = [f"{other}=null" for other in config.stages if other != name]  # a setting may not go with another stage
    lightest = load_config(config.model_dump(mode="json"), changes)
    teacher = teacher_class(config.teacher.kind)
    for change in (*(f"{name}.{each}" for each in SAVERS), *teacher.savers.get(name, ())):
        if min(tried.values()) <= bytes_:
            break
        try:
            lighter = load_config(config.model_dump(mode="json"), [*changes, change])
        except SpatialBoostError:
            continue  # this model cannot be loaded so
        if lighter != lightest:
            changes.append(change)
            lightest = lighter
            tried[change] = _plan_stage(_outline(lighter), name, getattr(lighter, name), (1,)).total(batch_size=1)
    return tried


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what building a model logs: that its weights are random, which layers are boosted."""
    loggers = [logging.getLogger(name) for name in ("spatialboost", "transformers", "timm")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)

"""Train parameters on a loss: `transformers.Trainer` with our optimiser, checks, checkpoints and progress bar."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence, Sized
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from spatialboost.boosting.channel import is_sharded
from spatialboost.errors import SpatialBoostError, everywhere
from spatialboost.training.batched_trainer import BATCHES, BatchedTrainer
from spatialboost.training.callbacks import Finite, Movement, Progress, memory_explained, stopped_by_signal
from spatialboost.training.claim import read_json
from spatialboost.training.compiled import compiled
from spatialboost.training.config import StageConfig
from spatialboost.training.data import RowCollator, RowDataset
from spatialboost.training.movement import trainable_report
from spatialboost.training.optimizers import build_optimizer, cosine_schedule, optimizer_state
from spatialboost.training.pace import Pace
from spatialboost.training.parts import count_parts, stage_table
from spatialboost.training.processes import PATIENCE, is_main, loss_explained, wait, world_size
from spatialboost.training.sharding import full_state, shards_like
from spatialboost.training.strategy import StrategyConfig
from spatialboost.training.trackers import Trackers
from spatialboost.training.zero import full_weight, load_zero, start_zero

logger = logging.getLogger(__name__)

WEIGHTS = "trainable.safetensors"
SKIPPED = "skipped.json"
ZERO = "zero"  # folder of DeepSpeed's own files in a checkpoint


@dataclass
class Fit:
    """The record of training one stage.

    Attributes:
        steps: Optimiser steps, including those before a resume.
        seconds: Training time of this process.
        history: One entry for every `log_every` steps: step, loss (mean since the last entry), learning_rate,
            grad_norm, and what `spatialboost.training.pace` measures.
        trainable: For each part, the number of trainable parameters and of all parameters.
        parts: What was trained, by part, with bytes, see `spatialboost.training.parts.Part`.
        moved: What the check of the first steps has found, in one line.
        resumed_from: Step of the checkpoint that training resumed from; 0 without one.
    """

    steps: int
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    trainable: dict[str, tuple[int, int]] = field(default_factory=dict)
    resumed_from: int = 0
    parts: list[dict[str, Any]] = field(default_factory=list)
    moved: str = ""


def fit(
    objective: nn.Module,
    dataset: Dataset[Any],
    groups: Sequence[dict[str, Any]],
    stage: StageConfig,
    *,
    folder: Path,
    collate: Callable[..., dict[str, Any]] | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    strategy: StrategyConfig | None = None,
    name: str = "training",
    trackers: Trackers | None = None,
) -> Fit:
    """Train the parameters in the given groups and no others.

    Exactly these parameters must have ``requires_grad``. After the first steps, `MovementCheck` checks that all of them
    have changed and no others. If `folder` has a checkpoint, training resumes from it. A checkpoint contains the
    trained parameters, the state of the Trainer, and the rows that were left out. The rows of each step depend only on
    the seed, the step and the global batch, see `GlobalBatches`; so the number of processes may have changed.

    Args:
        objective: ``forward(**batch)`` gives a dictionary with ``loss``.
        dataset: A `RowDataset` or any other data set with a length and numbered examples.
        groups: Parameter groups for `build_optimizer`, each with its highest ``lr``.
        stage: Settings of the stage.
        folder: Folder for checkpoints.
        collate: Makes a batch from a list of examples; None stacks them.
        seed: Random seed for the order of the data.
        device: ``auto`` uses a GPU if there is one.
        workers: Worker processes that read data; 0 reads in this process.
        strategy: ``deepspeed`` divides the objective by ZeRO. For FSDP2 it is divided before, see `sharded`.
        name: Label of the progress bar.
        trackers: Trackers that get the log.
    """
    if workers:
        os.environ.setdefault(
            "TOKENIZERS_PARALLELISM", "false"
        )  # tokenizers' threads stop at a fork, which would cause a warning
    arguments = _arguments(stage, folder, seed, device, workers)
    rows = dataset if isinstance(dataset, RowDataset) else None
    if rows is not None:
        collate = RowCollator(collate, features=rows.use_features)
    if arguments.n_gpu > 1:
        raise SpatialBoostError(
            f"one process sees {arguments.n_gpu} GPUs: start one process per GPU (`torchrun`, `accelerate launch`), "
            "or choose one GPU with CUDA_VISIBLE_DEVICES"
        )
    if isinstance(dataset, Sized) and len(dataset) < world_size():
        raise everywhere(
            SpatialBoostError(
                f"{name} has {len(dataset)} rows for {world_size()} processes, and each needs at least one: start "
                "fewer processes, or give more rows"
            )
        )
    trained = {id(p) for group in groups for p in group["params"]}
    mismatched = [n for n, p in objective.named_parameters() if p.requires_grad != (id(p) in trained)]
    if mismatched:
        raise SpatialBoostError(
            f"requires_grad and the parameter groups differ on {mismatched[:4]}: set requires_grad on exactly the "
            "parameters in the groups"
        )
    report = trainable_report(objective)
    parts = count_parts(objective, groups)
    if arguments.should_log:
        told = stage_table(name, objective, parts, stage, dataset, processes=arguments.world_size)
        logger.info("%s", told)
    progress = Progress(name)
    trainer = _Engine(
        groups, stage, objective, arguments, strategy, rows=rows, data_collator=collate, train_dataset=dataset
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(progress)
    for callback in trackers.callbacks(name) if trackers is not None else ():
        trainer.add_callback(callback)
    checkpoint = last_checkpoint(folder)
    wait()  # no process may write before all have looked
    if checkpoint is not None and (checkpoint / BATCHES).exists():
        trainer.batches.check_facts(read_json(checkpoint / BATCHES))
    movement = Movement(objective, gradients=not trainer.by_zero)
    if checkpoint is None:
        trainer.add_callback(movement)
    trainer.add_callback(Finite(name, groups, stage, trainer.finite))
    if checkpoint is not None and rows is not None and (checkpoint / SKIPPED).exists():
        rows.leave_out({int(row): reason for row, reason in read_json(checkpoint / SKIPPED).items()})
    began = time.perf_counter()
    if checkpoint is not None and _is_last(checkpoint):
        # All steps are done but the result was not saved. The Trainer would take one step too many
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    else:
        blocks = compiled(objective) if stage.compile else nullcontext()
        with stopped_by_signal(trainer, name), memory_explained(name, stage), loss_explained(name), blocks:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if rows is not None:
        rows.gather_skipped()
    return Fit(
        steps=trainer.state.global_step,
        seconds=time.perf_counter() - began,
        history=[entry for entry in trainer.state.log_history if "loss" in entry],
        trainable=report,
        resumed_from=_step(checkpoint) if checkpoint else 0,
        parts=[asdict(part) for part in parts],
        moved=movement.told,
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint. The trainer state is written last, so an incomplete one has no readable state."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, ValueError):
            logger.warning("%s is incomplete and is skipped", checkpoint.name)
            continue
        return checkpoint
    return None


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a stage whose result is saved."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def _is_last(checkpoint: Path) -> bool:
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return state["global_step"] >= state["max_steps"] > 0


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _arguments(stage: StageConfig, folder: Path, seed: int, device: str, workers: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulate,
        max_steps=stage.steps or -1,
        num_train_epochs=stage.epochs,
        max_grad_norm=stage.clip,
        bf16=stage.bf16,
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu" or not torch.accelerator.is_available(),
        save_strategy="steps" if stage.save_every else "no",
        save_steps=stage.save_every or 1,
        save_total_limit=1,
        logging_steps=stage.log_every,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=torch.cuda.is_available() and device != "cpu",
        ddp_find_unused_parameters=False,
        ddp_timeout=int(PATIENCE.total_seconds()),
    )


class _Sharded(nn.Module):
    """A sharded objective, as a model that the Trainer does not wrap again."""

    def __init__(self, objective: nn.Module, device: torch.device, *, bf16: bool) -> None:
        super().__init__()
        self.objective, self.device, self.bf16 = objective, device, bf16

    def forward(self, **batch: Any) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.objective(**batch)


class _Engine(BatchedTrainer):
    """A Trainer with our optimiser and schedule, cached features, and checkpoints of the trained parameters only."""

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        stage: StageConfig,
        model: nn.Module,
        args: Any,
        strategy: StrategyConfig | None,
        *,
        rows: RowDataset | None,
        **kwargs: Any,
    ) -> None:
        self.groups, self.stage, self.rows, self.strategy = groups, stage, rows, strategy
        self.by_zero = strategy is not None and strategy.kind == "deepspeed" and world_size() > 1
        self.trained = [name for name, p in model.named_parameters() if p.requires_grad]
        self.sharded = any(is_sharded(p) for p in model.parameters())
        self.finite = torch.ones((), dtype=torch.bool, device=args.device)  # whether all losses of this process were
        super().__init__(stage, model=model, args=args, **kwargs)
        self.pace = Pace(model, self.args.device, self.args.world_size)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs = {**logs, **self.pace.entry(self.state.global_step, self.state.max_steps)}
        super().log(logs, *args, **kwargs)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self.sharded:
            super()._move_model_to_device(model, device)

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if self.by_zero:
            return self.engine
        if self.sharded and isinstance(model, _Sharded):
            return model
        if self.sharded:
            return _Sharded(model, self.args.device, bf16=self.args.bf16)
        return super()._wrap_model(model, *args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            fused = self.args.device.type in ("cpu", "cuda")
            self.optimizer = build_optimizer(self.groups, beta2=self.stage.beta2, fused=fused and not self.by_zero)
            if self.by_zero and self.strategy is not None:
                self._start_zero(self.strategy)
        return self.optimizer

    def _start_zero(self, strategy: StrategyConfig) -> None:
        own: Any = self
        self.optimizer = start_zero(own.model, own.optimizer, strategy, self.stage, self.args.device)
        self.engine = self.optimizer.engine

        def backward(loss: Tensor, **_: Any) -> None:
            self.engine.set_gradient_accumulation_boundary(self.accelerator.sync_gradients)
            self.engine.backward(loss, scale_wrt_gas=False)

        accelerator: Any = self.accelerator
        accelerator.backward = backward
        accelerator.clip_grad_norm_ = lambda *_, **__: None  # the engine clips
        accelerator.no_sync = lambda *_, **__: nullcontext()  # it reduces the gradients of each batch

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            shape = cosine_schedule(num_training_steps, self.stage.warmup, self.stage.min_lr)
            target: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = LambdaLR(target, shape)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.pace.count(inputs)
        if self.rows is not None and self.rows.use_features:
            inputs = self.rows.features.complete(inputs)
        device = self.args.device  # the copy of pinned memory goes on while the device computes
        moved = {
            key: each.to(device, non_blocking=True) if torch.is_tensor(each) else each for key, each in inputs.items()
        }
        return super()._prepare_inputs(moved)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.finite &= torch.isfinite(loss).all()  # `Finite` stops all processes together
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained parameters. All processes gather them, and the main one writes."""
        model: Any = self.model
        parameters = dict(model.named_parameters())
        values = {name: full_weight(parameters[name]) for name in self.trained} if self.by_zero else parameters
        values = full_state({name: values[name].detach() for name in self.trained}, keep=is_main())
        if not is_main():
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in values.items()}, folder / WEIGHTS)
        if self.rows is not None and self.rows.skipped:
            (folder / SKIPPED).write_text(json.dumps(self.rows.skipped))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        file = Path(resume_from_checkpoint) / WEIGHTS
        own: Any = self.model
        saved, parameters = load_file(file), dict(own.named_parameters())
        if set(saved) != set(self.trained):
            differ = sorted(set(saved) ^ set(self.trained))
            raise SpatialBoostError(
                f"{file.parent.name} was made while other parameters were trained (such as {differ[0]}): use the "
                "configuration of that training, or choose another folder"
            )
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(shards_like(parameters[name], value))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write the whole state of the optimiser, so that another number of processes can go on with it."""
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        if self.by_zero:  # in the processes' own files
            self.engine.save_checkpoint(output_dir, tag=ZERO, save_latest=False, exclude_frozen_parameters=True)
        state = full_state(optimizer.state_dict(), keep=is_main())
        if is_main():
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer: Any = self.optimizer
        scheduler: Any = self.lr_scheduler
        folder = Path(checkpoint)
        if self.by_zero != (folder / ZERO).exists():
            raise everywhere(
                SpatialBoostError(
                    f"{folder} was {'not ' if self.by_zero else ''}made by deepspeed, whose checkpoints only it can "
                    "use: choose the strategy of that time"
                )
            )
        if self.by_zero:
            load_zero(self.engine, folder, ZERO)
        saved = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", mmap=self.sharded, weights_only=True)
        optimizer.load_state_dict(saved)
        for parameter, state in optimizer_state(optimizer):
            for key, value in state.items():
                if key != "step" and isinstance(value, Tensor):
                    state[key] = shards_like(parameter, value)
        scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, map_location="cpu", weights_only=True))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        wait()  # the main process now writes the file that makes the checkpoint complete

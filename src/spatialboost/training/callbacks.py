"""What happens around the steps of a training: checks, the progress bar, and the end when it is asked for."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback

from spatialboost.errors import SpatialBoostError, everywhere
from spatialboost.training.config import StageConfig
from spatialboost.training.movement import MovementCheck, local_part
from spatialboost.training.pace import device_use, progress_words
from spatialboost.training.parts import moved_line, part_names
from spatialboost.training.processes import anywhere

logger = logging.getLogger(__name__)


class Movement(TrainerCallback):
    """Runs the movement check around the first optimiser steps, and says what has moved.

    Attributes:
        told: What has moved and what has not, in one line; empty before the check is complete.
    """

    def __init__(self, objective: nn.Module, *, gradients: bool = True) -> None:
        self.objective, self.gradients = objective, gradients
        self.check: MovementCheck | None = None
        self.told = ""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.check = MovementCheck(self.objective, gradients=self.gradients)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        if self.check is not None:
            self.check.before_step()

    def on_optimizer_step(self, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        if self.check is not None:
            self.check.after_step()
            if self.check.done:
                self.told = moved_line(part_names(self.objective), self.check.moved, self.check.steps)
                used = device_use(args.device).get("memory_gb")
                memory = "" if used is None else f"; memory used so far: {used:.1f} GB"
                if state.is_world_process_zero:
                    logger.info("%s%s", self.told, memory)
                self.check = None


class Finite(TrainerCallback):
    """Stops the training at the first gradient or weight that is not finite. The loss is checked by `_Engine`."""

    def __init__(self, name: str, groups: Sequence[dict[str, Any]], stage: StageConfig, finite: Tensor) -> None:
        self.name, self.stage, self.finite = name, stage, finite
        self.parameters = [p for group in groups for p in group["params"]]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = _are_finite([p.grad for p in self.parameters if p.grad is not None])
        loss_is_bad, gradient_is_bad = anywhere(~self.finite, ~gradients)
        if loss_is_bad or gradient_is_bad:
            what = "the loss" if loss_is_bad else "a gradient"
            raise not_finite(what, self.name, state.global_step + 1, self.stage)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if anywhere(~_are_finite(self.parameters))[0]:
            raise not_finite("a weight", self.name, state.global_step + 1, self.stage)


@torch.no_grad()
def _are_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether this process's parts of tensors are finite."""
    local = [local_part(each) for each in tensors]
    parts = [each for each in local if each.numel()]
    if not parts:
        return torch.tensor(True)
    norms = torch._foreach_norm(parts)  # on a CPU 15 times faster than the largest value
    return torch.stack([each.float() for each in norms]).isfinite().all()


def not_finite(what: str, name: str, step: int, stage: StageConfig) -> SpatialBoostError:
    """The error for a training that has diverged."""
    clip = "set `clip: 1.0`" if not stage.clip else "choose a smaller `clip`"
    return everywhere(
        SpatialBoostError(
            f"{name}: {what} is not finite in step {step}; training is stopped, and nothing of this step is saved. "
            f"Choose a smaller `lr` (it is {stage.lr:g}), {clip}, or a longer `warmup`"
        )
    )


class _Stop(TrainerCallback):
    """Saves a checkpoint and ends the training after the step in which the process was asked to end."""

    asked = stopping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (self.stopping,) = anywhere(self.asked)  # one process may have been asked, and all have to stop
        if self.stopping:
            control.should_save = control.should_training_stop = True


@contextmanager
def stopped_by_signal(trainer: Trainer, name: str) -> Iterator[None]:
    """Let SIGTERM, with which clusters announce that they end a process, end the training with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():  # only there a process can handle signals
        yield
        return
    stop = _Stop()
    trainer.add_callback(stop)

    def ask(*_: Any) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if stop.stopping:
        raise everywhere(
            SpatialBoostError(
                f"{name} was asked to end (SIGTERM) and has saved a checkpoint after step {trainer.state.global_step}: "
                "give the same command again to go on"
            )
        )


@contextmanager
def memory_explained(name: str, stage: StageConfig) -> Iterator[None]:
    """Say which settings need less memory when there is too little."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        accumulate = f"batch_size: {max(1, stage.batch_size // 2)} with accumulate: {2 * stage.accumulate}"
        more = "" if stage.checkpointing else ", checkpointing: true"
        more += "" if stage.bf16 else ", bf16: true"
        raise SpatialBoostError(
            f"{name} ran out of memory. Set {accumulate} in {name}{more}, a smaller data.image_size, or shorter "
            f"examples; the same command then goes on ({' '.join(str(error).split())[:160]})"
        ) from error


class Progress(TrainerCallback):
    """A progress bar of the main process with what the log tells; lines of text where no terminal shows a bar."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        hidden = None if state.is_world_process_zero else True  # None: hidden where there is no terminal
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, unit="step", disable=hidden)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        words = progress_words(logs)
        if not self.bar.disable:
            self.bar.set_postfix(words, refresh=False)
        elif state.is_world_process_zero:
            end = datetime.now() + timedelta(seconds=logs.get("seconds_left", 0))
            told = ", ".join(f"{name} {value}" for name, value in words.items())
            logger.info(
                "%s step %d of %d: %s, ends %s", self.name, state.global_step, state.max_steps, told, _clock(end)
            )

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.bar.close()


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M}" if moment.date() == datetime.now().date() else f"{moment:%Y-%m-%d %H:%M}"

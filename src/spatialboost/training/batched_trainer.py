"""A Trainer whose steps have exactly the rows of `GlobalBatches`, each with its share of the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer

from spatialboost.training.batches import GlobalBatches
from spatialboost.training.claim import write_json
from spatialboost.training.config import StageConfig
from spatialboost.training.processes import total

BATCHES = "batches.json"  # in a checkpoint: `GlobalBatches.facts`


class BatchedTrainer(Trainer):
    """A Trainer that reads each row of an epoch once, in any number of processes.

    accelerate's division of batches among processes is not used: at the end of an epoch it reads rows twice, to fill
    the last batches.

    Args:
        stage: Gives the size of the batches.
        **kwargs: Arguments of the Trainer.
    """

    def __init__(self, stage: StageConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batches = GlobalBatches(
            len(kwargs["train_dataset"]),
            stage.batch_size,
            stage.accumulate,
            seed=self.args.seed,
            rank=self.args.process_index,
            processes=self.args.world_size,
            step=lambda: self.state.global_step,
        )
        self._shares: list[float] = []  # of the forward passes of this step that are still to come

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of this process."""
        own: Any = self.train_dataset
        return DataLoader(
            own,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Begin a step: the shares of its batches, and the items of those batches that count."""
        self._shares = self.batches.shares(self.state.global_step)
        count = getattr(self.model, "num_items", None)
        if count is None:
            names = ("labels", "shift_labels")
            counted = [
                batch if share else {key: torch.full_like(batch[key], -100) for key in names if key in batch}
                for batch, share in zip(batch_samples, self._shares, strict=True)
            ]
            return super()._get_num_items_in_batch(counted, device)
        counts = [count(batch) for batch in batch_samples]
        if any(each is None for each in counts):
            return None
        return total(sum(each.to(device) * (share > 0) for each, share in zip(counts, self._shares, strict=True)))

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss, weighted so that the gradient does not depend on how the global batch is cut."""
        loss: Any = super().compute_loss(model, inputs, *args, **kwargs)
        share = self._shares.pop(0)
        if kwargs.get("num_items_in_batch") is not None and self.model_accepts_loss_kwargs:
            return loss if share else loss * 0  # the sum of all rows, divided by the labels of the global batch
        return loss * share * self.current_gradient_accumulation_steps  # which the Trainer divides by

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.should_save:
            checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            checkpoint.mkdir(parents=True, exist_ok=True)
            write_json(checkpoint / BATCHES, self.batches.facts(self.state.global_step))
        super()._save_checkpoint(model, trial)

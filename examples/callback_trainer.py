"""A spatial channel in transformers' Trainer: a callback saves the delta with every checkpoint, and at the end.

python examples/callback_trainer.py         # ViT-S with random images; replace `Task` by your own task
python examples/callback_trainer.py --tiny  # a tiny model; takes seconds on a CPU
"""

import sys
from pathlib import Path

import timm
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import spatialboost as sb

tiny = "--tiny" in sys.argv
size = 32 if tiny else 224


def make_encoder() -> nn.Module:
    torch.manual_seed(0)
    smaller = {"depth": 2, "embed_dim": 32, "num_heads": 2} if tiny else {}
    return timm.create_model("vit_small_patch16_224", img_size=size, num_classes=0, pretrained=not tiny, **smaller)


class Task(nn.Module):
    """The encoder and a training task; here, a linear layer on its features that predicts a number."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, 1)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.head(self.encoder(pixel_values)) - labels).square().mean()}


class SaveDelta(TrainerCallback):
    """Every process calls `save_pretrained`: shards are gathered, and the first process writes."""

    def on_save(self, args, state, control, model, **others):
        sb.save_pretrained(model, Path(args.output_dir) / f"checkpoint-{state.global_step}" / "delta",
                           training={"global_step": state.global_step})  # fmt: skip

    def on_train_end(self, args, state, control, model, **others):
        sb.save_pretrained(model, Path(args.output_dir) / "delta", training={"global_step": state.global_step})


generator = torch.Generator().manual_seed(0)
data = [{"pixel_values": torch.rand(3, size, size, generator=generator), "labels": torch.ones(1)} for _ in range(8)]
encoder = sb.boost(make_encoder())
arguments = TrainingArguments(
    "trained", max_steps=4, save_steps=2, per_device_train_batch_size=2, learning_rate=1e-3, use_cpu=tiny,
    report_to="none", disable_tqdm=True,
)  # fmt: skip
Trainer(Task(encoder), arguments, train_dataset=data, callbacks=[SaveDelta()]).train()
print(sb.status(encoder))

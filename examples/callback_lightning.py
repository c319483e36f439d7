"""A spatial channel in Lightning (`pip install lightning`): a callback saves the delta after every epoch.

python examples/callback_lightning.py         # ViT-S with random images; replace `Task` by your own task
python examples/callback_lightning.py --tiny  # a tiny model; takes seconds on a CPU
"""

import sys
from pathlib import Path

import lightning
import timm
import torch
from torch import nn

import spatialboost as sb

tiny = "--tiny" in sys.argv
size = 32 if tiny else 224


def make_encoder() -> nn.Module:
    torch.manual_seed(0)
    smaller = {"depth": 2, "embed_dim": 32, "num_heads": 2} if tiny else {}
    return timm.create_model("vit_small_patch16_224", img_size=size, num_classes=0, pretrained=not tiny, **smaller)


class Task(lightning.LightningModule):
    """The encoder and a training task; here, a linear layer on its features that predicts a number."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, 1)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (self.head(self.encoder(batch[0])) - batch[1]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([*sb.param_groups(self.encoder, lr=1e-3), {"params": self.head.parameters()}], lr=1e-3)


class SaveDelta(lightning.Callback):
    """Every process calls `save_pretrained`: shards are gathered, and the first process writes."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, task: lightning.LightningModule) -> None:
        facts = {"epoch": trainer.current_epoch, "global_step": trainer.global_step}
        sb.save_pretrained(task.encoder, Path("lightning") / "delta", training=facts)


generator = torch.Generator().manual_seed(0)
data = [(torch.rand(3, size, size, generator=generator), torch.ones(1)) for _ in range(4)]
task = Task(sb.boost(make_encoder()))
trainer = lightning.Trainer(
    max_epochs=2, accelerator="cpu" if tiny else "auto", callbacks=[SaveDelta()], logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(task, torch.utils.data.DataLoader(data, batch_size=2))
print(sb.status(task.encoder))

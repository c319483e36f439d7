"""The paper's loss: predict the answers in a conversation about the image."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from spatialboost.teachers.protocol import Objective
from spatialboost.vlm.model import SpatialVLM


class LanguageObjective(Objective):
    """Next-token loss on the answers; questions have no loss.

    Example:
        >>> import torch
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> llm = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64,
        ...                                    num_hidden_layers=1, num_attention_heads=2))
        >>> ids = torch.tensor([[0, 0, 0, 0, 7, 8]])
        >>> batch = {"input_ids": ids, "labels": torch.where(ids == 8, ids, -100), "visual_mask": ids == 0}
        >>> loss = LanguageObjective(SpatialVLM(encoder, llm))(**batch, pixel_values=torch.zeros(1, 3, 32, 32))["loss"]
        >>> loss.shape
        torch.Size([])

    Source: the paper's section 3.1 (autoregressive loss in all three stages); questions are masked as in LLaVA-1.5.
    """

    accepts_loss_kwargs = True  # transformers.Trainer then passes `num_items_in_batch` to forward

    def __init__(self, vlm: SpatialVLM) -> None:
        super().__init__()
        self.vlm = vlm

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The encoder that is trained."""
        return self.vlm.encoder

    @property
    def layer(self) -> int:  # type: ignore[override]
        """Block of the encoder whose output is read."""
        return self.vlm.layer

    def forward(self, num_items_in_batch: Tensor | int | None = None, **batch: Any) -> dict[str, Tensor]:
        """Mean loss over the answer tokens of a `Collator` batch.

        With `num_items_in_batch`, the sum of the losses is divided by this number of answer tokens instead. So the
        gradients accumulated over several batches equal those of one large batch.
        """
        out = self.vlm(**batch)
        if num_items_in_batch is None:
            return {"loss": out.loss}
        return {"loss": out.loss * len(out.targets) / num_items_in_batch}

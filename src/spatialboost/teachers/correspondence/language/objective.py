"""The loss of a language model on conversations, and those of heads in its layers on sequences of views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spatialboost.teachers.correspondence.heads import build_heads
from spatialboost.teachers.correspondence.language.config import LanguageCorrespondenceOptions
from spatialboost.teachers.correspondence.language.examples import answered
from spatialboost.teachers.correspondence.losses import matches
from spatialboost.teachers.correspondence.objective import sequence_losses
from spatialboost.teachers.language.objective import LanguageObjective
from spatialboost.vlm.blocks import block_numbers, kept_outputs, query_projection
from spatialboost.vlm.model import SpatialVLM

# Shape legend: B sequences, C conversations with sequences, L tokens, I views of all sequences, N visual tokens of a
# view, E width of an embedding, K layers with a head.

TOKENS = ("input_ids", "visual_mask", "attention_mask", "labels", "pixel_values", "patch_features", "turns")


class LanguageCorrespondenceObjective(LanguageObjective):
    """Teach the visual tokens of a language model to find the same point again, and keep its language.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> llm, _ = build_small_llm([], kind="llama", width=32, layers=3, heads=2)
        >>> options = LanguageCorrespondenceOptions(width=16)
        >>> objective = LanguageCorrespondenceObjective(SpatialVLM(encoder, llm), options, grid=(2, 2))
        >>> sorted(objective.heads)
        ['0', '1', '2']

    The loss is ``L_LM + contrast_weight * L_corr + depth_weight * L_depth``. A batch without sequences, as of the stage
    that trains the projector, has the first part only. The heads are not part of `vlm`, which computes the same with
    and without them.

    Args:
        vlm: The model.
        options: The options of the teacher.
        grid: Rows and columns of visual tokens of an image.

    Raises:
        SpatialBoostError: A layer does not exist, or has no known query projection.

    Source: GASP (arXiv 2605.30231).
    """

    def __init__(self, vlm: SpatialVLM, options: LanguageCorrespondenceOptions, *, grid: tuple[int, int]) -> None:
        super().__init__(vlm)
        self.options, self.grid = options, grid
        self.layers = block_numbers(vlm.llm, options.layers)
        queries = {each: query_projection(vlm.llm, each) for each in self.layers}
        with queries[self.layers[0]].device:
            self.heads = build_heads(queries, options.width, norm=options.head_norm, start=options.head_start)

    def num_items(self, batch: Mapping[str, Any]) -> Tensor:
        """The number of labelled tokens, and that of matches ``(2,)``."""
        visible = batch.get("visible")
        found = 0 if visible is None else sum(int(matches(visible_FT).sum()) for visible_FT in visible)
        return torch.tensor([answered(batch["labels"]), found])

    def forward(  # type: ignore[override]  # two numbers: of tokens, and of matches
        self, num_items_in_batch: Tensor | None = None, **batch: Any
    ) -> dict[str, Tensor]:
        """Loss of a batch, which `SequenceCollator` makes, or `spatialboost.vlm.Collator` without sequences.

        Args:
            num_items_in_batch: The numbers that the sums of the losses are divided by, as `num_items` counts them over
                a whole step; None takes those of this batch.
            **batch: Tokens and images; ``sequence_rows`` and what `sequence_losses` takes.
        """
        items = self.num_items(batch) if num_items_in_batch is None else num_items_in_batch
        tokens = {name: batch[name] for name in TOKENS if name in batch}
        if "sequence_rows" not in batch:
            return {"loss": self._language(tokens, items)["language"]}
        with kept_outputs(self.vlm.llm, self.layers) as kept:
            found = self._language(tokens, items)
        rows = batch["sequence_rows"]
        places = batch["visual_mask"][rows]
        heads: Any = self.heads
        maps_KINE = torch.stack(
            [
                heads[str(layer)](kept[layer][rows][places].to(heads[str(layer)].first.weight.dtype)).float()
                for layer in self.layers
            ]
        ).unflatten(1, (-1, self.grid[0] * self.grid[1]))
        names = ("frames", "points", "visible", "depths", "patch_depths", "far", "far_valid")
        own = {name: batch[name] for name in names if name in batch}
        contrast_loss, depth_loss = sequence_losses(maps_KINE, self.grid, self.options, **own) / items[1].clamp(min=1)
        weights = self.options.contrast_weight, self.options.depth_weight
        loss = found["language"] + weights[0] * contrast_loss + weights[1] * depth_loss
        found |= {"contrast": contrast_loss, "depth": depth_loss}
        return {"loss": loss, **{name: value.detach() for name, value in found.items()}}

    def _language(self, tokens: dict[str, Any], items: Tensor) -> dict[str, Tensor]:
        """Run the language model: its loss, and the share of the labelled tokens that it finds most probable."""
        if not answered(tokens["labels"]):
            embeds = self.vlm.embed(
                **{k: v for k, v in tokens.items() if k not in ("labels", "attention_mask", "turns")}
            )
            last = self.vlm.llm.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
            return {"language": 0 * last.sum()}  # so that blocks above the last head have a gradient, which is zero
        out = self.vlm(**tokens)
        found = {"language": out.loss * len(out.targets) / items[0]}
        if out.logits is not None and not torch.is_grad_enabled():
            found["right"] = (out.logits.argmax(-1) == out.targets).float().mean()
        return found

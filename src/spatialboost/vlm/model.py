"""The multimodal model: patch tokens of an encoder, through a projector, into a causal language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from spatialboost.encoders import feature_layer, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.chat import IGNORE
from spatialboost.vlm.image_prompt import ImagePrompt
from spatialboost.vlm.llm_checks import num_positions, word_scale
from spatialboost.vlm.packing import Way, pack, start_packing, stop_packing
from spatialboost.vlm.places import grid_code
from spatialboost.vlm.pooling import PatchPool
from spatialboost.vlm.projector import build_projector

# Shape legend: B conversations, L tokens, I images of all conversations, N patches, D encoder width, E language model
# width, V size of the vocabulary, A labelled tokens of the whole batch.

MOST_LOGITS = 2**25  # that a training step holds at a time: 128 MB in float32, and as much for their gradient ...
MOST_PARTS = 32  # ... but a step with very many answers is not divided further than this


@dataclass
class VLMOutput(ModelOutput):
    """The output of the model.

    Attributes:
        loss: Mean cross entropy over the labelled tokens; None without labels.
        logits: With labels ``(A, V)``, one row for each labelled token in order; without ``(B, L, V)``. None where the
            loss was computed in parts, see `SpatialVLM.forward`.
        targets: The labelled tokens ``(A,)`` in the same order; None without labels.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    targets: Tensor | None = None


class SpatialVLM(nn.Module):
    """An encoder, a 2-layer GELU projector and a causal language model, trained by next-token prediction.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> llm = LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64,
        ...                                    num_hidden_layers=1, num_attention_heads=2))
        >>> ids = torch.tensor([[0, 0, 0, 0, 7, 8]])
        >>> vlm = SpatialVLM(encoder, llm)
        >>> vlm(input_ids=ids, visual_mask=ids == 0, pixel_values=torch.zeros(1, 3, 32, 32)).logits.shape
        torch.Size([1, 6, 50])

    Each image of a conversation passes separately through the encoder and the projector. The tokens of all images enter
    the language model at the positions in ``visual_mask``. The vocabulary is not changed.

    Args:
        encoder: Any encoder that `spatialboost.encoders.tokens.read_tokens` can read; boosted or not.
        llm: Any ``AutoModelForCausalLM``.
        layer: Block of the encoder whose output is read.
        projector: Maps ``(I, N, D)`` to ``(I, N, E)``, or to a multiple of E if the prompt has several tokens per cell;
            None makes the two-layer projector of LLaVA-1.5.
        pool: Replaces squares of neighbouring patches by their mean, before the projector; None keeps all patches.
        grid: Rows and columns of visual tokens. If given, a fixed code of its position is added to each of them. The
            tokens for points of `spatialboost.vlm.llms.build_small_llm` have the same codes. This helps a small new
            language model, which else has to learn two-dimensional positions from the token order. Not in the paper.

    Source: the paper's section 3.1; LLaVA-1.5 (arXiv 2310.03744) for the projector.
    """

    def __init__(
        self,
        encoder: nn.Module,
        llm: nn.Module,
        *,
        layer: int = -1,
        projector: nn.Module | None = None,
        pool: PatchPool | None = None,
        grid: tuple[int, int] | None = None,
        prompt: ImagePrompt | None = None,
    ):
        super().__init__()
        self.layer, self.pool, self.prompt = layer, pool, prompt
        self.tokens_per_cell = 1 if prompt is None else prompt.tokens_per_cell
        self.feature_layer = feature_layer(encoder, layer)
        self.encoder = encoder
        self.llm: Any = llm
        self.projector = (
            build_projector(encoder, llm, tokens_per_cell=self.tokens_per_cell) if projector is None else projector
        )
        drawn = self.projector.named_parameters() if projector is None else ()
        self._drawn = {name: _sample(p) for name, p in drawn if p.ndim > 1 and not p.is_meta}  # biases start at zero
        self.places_NE: Tensor | None
        width = llm.get_input_embeddings().weight.shape[1]  # type: ignore[operator, union-attr]
        places_NE = None if grid is None else grid_code(grid, width)
        self.register_buffer("places_NE", places_NE, persistent=False)
        self._word_scale = word_scale(llm)
        self._fast_head: bool | None = None
        self._packing: Way | None = None

    def set_packing(self, packed: bool) -> None:
        """Compute the loss on packed rows: several conversations of a batch in one row, without attention between them.

        Logits and loss are the same as without. Generation is not changed.

        Raises:
            SpatialBoostError: The language model cannot keep conversations in one row apart.
        """
        self._packing = None
        if packed:
            self._packing = start_packing(self.llm)
        else:
            stop_packing(self.llm)

    def new_weights(self) -> dict[str, nn.Parameter]:
        """The weights of the projector that still have the random values that they were made with, by name."""
        weights = {name: (p, self._drawn.get(name)) for name, p in self.projector.named_parameters()}
        return {
            f"projector.{name}": p
            for name, (p, first) in weights.items()
            if first is not None and torch.equal(_sample(p), first.to(p.dtype))
        }

    def train(self, mode: bool = True) -> SpatialVLM:
        """Set training mode, but keep a part in evaluation mode if all its parameters are frozen.

        A frozen part that recomputes activations is in training mode too, as it recomputes only then.
        """
        super().train(mode)
        for part in (self.encoder, self.llm, self.projector):
            if not any(p.requires_grad for p in part.parameters()) and not _checkpoints(part):
                part.eval()
        return self

    def embed(
        self,
        input_ids: Tensor,
        visual_mask: Tensor,
        *,
        pixel_values: Tensor | None = None,
        patch_features: Tensor | None = None,
    ) -> Tensor:
        """Input embeddings ``(B, L, E)`` of the language model, with the visual tokens at their positions."""
        most = num_positions(self.llm)
        if most is not None and input_ids.shape[1] > most:
            raise SpatialBoostError(
                f"a conversation has {input_ids.shape[1]} tokens, and the language model was made for at most {most}: "
                "give `max_length`, or use fewer or smaller images"
            )
        embeds_BLE = self.llm.get_input_embeddings()(input_ids)
        if self._word_scale != 1:
            embeds_BLE = embeds_BLE * self._word_scale
        if patch_features is None and pixel_values is not None and len(pixel_values):
            patch_features = read_tokens(self.encoder, pixel_values, layer=self.layer).patches
        if patch_features is not None and self.pool is not None:
            patch_features = self.pool(patch_features)
        num_places = int(visual_mask.sum())
        per_image = 0 if patch_features is None else patch_features.shape[1] * self.tokens_per_cell
        num_tokens = 0 if patch_features is None else patch_features.shape[0] * per_image
        if num_places != num_tokens:
            raise SpatialBoostError(
                f"visual_mask has {num_places} positions, but the images give {num_tokens} tokens: encode the chat "
                "with num_visual_tokens equal to the number of visual tokens of one image, or with the same prompt"
            )
        if patch_features is None or not num_tokens:
            return embeds_BLE
        weight = next(self.projector.parameters(), embeds_BLE)
        visual_INE = self.projector(patch_features.to(weight.dtype))
        if self.tokens_per_cell > 1:
            visual_INE = visual_INE.unflatten(-1, (self.tokens_per_cell, -1)).flatten(1, 2)
        if self.places_NE is not None:
            visual_INE = visual_INE + self.places_NE.repeat_interleave(self.tokens_per_cell, 0)
        return embeds_BLE.masked_scatter(visual_mask[..., None], visual_INE.to(embeds_BLE.dtype))

    def forward(
        self,
        input_ids: Tensor,
        visual_mask: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        patch_features: Tensor | None = None,
        labels: Tensor | None = None,
        turns: Tensor | None = None,
    ) -> VLMOutput:
        """Predict the next tokens; with labels, only the labelled tokens.

        While gradients are computed, the loss of many labelled tokens is computed in parts of `MOST_LOGITS` logits,
        and each part's logits once more in the backward pass. Otherwise the logits of a large vocabulary would need
        more memory than all the rest of a step.

        Args:
            input_ids: ``(B, L)``; the ids at visual tokens do not matter.
            visual_mask: ``(B, L)``, True where a visual token goes.
            attention_mask: ``(B, L)``, 0 on padding; None means no padding.
            pixel_values: All images of the batch in order ``(I, 3, H, W)``.
            patch_features: Patch tokens of the images ``(I, N, D)``, instead of `pixel_values`.
            labels: ``(B, L)``, -100 at tokens without loss.
            turns: Not used; accepted because a batch of `Collator` contains it.
        """
        embeds_BLE = self.embed(input_ids, visual_mask, pixel_values=pixel_values, patch_features=patch_features)
        packing = None
        if self._packing is not None and labels is not None and attention_mask is not None:
            packing = pack(attention_mask, self._packing)
        if attention_mask is not None and bool((attention_mask[:, :-1] >= attention_mask[:, 1:]).all()):
            # Padding on the right needs no mask, as attention is causal. Without a mask, fast kernels are used.
            attention_mask = None
        if labels is None:
            return VLMOutput(
                logits=self.llm(inputs_embeds=embeds_BLE, attention_mask=attention_mask, use_cache=False).logits
            )
        learnt_BL = labels[:, 1:] != IGNORE
        targets_A = labels[:, 1:][learnt_BL]
        if not len(targets_A):
            raise SpatialBoostError(
                "no token of the batch is labelled: check that max_length is long enough for the first answer"
            )
        rows_A, columns_A = learnt_BL.nonzero(as_tuple=True)
        inputs: dict[str, Any] = {"inputs_embeds": embeds_BLE, "attention_mask": attention_mask}
        if packing is not None:
            rows_A, columns_A = packing.find(rows_A, columns_A)
            inputs = {"inputs_embeds": packing.gather(embeds_BLE), **packing.options(self.llm)}
        if self._fast_head is None:
            self._fast_head = _head_is_linear(self.llm)
        if not self._fast_head:
            logits_AV = self.llm(**inputs, use_cache=False).logits[rows_A, columns_A]
            return VLMOutput(loss=_cross_entropy(logits_AV, targets_A), logits=logits_AV, targets=targets_A)
        hidden_AE = self.llm.base_model(**inputs, use_cache=False).last_hidden_state[rows_A, columns_A]
        head = self.llm.get_output_embeddings()
        most = max(1, MOST_LOGITS // self.llm.config.get_text_config().vocab_size, len(targets_A) // MOST_PARTS)
        if torch.is_grad_enabled() and len(targets_A) > most:
            loss = _loss_in_parts(head, hidden_AE, targets_A, most)
            return VLMOutput(loss=loss, targets=targets_A)
        logits_AV = head(hidden_AE)
        return VLMOutput(loss=_cross_entropy(logits_AV, targets_A), logits=logits_AV, targets=targets_A)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        visual_mask: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        patch_features: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate answers, by default with greedy decoding. Returns the new ids ``(B, new)`` without the prompt.

        Args:
            input_ids: Prompts ``(B, L)``, padded on the left.
            visual_mask: ``(B, L)``, True where a visual token goes.
            attention_mask: ``(B, L)``, 0 on padding.
            pixel_values: All images of the batch in order ``(I, 3, H, W)``.
            patch_features: Patch tokens of the images ``(I, N, D)``, instead of `pixel_values`.
            **options: Arguments for the language model's ``generate``, such as ``max_new_tokens`` and ``eos_token_id``.
        """
        if attention_mask is not None and not bool(attention_mask[:, -1].all()):
            raise SpatialBoostError('prompts must be padded on the left: use Collator(..., padding_side="left")')
        embeds_BLE = self.embed(input_ids, visual_mask, pixel_values=pixel_values, patch_features=patch_features)
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        # Settings of the model's own generation config that would change the most probable tokens are set back
        plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
        options = {**plain, "max_new_tokens": 64} | options
        if (most := num_positions(self.llm)) is not None and options["max_new_tokens"] is not None:
            options["max_new_tokens"] = min(options["max_new_tokens"], max(1, most - input_ids.shape[1]))
        return self.llm.generate(inputs_embeds=embeds_BLE, attention_mask=attention_mask, **options)


def _cross_entropy(logits_AV: Tensor, targets_A: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_AV.float(), targets_A)


def _loss_in_parts(head: nn.Module, hidden_AE: Tensor, targets_A: Tensor, most: int) -> Tensor:
    """Mean cross entropy of which only `most` rows of logits exist at a time, in the forward and the backward pass."""

    def summed(hidden: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")

    parts = zip(hidden_AE.split(most), targets_A.split(most), strict=True)
    sums = [checkpoint(summed, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(sums).sum() / len(targets_A)


def _sample(weight: Tensor) -> Tensor:
    """A few values of a weight, by which its first values are known again on another device and in another dtype."""
    return weight.detach().flatten()[:64].cpu().clone()


def _checkpoints(part: Any) -> bool:
    """Whether a transformers model recomputes activations, which it does only in training mode."""
    if hasattr(type(part), "is_activation_checkpointing"):  # the attribute's name since transformers 5.2x
        return part.is_activation_checkpointing
    return getattr(part, "is_gradient_checkpointing", False)


@torch.no_grad()
def _head_is_linear(llm: Any) -> bool:
    """Whether the logits are just the output head of the last hidden state; some models also cap or scale them."""
    head, body = llm.get_output_embeddings(), llm.base_model
    if head is None or body is llm:
        return False
    was_training = llm.training
    llm.eval()
    embeddings = llm.get_input_embeddings().weight
    probe = embeddings[:2][None]
    # no autocast: its cache would keep weights that were cast without a graph (torch 2.10)
    with torch.autocast(embeddings.device.type, enabled=False):
        whole = llm(inputs_embeds=probe, use_cache=False).logits
        parts = head(body(inputs_embeds=probe, use_cache=False).last_hidden_state)
    llm.train(was_training)
    return whole.shape == parts.shape and torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3)

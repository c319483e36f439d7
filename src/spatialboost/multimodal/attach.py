"""Put the scene adapter into a vision-language model, take it out again, and give it the latents of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal.adapter import SceneAdapter
from spatialboost.multimodal.seam import Seam, find_seam, inner_model

# Shape legend: S scenes, B rows, L tokens of a row, K latents of a scene, H width of the language model, D of a latent.

ADAPTER = "scene_adapter"  # name of the child of the seam's core
PRECOMPUTED = ("mm_encoder_outputs", "image_hidden_states")  # image features that `generate` computed before

Model = TypeVar("Model", bound=nn.Module)


class AttachedAdapter(SceneAdapter):
    """A `SceneAdapter` with the two hooks through which a vision-language model runs it.

    The hooks are its own methods, so that a copy of the model runs the copy of the adapter.

    Args:
        seam: Where it is put.
        latent_width: Width of the latents.
        **options: See `SceneAdapter`.
    """

    def __init__(self, seam: Seam, latent_width: int, **options: Any) -> None:
        super().__init__(seam.width, latent_width, seam.heads, **options)
        self.token_ids = seam.token_ids
        self.frozen: tuple[str, ...] = ()  # parameters of the model that `attach_adapter` froze
        self.latents_SKD: Tensor | None = None
        self.given = False  # whether `scenes` is open
        self._visual_BL: Tensor | None = None

    def before_core(self, core: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note which tokens are visual, if this call brings images."""
        call: Mapping[str, Any] = kwargs
        if args:
            call = {**inspect.signature(core.forward).bind_partial(*args, **kwargs).arguments, **kwargs}
        self._visual_BL = None
        if not self.given or not _brings_images(call):
            if _brings_images(call):
                raise SpatialBoostError(
                    "images enter a model with a scene adapter, and no scene latents were given: run it within "
                    "`with scenes(model, latents):`, or within `with scenes(model, None):` without the adapter"
                )
            return
        if self.latents_SKD is None:
            return
        ids_BL = call.get("input_ids")
        if ids_BL is None:
            raise SpatialBoostError(
                "the model was called with images and without `input_ids`, so that it is not known which tokens are "
                "visual: give `input_ids`"
            )
        visual_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
        for token in self.token_ids:
            visual_BL |= ids_BL == token
        self._visual_BL = visual_BL

    def before_text(
        self, text: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Change the visual tokens among the embeddings that the language model is about to get."""
        visual_BL, self._visual_BL = self._visual_BL, None
        if visual_BL is None:
            return None
        embeds_BLH, latents_SKD = kwargs.get("inputs_embeds"), self.latents_SKD
        if embeds_BLH is None or latents_SKD is None:
            raise SpatialBoostError(
                f"{type(text).__name__} was called without `inputs_embeds`, which the adapter needs"
            )
        rows, num_scenes = len(embeds_BLH), len(latents_SKD)
        if rows % num_scenes:
            raise SpatialBoostError(
                f"latents of {num_scenes} scenes were given for a batch of {rows} rows: give one scene for each row"
            )
        # `generate` repeats each row for its beams, one after the other
        latents_BKD = latents_SKD.to(embeds_BLH.device).repeat_interleave(rows // num_scenes, 0)
        changed_BLH = torch.where(visual_BL[..., None], self(embeds_BLH, latents_BKD), embeds_BLH)
        return args, {**kwargs, "inputs_embeds": changed_BLH}


def attach_adapter(
    model: Model,
    latent_width: int = 768,
    *,
    dtype: torch.dtype | None = None,
    freeze: bool = True,
    seed: int | None = 0,
) -> Model:
    """Put a new scene adapter into a vision-language model, in place. The model's weights must be loaded before.

    The output stays the same, bit for bit, until the adapter is trained.

    Example:
        >>> from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
        >>> sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
        >>> llava = LlavaForConditionalGeneration(LlavaConfig(
        ...     vision_config=CLIPVisionConfig(**sizes, image_size=28, patch_size=14), vision_feature_layer=-1,
        ...     text_config=LlamaConfig(**sizes, vocab_size=50), image_token_id=4)).eval()
        >>> inputs = {"input_ids": torch.tensor([[4, 4, 4, 4, 7]]), "pixel_values": torch.randn(1, 3, 28, 28)}
        >>> before = llava(**inputs).logits
        >>> llava = attach_adapter(llava, latent_width=48)
        >>> with scenes(llava, torch.randn(1, 256, 48)):
        ...     torch.equal(llava(**inputs).logits, before)
        True

    It stands behind the vision tower and its projector (of Qwen, the patch merger), where the visual tokens enter the
    language model; nothing inside of the language model changes. `from_pretrained` draws the weights of all modules
    that a checkpoint does not have, also of those that were set to zero. A zero in a constructor is lost in this way,
    so the adapter is put into the finished model, and whether it adds zero is checked.

    Args:
        model: A vision-language model of transformers.
        latent_width: Width of the scene latents.
        dtype: Dtype of the adapter's weights. None takes the model's, and float32 for a model in half precision.
        freeze: Leave only the adapter trainable.
        seed: Seed of the new weights.

    Raises:
        SpatialBoostError: There is no place for it in this model, or it has one already. The model is not changed.

    Source: Spa3R (arXiv 2602.21186), Spa3-VLM.
    """
    if find_adapter(model) is not None:
        raise SpatialBoostError(f"{type(model).__name__} has a scene adapter already: call detach_adapter(model) first")
    if latent_width < 1:
        raise SpatialBoostError(f"latent_width is {latent_width}; expected the width of the scene latents, such as 768")
    seam = find_seam(model)
    weight = seam.text.get_input_embeddings().weight  # type: ignore[operator]
    if weight.is_meta:
        raise SpatialBoostError(
            f"{type(model).__name__} has no weights yet (meta device): load them first, then attach the adapter"
        )
    if dtype is None:
        dtype = weight.dtype if weight.dtype.itemsize >= 4 else torch.float32
    adapter = AttachedAdapter(seam, latent_width, dtype=dtype, device=weight.device, seed=seed)
    check_adds_zero(adapter)
    adapter.train(model.training)
    whole = inner_model(model)
    if freeze:
        adapter.frozen = tuple(name for name, p in whole.named_parameters() if p.requires_grad)
        whole.requires_grad_(False)
    install(seam, adapter)
    return model


def install(seam: Seam, adapter: AttachedAdapter) -> None:
    """Make the adapter a child of the seam's core, and register its hooks."""
    seam.core.add_module(ADAPTER, adapter)
    seam.core.register_forward_pre_hook(adapter.before_core, with_kwargs=True)
    seam.text.register_forward_pre_hook(adapter.before_text, with_kwargs=True)


def detach_adapter(model: Model) -> Model:
    """Take the adapter out, in place: keys, hooks and `requires_grad` of the model are as before `attach_adapter`.

    Raises:
        SpatialBoostError: The model has no adapter.
    """
    adapter, seam = require_adapter(model), find_seam(model)
    for module in (seam.core, seam.text):
        for key in [
            key for key, hook in module._forward_pre_hooks.items() if getattr(hook, "__self__", None) is adapter
        ]:
            del module._forward_pre_hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
    del seam.core._modules[ADAPTER]
    parameters = dict(inner_model(model).named_parameters())
    for name in adapter.frozen:
        if name in parameters:
            parameters[name].requires_grad_(True)
    return model


def find_adapter(model: nn.Module) -> AttachedAdapter | None:
    """The adapter in a model; None if there is none."""
    return next((module for module in inner_model(model).modules() if isinstance(module, AttachedAdapter)), None)


def require_adapter(model: nn.Module) -> AttachedAdapter:
    """The adapter in a model.

    Raises:
        SpatialBoostError: There is none.
    """
    adapter = find_adapter(model)
    if adapter is None:
        raise SpatialBoostError(f"{type(model).__name__} has no scene adapter: call attach_adapter(model) first")
    return adapter


def check_adds_zero(adapter: SceneAdapter) -> None:
    """Raise unless the adapter leaves visual tokens as they are, bit for bit: tried on random ones.

    Raises:
        SpatialBoostError: It changes them.
    """
    generator = torch.Generator().manual_seed(0)
    weight = adapter.norm.weight
    tokens, latents = (torch.randn(1, 8, n, generator=generator) for n in (adapter.width, adapter.latent_width))
    with torch.no_grad():
        same = torch.equal(adapter(tokens.to(weight), latents.to(weight)), tokens.to(weight))
    if not same or not adapter.adds_zero():
        raise SpatialBoostError(
            "the scene adapter is not new: it changes the visual tokens, so training would not begin at the model's "
            "own answers. Call adapter.reset(), or continue a training by loading its adapter"
        )


@contextmanager
def scenes(model: nn.Module, latents: Tensor | None) -> Iterator[None]:
    """Within this context the visual tokens of each row read the latents of its scene, in `forward` and `generate`.

    Example::

        with scenes(model, encode_scene(views)):
            ids = model.generate(**inputs)

    Args:
        model: With an adapter.
        latents: One scene for each row of the batch ``(S, K, D)``. Rows that `generate` repeats (beams) share theirs.
            None runs the model without the adapter.

    Raises:
        SpatialBoostError: The model has no adapter, or the latents have another shape.
    """
    adapter = require_adapter(model)
    if latents is not None and (latents.ndim != 3 or latents.shape[2] != adapter.latent_width or not latents.numel()):
        raise SpatialBoostError(
            f"the scene latents are {tuple(latents.shape)}; this adapter expects (scenes, latents of a scene, "
            f"{adapter.latent_width}). Take the encoder that it was trained with"
        )
    before = adapter.given, adapter.latents_SKD
    adapter.given, adapter.latents_SKD = True, latents
    try:
        yield
    finally:
        adapter.given, adapter.latents_SKD = before
        adapter._visual_BL = None


def _brings_images(call: Mapping[str, Any]) -> bool:
    """Whether a call of the core brings pixels, or image features that were computed before."""
    pixels = any(value is not None for name, value in call.items() if name.startswith("pixel_values"))
    computed = [call[name] for name in PRECOMPUTED if call.get(name) is not None]
    return pixels or any(any(v is not None for v in c.values()) if isinstance(c, dict) else True for c in computed)

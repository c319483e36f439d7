"""Find where the visual tokens of a vision-language model enter its language model."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from spatialboost.boosting.find import uncompiled
from spatialboost.errors import SpatialBoostError

TOKEN_IDS = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")


@dataclass(frozen=True)
class Seam:
    """The two modules between which visual tokens enter, and what tells where they are.

    Attributes:
        core: Gets token ids and pixels, and puts the visual tokens at the places of their ids.
        text: Gets the embeddings of all tokens from it.
        token_ids: Ids whose places visual tokens take.
        width: Width of the language model.
        heads: Its attention heads.
    """

    core: nn.Module
    text: nn.Module
    token_ids: tuple[int, ...]
    width: int
    heads: int


def find_seam(model: nn.Module) -> Seam:
    """The place where visual tokens enter the language model.

    Example:
        >>> from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
        >>> sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
        >>> llava = LlavaForConditionalGeneration(LlavaConfig(
        ...     vision_config=CLIPVisionConfig(**sizes, image_size=28, patch_size=14),
        ...     text_config=LlamaConfig(**sizes, vocab_size=50), image_token_id=4))
        >>> seam = find_seam(llava)
        >>> type(seam.text).__name__, seam.width, seam.token_ids
        ('LlamaModel', 32, (4,))

    Most models of transformers have this seam: the vision tower and its projector (of Qwen, the patch merger) make one
    token for each placeholder id, these replace the embeddings of the placeholders, and the language model gets
    ``inputs_embeds``. Where this is not so, an adapter would not be run, or not where it should be:

    - visual tokens enter by cross-attention in each layer (Mllama, Idefics 1);
    - an encoder stands before the language model (Florence-2);
    - the model has a `generate` of its own, which calls the language model in another way (BLIP-2).

    Raises:
        SpatialBoostError: The model has no such seam.
    """
    whole: Any = inner_model(model)
    name = type(whole).__name__
    config: Any = getattr(whole, "config", None)
    text = whole.get_decoder() if hasattr(whole, "get_decoder") and hasattr(config, "get_text_config") else None
    core = next((each for each in whole.modules() if any(child is text for child in each.children())), None)
    if text is None or text is whole or core is None or not hasattr(core, "get_image_features"):
        raise _no_seam(name, "no part that gives image tokens to a language model was found in it")
    found = {value for key in TOKEN_IDS if isinstance(value := getattr(config, key, None), int)}
    if not found:
        raise _no_seam(name, "its config names no id whose places image tokens take (image_token_id)")
    if getattr(config, "is_encoder_decoder", False):
        raise _no_seam(name, "it has an encoder and a decoder")
    if "inputs_embeds" not in inspect.signature(text.forward).parameters:
        raise _no_seam(name, f"its language model {type(text).__name__} takes no `inputs_embeds`")
    if hasattr(whole, "generate") and not _generates_as_usual(type(whole)):
        raise _no_seam(name, "it has a `generate` of its own, which does not run the place where image tokens enter")
    sizes = config.get_text_config()
    return Seam(core, text, tuple(sorted(found)), sizes.hidden_size, sizes.num_attention_heads)


def inner_model(model: nn.Module) -> nn.Module:
    """The model of transformers inside torch.compile, DistributedDataParallel and peft."""
    model = uncompiled(model)
    if hasattr(model, "get_base_model"):  # peft
        return inner_model(model.get_base_model())  # type: ignore[operator]
    if isinstance(inside := getattr(model, "module", None), nn.Module):
        return inner_model(inside)
    return model


def _generates_as_usual(kind: type) -> bool:
    from transformers import GenerationMixin

    return getattr(kind, "generate", None) is GenerationMixin.generate


def _no_seam(name: str, why: str) -> SpatialBoostError:
    return SpatialBoostError(
        f"the adapter cannot be put into {name}: {why}. Expected a vision-language model of transformers whose image "
        "tokens take the places of placeholder ids, such as Qwen2.5-VL, Qwen3-VL, LLaVA, InternVL or SmolVLM"
    )

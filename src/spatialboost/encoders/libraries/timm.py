"""timm: every model with `forward_intermediates`, from plain vision transformers to hierarchical ones."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from spatialboost.boosting.find import tower
from spatialboost.encoders.foreign import load_timm
from spatialboost.encoders.foreign.checks import SOURCES, checked_options
from spatialboost.encoders.libraries.load_errors import explain_load_errors
from spatialboost.encoders.libraries.protocol import Tokens, pair, patch_grid, split_tokens, tokens_of_map
from spatialboost.encoders.preprocessing import IMAGENET, Preprocessing, from_config
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions


class Timm:
    """See `spatialboost.encoders.libraries.protocol.Library`."""

    def build(self, config: EncoderConfig, dtype: Any) -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        name, kwargs = config.name, dict(config.kwargs)
        with explain_load_errors(f"timm:{name}"):
            if name == "VisionTransformer":
                return VisionTransformer(**checked_options(kwargs))
            if name.count("/") == 1 and not name.startswith(SOURCES):  # `timm/vit_...`, a name of the Hub
                name = f"hf-hub:{name}"
            if not name.startswith(SOURCES):
                _check_name(name)
            options = HubOptions.taken_from(kwargs)
            model = load_timm(name, options, pretrained=self.loads_weights(config), kwargs={"num_classes": 0, **kwargs})
        if not any(re.search("Att|MSA|XCA", type(module).__name__) for module in model.modules()):
            raise SpatialBoostError(
                f"timm:{config.name} is a {type(model).__name__}, which has no attention layers to boost; expected a "
                "vision transformer, such as timm:vit_small_patch14_dinov2"
            )
        return model

    def loads_weights(self, config: EncoderConfig) -> bool:
        return bool(config.pretrained) and config.weights is None and config.name != "VisionTransformer"

    def reads(self, encoder: nn.Module) -> bool:
        return hasattr(encoder, "forward_intermediates") and bool(getattr(encoder, "feature_info", None))

    def feature_dim(self, encoder: nn.Module) -> int:
        return int(_feature_info(encoder)[-1]["num_chs"])

    def patch_size(self, encoder: nn.Module) -> int:
        return int(_feature_info(encoder)[-1]["reduction"])

    def num_layers(self, encoder: Any) -> int:
        if not self.hierarchical(encoder):
            return len(encoder.blocks)
        return max(tower(encoder), default=0) + 1

    def hierarchical(self, encoder: Any) -> bool:
        blocks, info = getattr(encoder, "blocks", None), _feature_info(encoder)  # each entry is a block or a stage
        return blocks is None or len(blocks) != len(info) or len({(i["num_chs"], i["reduction"]) for i in info}) > 1

    def native_size(self, encoder: Any) -> tuple[int, int]:
        embed = getattr(encoder, "patch_embed", None)
        if (tokens := getattr(encoder, "tokens_spatial_shape", None)) is not None:  # Hiera
            rows, columns = (int(n * s) for n, s in zip(tokens, embed.proj.stride, strict=True))  # type: ignore[union-attr]
            return rows, columns
        size = getattr(embed, "img_size", None)
        return pair(size or (getattr(encoder, "pretrained_cfg", None) or {}).get("input_size"))

    def read(self, encoder: Any, pixel_values: Tensor, layers: Sequence[int]) -> list[Tokens]:
        try:
            if self.hierarchical(encoder):
                last = len(_feature_info(encoder)) - 1
                return [tokens_of_map(_last_map(encoder, pixel_values, last))] * len(layers)
            grid = patch_grid(pixel_values, self.patch_size(encoder), self.native_size(encoder))
            return _read_plain(encoder, pixel_values, grid, layers)
        except AssertionError as error:  # timm accepts only the image size of its position embeddings
            raise SpatialBoostError(
                f"{error} Give images of that size, or build the encoder with `img_size=` or `dynamic_img_size=True`"
            ) from None

    def preprocessing(self, encoder: Any) -> Preprocessing | None:
        config = getattr(encoder, "pretrained_cfg", None) or {}
        return from_config(config if isinstance(config, dict) else vars(config))

    def usual_preprocessing(self, encoder: nn.Module) -> Preprocessing:
        return Preprocessing(*IMAGENET)


def _check_name(name: str) -> None:
    """Raise unless timm has a model of this name and weights of this tag."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(name):
        close = timm.list_models(f"*{architecture[:12]}*")[:4] if len(name) > 5 else []
        close = close or difflib.get_close_matches(name, timm.list_models(), n=4)
        hint = f"; close to it: {', '.join(close)}" if close else "; timm.list_models() lists them"
        raise SpatialBoostError(f"timm {timm.__version__} has no model {name!r}{hint}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = f"known are {', '.join(tags)}" if tags else "it has no pretrained weights"
        close = difflib.get_close_matches(tag, tags, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise SpatialBoostError(f"timm {timm.__version__} has no weights {tag!r} of {architecture}; {known}{hint}")


def _feature_info(encoder: Any) -> list[dict[str, Any]]:
    info = encoder.feature_info
    return info.info if hasattr(info, "info") else info


def _intermediates(encoder: Any, pixel_values: Tensor, indices: list[int], **options: Any) -> list[Any]:
    return encoder.forward_intermediates(
        pixel_values, indices=indices, stop_early=True, intermediates_only=True, **options
    )


def _last_map(encoder: Any, pixel_values: Tensor, stage: int) -> Tensor:
    try:
        return _intermediates(encoder, pixel_values, [stage], norm=True, output_fmt="NCHW")[0]
    except AssertionError as error:
        if "normalization" not in str(error):
            raise
        # Hiera has no norm over its tokens, only over the pooled ones
        return _intermediates(encoder, pixel_values, [stage], norm=False, output_fmt="NCHW")[0]


def _read_plain(encoder: Any, pixel_values: Tensor, grid: tuple[int, int], layers: Sequence[int]) -> list[Tokens]:
    last = len(encoder.blocks) - 1
    indices = sorted(set(layers))
    if "return_prefix_tokens" not in inspect.signature(encoder.forward_intermediates).parameters:
        found: dict[int, Tokens] = {}
        # only the last layer gets the final norm, but timm applies it to all layers of a call or to none
        for norm, part in ((False, [i for i in indices if i != last]), (True, [i for i in indices if i == last])):
            maps = _intermediates(encoder, pixel_values, part, norm=norm, output_fmt="NCHW") if part else []
            found |= dict(zip(part, map(tokens_of_map, maps), strict=True))
        return [found[layer] for layer in layers]
    alone = indices == [last]
    # not given if the encoder has no prefix tokens: some classes of timm would fail
    prefixed = {"return_prefix_tokens": True} if getattr(encoder, "num_prefix_tokens", 0) else {}
    read = _intermediates(encoder, pixel_values, indices, norm=alone, output_fmt="NLC", **prefixed)
    tokens = {}
    for index, each in zip(indices, read, strict=True):
        patches, prefix = each if isinstance(each, tuple) else (each, None)
        if index == last and not alone:
            patches, prefix = encoder.norm(patches), None if prefix is None else encoder.norm(prefix)
        patches = split_tokens(patches, grid, 0, 0, cls=False, name=type(encoder).__name__).patches
        tokens[index] = Tokens(patches, grid, _class_token(encoder, prefix))
    return [tokens[layer] for layer in layers]


def _class_token(encoder: Any, prefix: Tensor | None) -> Tensor | None:
    """The first token before the patches, if the encoder has a class token; register tokens do not count."""
    holders = (encoder, getattr(encoder, "embeds", None))  # NaFlex models keep it in `embeds`
    has_one = any(getattr(holder, "cls_token", None) is not None for holder in holders)
    return prefix[:, 0] if has_one and prefix is not None and prefix.shape[1] > 0 else None

"""open_clip and OpenAI's CLIP: the image tower, which is open_clip's `VisionTransformer` or a timm model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from spatialboost.encoders.foreign import load_open_clip
from spatialboost.encoders.foreign.checks import SOURCES
from spatialboost.encoders.libraries.blocks import block_outputs
from spatialboost.encoders.libraries.load_errors import explain_load_errors
from spatialboost.encoders.libraries.protocol import Tokens, pair, patch_grid, split_tokens
from spatialboost.encoders.preprocessing import CLIP, RECORD, Preprocessing, from_config
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions


class OpenClip:
    """See `spatialboost.encoders.libraries.protocol.Library`."""

    def build(self, config: EncoderConfig, dtype: Any) -> nn.Module:
        try:
            import open_clip
        except ImportError:
            raise SpatialBoostError("open_clip is not installed: pip install open_clip_torch") from None
        name, tag = _model_and_tag(config.name)
        if not name.startswith(SOURCES) and name not in open_clip.list_models():
            close = difflib.get_close_matches(name, open_clip.list_models(), n=4)
            hint = f"; close to it: {', '.join(close)}" if close else "; open_clip.list_models() lists them"
            raise SpatialBoostError(f"open_clip has no model {name!r}{hint}")
        loads = self.loads_weights(config)
        if config.pretrained and config.weights is None and not loads:
            tags = open_clip.list_pretrained_tags_by_model(name)
            raise SpatialBoostError(
                f"{name} does not say which weights; expected open_clip:{name}/PRETRAINED with one of "
                f"{', '.join(tags)}, or pretrained=False"
            )
        if tag is not None and not name.startswith(SOURCES):
            _check_tag(name, tag, open_clip.list_pretrained_tags_by_model(name))
        kwargs = dict(config.kwargs)
        with explain_load_errors(f"open_clip:{config.name}"):
            visual: Any = load_open_clip(name, tag, HubOptions.taken_from(kwargs), pretrained=loads, kwargs=kwargs)
        if loads and (found := self.preprocessing(visual)) is not None:
            setattr(visual, RECORD, found)
        return visual

    def loads_weights(self, config: EncoderConfig) -> bool:
        name, tag = _model_and_tag(config.name)
        named = tag is not None or name.startswith(SOURCES)
        return named and config.pretrained is not False and config.weights is None

    def reads(self, encoder: Any) -> bool:
        blocks = getattr(getattr(encoder, "transformer", None), "resblocks", None)
        return hasattr(encoder, "conv1") and hasattr(encoder, "class_embedding") and blocks is not None

    def feature_dim(self, encoder: Any) -> int:
        return int(encoder.conv1.out_channels)

    def patch_size(self, encoder: Any) -> int:
        return int(encoder.conv1.stride[0])

    def num_layers(self, encoder: Any) -> int:
        return len(encoder.transformer.resblocks)

    def hierarchical(self, encoder: nn.Module) -> bool:
        return False

    def native_size(self, encoder: Any) -> tuple[int, int]:
        if (size := getattr(encoder, "image_size", None)) is not None:
            return pair(size)
        side = int((len(encoder.positional_embedding) - 1) ** 0.5) * self.patch_size(encoder)
        return side, side

    def read(self, encoder: Any, pixel_values: Tensor, layers: Sequence[int]) -> list[Tokens]:
        grid = patch_grid(pixel_values, self.patch_size(encoder))
        rows, columns = (size // self.patch_size(encoder) for size in self.native_size(encoder))
        if grid != (rows, columns):
            raise SpatialBoostError(
                f"images have {grid[0]}x{grid[1]} patches; this encoder has position embeddings for {rows}x{columns}. "
                "Give images of that size, or build it with `force_image_size=`"
            )
        blocks = encoder.transformer.resblocks
        outputs = block_outputs(blocks, layers, lambda: encoder(pixel_values))
        attention = getattr(blocks[0], "attn", None)
        batch_first = getattr(encoder.transformer, "batch_first", getattr(attention, "batch_first", False))
        after_pooling = (
            getattr(encoder, "final_ln_after_pool", False) or getattr(encoder, "attn_pool", None) is not None
        )
        found = []
        for layer in layers:
            tokens = outputs[layer] if batch_first else outputs[layer].transpose(0, 1)
            if layer == len(blocks) - 1 and not after_pooling:
                tokens = encoder.ln_post(tokens)
            found.append(split_tokens(tokens, grid, 1, 0, cls=True, name=type(encoder).__name__))
        return found

    def preprocessing(self, encoder: nn.Module) -> Preprocessing | None:
        config = getattr(encoder, "preprocess_cfg", None)
        if isinstance(config, dict):
            return from_config(config)
        mean, std = (getattr(encoder, name, None) for name in ("image_mean", "image_std"))
        return from_config({"mean": mean, "std": std, "interpolation": "bicubic"})

    def usual_preprocessing(self, encoder: nn.Module) -> Preprocessing:
        return Preprocessing(*CLIP, "bicubic")


def _model_and_tag(name: str) -> tuple[str, str | None]:
    if name.startswith(SOURCES):
        return name, None
    model, _, tag = name.partition("/")
    return model, tag or None


def _check_tag(name: str, tag: str, tags: Sequence[str]) -> None:
    if tag in tags or tag.endswith(".safetensors"):
        return
    close = difflib.get_close_matches(tag, tags, n=1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    raise SpatialBoostError(
        f"open_clip has no weights {tag!r} of {name}; known are {', '.join(tags)}, or a .safetensors file{hint}"
    )

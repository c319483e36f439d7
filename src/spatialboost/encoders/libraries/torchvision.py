"""torchvision: `VisionTransformer` and the Swin transformers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.find import tower
from spatialboost.encoders.libraries.load_errors import explain_load_errors
from spatialboost.encoders.libraries.protocol import Tokens, patch_grid, split_tokens, tokens_of_map
from spatialboost.encoders.preprocessing import IMAGENET, RECORD, Preprocessing, as_rgb
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError


class Torchvision:
    """See `spatialboost.encoders.libraries.protocol.Library`."""

    def build(self, config: EncoderConfig, dtype: Any) -> nn.Module:
        from torchvision import models

        names = models.list_models()
        if config.name not in names:
            close = difflib.get_close_matches(config.name, names, n=4)
            hint = f"; close to it: {', '.join(close)}" if close else "; torchvision.models.list_models() lists them"
            raise SpatialBoostError(f"torchvision has no model {config.name!r}{hint}")
        options = dict(config.kwargs)
        which = options.pop("weights", "DEFAULT")
        with explain_load_errors(f"torchvision:{config.name}"):
            model = models.get_model(config.name, weights=None, **options)
        if not self.loads_weights(config):
            return model
        known = models.get_model_weights(config.name)
        if which not in known.__members__:
            raise SpatialBoostError(
                f"{config.name} has no weights {which!r}; expected one of {', '.join(known.__members__)}"
            )
        weights = known[which]
        with explain_load_errors(f"torchvision:{config.name}"):
            # torchvision publishes no safetensors: only tensors are read, and the file's checksum is checked
            model.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        setattr(model, RECORD, from_transforms(weights.transforms()))
        return model

    def loads_weights(self, config: EncoderConfig) -> bool:
        return bool(config.pretrained) and config.weights is None

    def reads(self, encoder: Any) -> bool:
        if not any(cls.__module__.startswith("torchvision.models") for cls in type(encoder).__mro__):
            return False
        return _is_plain(encoder) or _is_swin(encoder)

    def feature_dim(self, encoder: Any) -> int:
        return int(encoder.hidden_dim if _is_plain(encoder) else encoder.norm.normalized_shape[0])

    def patch_size(self, encoder: Any) -> int:
        if _is_plain(encoder):
            return int(encoder.patch_size)
        merges = sum(1 for module in encoder.features if type(module).__name__.startswith("PatchMerging"))
        return int(encoder.features[0][0].stride[0] * 2**merges)

    def num_layers(self, encoder: Any) -> int:
        return len(encoder.encoder.layers) if _is_plain(encoder) else max(tower(encoder), default=0) + 1

    def hierarchical(self, encoder: Any) -> bool:
        return _is_swin(encoder)

    def native_size(self, encoder: Any) -> tuple[int, int]:
        return (encoder.image_size,) * 2 if _is_plain(encoder) else (224, 224)

    def read(self, encoder: Any, pixel_values: Tensor, layers: Sequence[int]) -> list[Tokens]:
        if _is_swin(encoder):
            patch_grid(pixel_values, self.patch_size(encoder))
            return [tokens_of_map(encoder.norm(encoder.features(pixel_values)).permute(0, 3, 1, 2))] * len(layers)
        grid = patch_grid(pixel_values, self.patch_size(encoder))
        if tuple(pixel_values.shape[2:]) != self.native_size(encoder):
            side = encoder.image_size
            raise SpatialBoostError(
                f"images are {pixel_values.shape[2]}x{pixel_values.shape[3]}; this encoder's position embeddings are "
                f"for {side}x{side}. Give images of that size, or build it with `image_size=`"
            )
        tokens = encoder._process_input(pixel_values)
        cls = encoder.class_token.expand(len(tokens), -1, -1)
        tokens = encoder.encoder.dropout(torch.cat([cls, tokens], dim=1) + encoder.encoder.pos_embedding)
        found: dict[int, Tokens] = {}
        last = len(encoder.encoder.layers) - 1
        for index, block in enumerate(encoder.encoder.layers[: max(layers) + 1]):
            tokens = block(tokens)
            if index in layers:
                normed = encoder.encoder.ln(tokens) if index == last else tokens
                found[index] = split_tokens(normed, grid, 1, 0, cls=True, name=type(encoder).__name__)
        return [found[layer] for layer in layers]

    def preprocessing(self, encoder: nn.Module) -> Preprocessing | None:
        return None  # not stored in the model; `build` stores that of the weights

    def usual_preprocessing(self, encoder: nn.Module) -> Preprocessing:
        return Preprocessing(*IMAGENET)


def from_transforms(transforms: Any) -> Preprocessing:
    """The preprocessing that the transforms of torchvision's weights do."""
    return Preprocessing(as_rgb(transforms.mean), as_rgb(transforms.std), transforms.interpolation.value)


def _is_plain(encoder: Any) -> bool:
    return hasattr(encoder, "conv_proj") and hasattr(getattr(encoder, "encoder", None), "pos_embedding")


def _is_swin(encoder: Any) -> bool:
    return "SwinTransformer" in {cls.__name__ for cls in type(encoder).__mro__}

"""transformers: its vision models, and the image towers of its vision-language models."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.find import tower
from spatialboost.encoders.foreign import load_processor, load_transformers
from spatialboost.encoders.libraries.load_errors import explain_load_errors
from spatialboost.encoders.libraries.protocol import Tokens, pair, patch_grid, split_tokens, tokens_of_map
from spatialboost.encoders.preprocessing import IMAGENET, RECORD, Preprocessing, as_rgb
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions

TOWERS = ("vision_model", "vision_tower", "visual", "image_encoder", "vision_encoder")
BEFORE = ("cls_token", "class_embedding", "distillation_token", "register_tokens", "cls_register_token")
AFTER = ("detection_tokens",)
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers

# The preprocessing that these models were published with, where the defaults of their image processor differ.
USUAL = {
    "dinov2": Preprocessing(*IMAGENET, "bicubic"),
    "dinov2_with_registers": Preprocessing(*IMAGENET, "bicubic"),
    "hiera": Preprocessing(*IMAGENET, "bicubic"),
    "vit_mae": Preprocessing(*IMAGENET, "bicubic"),
    "vit_msn": Preprocessing(*IMAGENET, "bicubic"),
}


class Transformers:
    """See `spatialboost.encoders.libraries.protocol.Library`."""

    def build(self, config: EncoderConfig, dtype: Any) -> nn.Module:
        name = config.name
        kwargs = {"dtype": dtype or "auto", **config.kwargs}
        kwargs["dtype"] = kwargs.pop("torch_dtype", kwargs["dtype"])  # its earlier name
        with explain_load_errors(f"hf:{name}"):
            options = HubOptions.taken_from(kwargs)
            model = load_transformers(
                name, options, pretrained=self.loads_weights(config), dtype=kwargs.pop("dtype"), kwargs=kwargs
            )
            return with_processor(image_tower(model, name), name, options)

    def loads_weights(self, config: EncoderConfig) -> bool:
        return config.pretrained is not False and config.weights is None

    def reads(self, encoder: nn.Module) -> bool:
        config = getattr(encoder, "config", None)
        return hasattr(config, "model_type") and _width(config) is not None and _stride(config) is not None

    def feature_dim(self, encoder: Any) -> int:
        return int(_width(encoder.config) or 0)

    def patch_size(self, encoder: Any) -> int:
        return int(_stride(encoder.config) or 0)

    def num_layers(self, encoder: Any) -> int:
        if self.hierarchical(encoder):
            return max(tower(encoder), default=0) + 1
        return int(encoder.config.num_hidden_layers)

    def hierarchical(self, encoder: Any) -> bool:
        return _is_hierarchical(encoder.config)

    def native_size(self, encoder: Any) -> tuple[int, int]:
        return pair(getattr(encoder.config, "image_size", None))

    def read(self, encoder: Any, pixel_values: Tensor, layers: Sequence[int]) -> list[Tokens]:
        last, name = self.num_layers(encoder) - 1, type(encoder).__name__
        patch = self.patch_size(encoder)
        if self.hierarchical(encoder):
            height, width = pixel_values.shape[2:]
            grid = math.ceil(height / patch), math.ceil(width / patch)
        else:
            grid = patch_grid(pixel_values, patch, self.native_size(encoder))
        inputs = _inputs(encoder, pixel_values, grid, patch)
        options = {"output_hidden_states": True} if any(layer != last for layer in layers) else {}
        output = encoder(**inputs, **options)
        found = []
        for layer in layers:
            # hidden_states[0] is the input of the first block
            states = output.last_hidden_state if layer == last else output.hidden_states[layer + 1]
            found.append(self._to_tokens(encoder, states, len(pixel_values), grid, name))
        return found

    def _to_tokens(self, encoder: nn.Module, states: Tensor, batch: int, grid: tuple[int, int], name: str) -> Tokens:
        if states.ndim == 4:  # a feature map: channels first, or last (SAM's layers)
            width = self.feature_dim(encoder)
            if states.shape[1] != width and states.shape[3] == width:
                states = states.permute(0, 3, 1, 2)
            return tokens_of_map(states)
        if states.shape[0] == 1 and batch > 1:  # Pixtral packs the images of a batch into one row
            states = states.view(batch, -1, states.shape[2])
        before, after, has_cls = _other_tokens(encoder)
        return split_tokens(states, grid, before, after, cls=has_cls, name=name)

    def preprocessing(self, encoder: Any) -> Preprocessing | None:
        if not (name := str(getattr(encoder.config, "_name_or_path", None) or "")):
            return None
        with suppress(SpatialBoostError):  # the folder may have been deleted, and the network is not asked
            with_processor(encoder, name, HubOptions(local_files_only=True))
        return getattr(encoder, RECORD, None)

    def usual_preprocessing(self, encoder: Any) -> Preprocessing:
        kind = encoder.config.model_type
        bare = kind.removesuffix("_model").removesuffix("_vision")
        if (known := USUAL.get(kind) or USUAL.get(bare)) is not None:
            return known
        return _class_default(kind) or _class_default(bare) or Preprocessing(*IMAGENET)


def image_tower(model: Any, name: str) -> Any:
    """The image tower of a model, or the model itself; its config stores the name that it was loaded by."""
    found = next((getattr(model, each) for each in TOWERS if isinstance(getattr(model, each, None), nn.Module)), model)
    config = getattr(found, "config", None)
    if config is not None and not getattr(config, "_name_or_path", None):
        config._name_or_path = name
    return found


def with_processor(encoder: Any, name: str, options: HubOptions) -> Any:
    """The encoder, with the preprocessing of the image processor of `name` stored on it."""
    if (processor := load_processor(name, options)) is not None and (found := from_processor(processor)) is not None:
        setattr(encoder, RECORD, found)
    return encoder


def from_processor(processor: Any) -> Preprocessing | None:
    """The preprocessing that an image processor of transformers does, for pixels in [0, 1]."""
    processor = getattr(processor, "image_processor", processor)
    rescales = bool(getattr(processor, "do_rescale", True))
    # the factor of a pixel in [0, 1] before normalisation
    factor = 255 * float(getattr(processor, "rescale_factor", None) or 1 / 255) if rescales else 255.0
    offset = 1.0 if rescales and getattr(processor, "offset", getattr(processor, "rescale_offset", False)) else 0.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if getattr(processor, "do_normalize", False):
        given = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
        if None in given:
            return None
        mean, std = as_rgb(given[0]), as_rgb(given[1])
    resample = getattr(processor, "resample", None)
    interpolation = RESAMPLING.get(int(resample), "bicubic") if resample is not None else "bilinear"
    red, green, blue = ((value + offset) / factor for value in mean)
    return Preprocessing((red, green, blue), as_rgb([value / factor for value in std]), interpolation)


def _class_default(kind: str) -> Preprocessing | None:
    """The defaults of the image processor class that transformers uses for this type of model."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    named: Any = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind, ())
    names = named.values() if isinstance(named, dict) else (named,) if isinstance(named, str) else named
    for name in names:
        try:
            return from_processor(getattr(transformers, name)())
        except Exception:  # the backend of this class is not installed; the next class may have another backend
            continue
    return None


def _is_hierarchical(config: Any) -> bool:
    return isinstance(getattr(config, "depths", None), (list, tuple)) or _sizes(config) is not None


def _sizes(config: Any) -> Sequence[int] | None:
    sizes = getattr(config, "hidden_sizes", None)
    return sizes if isinstance(sizes, (list, tuple)) else None


def _width(config: Any) -> int | None:
    if (sizes := _sizes(config)) is not None:
        return sizes[-1]
    width = getattr(config, "hidden_size", None)
    depths = getattr(config, "depths", None)
    if width is None and isinstance(depths, (list, tuple)) and hasattr(config, "embed_dim"):
        return int(config.embed_dim * 2 ** (len(depths) - 1))
    layers = _is_hierarchical(config) or isinstance(getattr(config, "num_hidden_layers", None), int)
    return width if isinstance(width, int) and layers else None


def _stride(config: Any) -> int | None:
    """Distance of neighbouring tokens of the last grid in pixels."""
    strides = getattr(config, "strides", None)
    if _is_hierarchical(config) and isinstance(strides, (list, tuple)) and strides:
        return math.prod(strides)
    patch = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)
    patch = patch[0] if isinstance(patch, (list, tuple)) else patch
    if not isinstance(patch, int):
        return None
    stages = getattr(config, "depths", None)
    return patch * 2 ** (len(stages) - 1) if isinstance(stages, (list, tuple)) else patch


def _other_tokens(encoder: nn.Module) -> tuple[int, int, bool]:
    """How many tokens the encoder has before and after its patches, and whether the first one is a class token."""
    counts = {"before": 0, "after": 0}
    has_cls = False
    for name, parameter in encoder.named_parameters():
        *path, leaf = name.split(".")
        if leaf not in BEFORE + AFTER or not any("embed" in part for part in path):
            continue  # a parameter of a pooling head is not a token of the sequence
        counts["before" if leaf in BEFORE else "after"] += parameter.shape[-2] if parameter.ndim > 1 else 1
        has_cls = has_cls or leaf in ("cls_token", "class_embedding", "cls_register_token")
    return counts["before"], counts["after"], has_cls


def _inputs(encoder: Any, pixel_values: Tensor, grid: tuple[int, int], patch: int) -> dict[str, Any]:
    """The arguments of the encoder's forward."""
    parameters = inspect.signature(encoder.forward).parameters
    if "spatial_shapes" in parameters:  # NaFlex takes patches and their grid, not images
        return _patches(pixel_values, grid, patch)
    inputs: dict[str, Any] = {"pixel_values": pixel_values}
    size = tuple(pixel_values.shape[2:])
    if "interpolate_pos_encoding" in parameters and size != pair(getattr(encoder.config, "image_size", None)):
        inputs["interpolate_pos_encoding"] = True
    return inputs


def _patches(pixel_values: Tensor, grid: tuple[int, int], patch: int) -> dict[str, Tensor]:
    """Images ``(B, 3, H, W)`` as sequences of flattened patches (rows, columns, colours)."""
    batch, rows, columns = len(pixel_values), *grid
    cut = pixel_values.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))  # B, 3, rows, p, columns, p
    device = pixel_values.device
    return {
        "pixel_values": cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1),
        "pixel_attention_mask": torch.ones(batch, rows * columns, dtype=torch.long, device=device),
        "spatial_shapes": torch.tensor([grid] * batch, dtype=torch.long, device=device),
    }

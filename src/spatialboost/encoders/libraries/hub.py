"""Local torch.hub folders: DINO, DINOv2 and DINOv3 from their authors, and encoders with the same structure."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spatialboost.encoders.libraries.blocks import block_outputs
from spatialboost.encoders.libraries.load_errors import explain_load_errors
from spatialboost.encoders.libraries.protocol import Tokens, pair, patch_grid, split_tokens
from spatialboost.encoders.preprocessing import IMAGENET, Preprocessing
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError, unknown

logger = logging.getLogger(__name__)

REGISTERS = ("register_tokens", "storage_tokens", "reg_token")


class Hub:
    """See `spatialboost.encoders.libraries.protocol.Library`.

    The code of the folder is run; nothing is downloaded. So the weights come from a safetensors file (`weights`), or
    the folder's own code loads them, as `kwargs` say.
    """

    def build(self, config: EncoderConfig, dtype: Any) -> nn.Module:
        folder, colon, name = config.name.rpartition(":")
        path = Path(folder).expanduser()
        if not colon or not (path / "hubconf.py").is_file():
            raise SpatialBoostError(
                f"hub encoder is {config.name!r}; expected FOLDER:ENTRY with a folder that contains hubconf.py"
            )
        with explain_load_errors(f"hub:{config.name}"), _importable(path):
            entries = _entries(path)
            if name not in entries:
                raise unknown(f"entry of {folder}", name, entries)
            options = dict(config.kwargs)
            if "pretrained" in inspect.signature(entries[name]).parameters and "pretrained" not in options:
                options["pretrained"] = False  # by default, an entry would download its weights
                if config.weights is None:
                    logger.warning("the encoder %s has random weights: set encoder.weights", config.name)
            model = entries[name](**options)
        if not isinstance(model, nn.Module):
            raise SpatialBoostError(f"{config.name} gave {type(model).__name__}; expected an encoder (nn.Module)")
        return model

    def loads_weights(self, config: EncoderConfig) -> None:
        return None  # only the code of the folder knows

    def reads(self, encoder: nn.Module) -> bool:
        blocks = getattr(encoder, "blocks", None)
        return isinstance(blocks, (nn.ModuleList, nn.Sequential)) and _projection(encoder) is not None

    def feature_dim(self, encoder: Any) -> int:
        return int(_projection(encoder).out_channels)

    def patch_size(self, encoder: Any) -> int:
        return int(_projection(encoder).stride[0])

    def num_layers(self, encoder: Any) -> int:
        return len(_blocks(encoder))

    def hierarchical(self, encoder: nn.Module) -> bool:
        return False

    def native_size(self, encoder: Any) -> tuple[int, int]:
        patch = self.patch_size(encoder)
        table = getattr(encoder, "pos_embed", None)
        if isinstance(table, Tensor):  # it has one row for the class token; the others form a square grid
            side = int(table.shape[1] ** 0.5) * patch
            return side, side
        size = getattr(getattr(encoder, "patch_embed", None), "img_size", None)
        return pair(size, default=14 * patch)

    def read(self, encoder: Any, pixel_values: Tensor, layers: Sequence[int]) -> list[Tokens]:
        grid = patch_grid(pixel_values, self.patch_size(encoder))
        blocks = _blocks(encoder)
        outputs = block_outputs(blocks, layers, lambda: encoder(pixel_values))
        has_cls = getattr(encoder, "cls_token", None) is not None
        before = int(has_cls) + sum(
            token.shape[1] for token in (getattr(encoder, name, None) for name in REGISTERS) if token is not None
        )
        found = []
        for layer in layers:
            tokens = outputs[layer]
            if layer == len(blocks) - 1 and isinstance(norm := getattr(encoder, "norm", None), nn.Module):
                tokens = norm(tokens)
            found.append(split_tokens(tokens, grid, before, 0, cls=has_cls, name=type(encoder).__name__))
        return found

    def preprocessing(self, encoder: nn.Module) -> Preprocessing | None:
        return None

    def usual_preprocessing(self, encoder: nn.Module) -> Preprocessing:
        return Preprocessing(*IMAGENET, "bicubic")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Within this context, modules of the folder can be imported, as torch.hub does it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _entries(folder: Path) -> dict[str, Callable[..., Any]]:
    """The functions that `hubconf.py` offers."""
    spec = spec_from_file_location("hubconf", folder / "hubconf.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise SpatialBoostError(f"{folder / 'hubconf.py'} needs a package that is not installed: {error}") from error
    return {name: value for name, value in vars(module).items() if callable(value) and not name.startswith("_")}


def _projection(encoder: nn.Module) -> Any:
    """The convolution that turns patches into tokens: `patch_embed`, or the one inside it."""
    embed = getattr(encoder, "patch_embed", None)
    if isinstance(embed, nn.Module):
        return next((module for module in embed.modules() if isinstance(module, nn.Conv2d)), None)
    return None


def _blocks(encoder: Any) -> list[nn.Module]:
    """The blocks in order; DINOv2 may keep them in chunks for FSDP, which begin with placeholders."""
    blocks = list(encoder.blocks)
    if blocks and all(isinstance(chunk, nn.ModuleList) for chunk in blocks):
        return [block for chunk in blocks for block in chunk if not isinstance(block, nn.Identity)]
    return blocks

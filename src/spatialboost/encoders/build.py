"""Build the encoder that a configuration names, and set its dtype, the seed of random weights and evaluation mode."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spatialboost.encoders.libraries import find_library
from spatialboost.encoders.libraries.protocol import Library
from spatialboost.encoders.position_grid import fit_position_grid
from spatialboost.encoders.preprocessing import set_preprocessing
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError

logger = logging.getLogger(__name__)

RANDOM_SEED = "spatialboost_random_seed"  # attribute of an encoder with random weights; a delta records it


def build_encoder(
    config: EncoderConfig, *, dtype: torch.dtype | None = torch.float32, seed: int | None = 0
) -> nn.Module:
    """The encoder of a configuration, in evaluation mode.

    Example:
        >>> shape = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}
        >>> type(build_encoder(EncoderConfig("VisionTransformer", kwargs=shape, pretrained=False))).__name__
        'VisionTransformer'

    Args:
        config: What to build.
        dtype: Dtype of the weights; None keeps the dtype in which the library loads them.
        seed: Seed of random weights; the state of torch's global generator is not changed. None draws the weights from
            that generator.

    Raises:
        SpatialBoostError: There is no such encoder, or its weights cannot be loaded.
    """
    library = find_library(config.library)
    with seeded(seed):
        encoder = _build(library, config, dtype)
    if dtype is not None and "dtype" not in config.kwargs:
        encoder = encoder.to(dtype)
    if config.weights is not None:
        load_weights(encoder, config.weights, config.name)
    elif library.loads_weights(config) is False:
        setattr(encoder, RANDOM_SEED, seed)
        logger.warning("the encoder %s has random weights: set encoder.weights or encoder.pretrained", config.name)
    if not (config.mean is config.std is config.interpolation is None):
        set_preprocessing(encoder, mean=config.mean, std=config.std, interpolation=config.interpolation)
    return encoder.eval()


def _build(library: Library, config: EncoderConfig, dtype: torch.dtype | None) -> nn.Module:
    try:
        return library.build(config, dtype)
    except SpatialBoostError:
        raise
    except Exception as error:  # whatever a library raises on arguments that it does not know
        if not config.kwargs:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SpatialBoostError(
            f"encoder.kwargs are wrong for {config.name}: {reason}; found {dict(config.kwargs)!r:.200}"
        ) from error


def load_weights(encoder: nn.Module, file: Path, name: str) -> None:
    """Load a safetensors file strictly; position embeddings for another image size are resampled.

    Raises:
        SpatialBoostError: The file cannot be read, or its tensors do not fit the encoder.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        encoder.load_state_dict(fit_position_grid(load_file(file), encoder))
    except (OSError, SafetensorError) as error:
        raise SpatialBoostError(f"cannot read encoder.weights {file}: {error}") from None
    except RuntimeError as error:  # torch writes one line for each missing or unexpected key
        reason = " ".join(str(error).split())[:300]
        raise SpatialBoostError(f"encoder.weights {file} do not fit {name}: {reason}") from None


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random weights come from this seed; afterwards torch's generator has its old state. None changes nothing."""
    if seed is None:
        yield
        return
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**64:
        raise SpatialBoostError(f"seed is {str(seed)[:80]!r}; expected a whole number below 2**64")
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)  # the code of a torch.hub folder may draw its weights from these
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def fit_image_size(encoder: Any, image_size: tuple[int, int] | int) -> None:
    """Resample the position embeddings of a timm model for one image size; other models do it in each forward."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if hasattr(encoder, "set_input_size"):
        encoder.set_input_size(img_size=(height, width))

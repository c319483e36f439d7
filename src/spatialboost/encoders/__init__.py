"""Any image encoder as one thing: its patch tokens, its size, and how it wants its images."""

from spatialboost.encoders.tokens import (
    Tokens,
    feature_dim,
    feature_layer,
    normalisation,
    num_layers,
    patch_size,
    prepare_images,
    read_tokens,
)

__all__ = [
    "Tokens",
    "feature_dim",
    "feature_layer",
    "normalisation",
    "num_layers",
    "patch_size",
    "prepare_images",
    "read_tokens",
]

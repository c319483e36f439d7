"""Any image encoder as one thing: its patch tokens, its size, and how it wants its images."""

from spatialboost.encoders.images import ImagePreparation, image_preparation, normalisation, prepare_images
from spatialboost.encoders.photographs import open_photograph
from spatialboost.encoders.tokens import (
    Tokens,
    feature_dim,
    feature_layer,
    num_layers,
    patch_size,
    read_tokens,
)

__all__ = [
    "ImagePreparation",
    "Tokens",
    "feature_dim",
    "feature_layer",
    "image_preparation",
    "normalisation",
    "num_layers",
    "open_photograph",
    "patch_size",
    "prepare_images",
    "read_tokens",
]

"""One interface to the image encoders of several libraries: open one by name, prepare its images, read its tokens.

Begin with `open.py` (what a specification may be), then `tokens.py` and `images.py`. What differs between libraries is
in `libraries/`: one file for each library, and one line in the table `LIBRARIES` of its `__init__.py`.
"""

from spatialboost.encoders.grid import check_grid
from spatialboost.encoders.images import ImagePreparation, image_preparation, normalisation, prepare_images
from spatialboost.encoders.libraries.protocol import Tokens
from spatialboost.encoders.open import open_encoder
from spatialboost.encoders.preprocessing import Preprocessing, read_preprocessing, set_preprocessing
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.encoders.tokens import feature_dim, feature_layer, num_layers, patch_size, read_tokens
from spatialboost.photographs import open_photograph

__all__ = [
    "EncoderConfig",
    "ImagePreparation",
    "Preprocessing",
    "Tokens",
    "check_grid",
    "feature_dim",
    "feature_layer",
    "image_preparation",
    "normalisation",
    "num_layers",
    "open_encoder",
    "open_photograph",
    "patch_size",
    "prepare_images",
    "read_preprocessing",
    "read_tokens",
    "set_preprocessing",
]

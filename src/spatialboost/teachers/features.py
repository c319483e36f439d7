"""Features of some training images, from which a teacher takes fixed scales."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.protocol import BAD_DATA, TeacherInputs

IMAGES = 64
_BATCH = 16


@torch.no_grad()
def training_features(inputs: TeacherInputs) -> Tensor:
    """The patch tokens of the first images of evenly spaced training rows ``(I, N, D)``, I at most 64.

    Raises:
        SpatialBoostError: None of these images can be read.
    """
    places = np.linspace(0, len(inputs.training) - 1, min(IMAGES, len(inputs.training))).round().astype(int)
    images, was_training = [], inputs.encoder.training
    for place in places.tolist():
        try:
            images.append(inputs.images(inputs.rows[inputs.training[place]])[:1])
        except BAD_DATA:
            continue  # training reports bad rows when it reads them
    if not images:
        raise SpatialBoostError(
            f"standardise: none of {len(places)} training images can be read: check the data, or set standardise: false"
        )
    device = next(inputs.encoder.parameters()).device
    inputs.encoder.eval()
    found = [
        read_tokens(inputs.encoder, torch.cat(images[at : at + _BATCH]).to(device), layer=inputs.layer).patches
        for at in range(0, len(images), _BATCH)
    ]
    inputs.encoder.train(was_training)
    return torch.cat(found)

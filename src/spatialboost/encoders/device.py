"""Put a model on the device that a user names."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    from torch import nn

Model = TypeVar("Model", bound="nn.Module")


def to_device(model: Model, device: str) -> Model:
    """Put the model on a device: ``"auto"``, or a name of torch.

    Raises:
        SpatialBoostError: there is no such device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise SpatialBoostError(f"device is {device!r}: {str(error).splitlines()[0]}") from error

"""Give a pretrained vision encoder a sense of 3D space without making it forget."""

from spatialboost.boosting import (
    Status,
    boost,
    disabled,
    fuse,
    named_parameters,
    param_groups,
    set_kernel,
    status,
    unboost,
)
from spatialboost.errors import SpatialBoostError
from spatialboost.weights import from_pretrained, load_pretrained, push_to_hub, save_pretrained

__all__ = [
    "SpatialBoostError",
    "Status",
    "boost",
    "disabled",
    "from_pretrained",
    "fuse",
    "load_pretrained",
    "named_parameters",
    "param_groups",
    "push_to_hub",
    "save_pretrained",
    "set_kernel",
    "status",
    "unboost",
]

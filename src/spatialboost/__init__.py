"""Give a pretrained vision encoder a sense of 3D space without making it forget."""

from .boosting import Status, boost, disabled, named_parameters, param_groups, status, unboost
from .errors import SpatialBoostError

__all__ = [
    "SpatialBoostError",
    "Status",
    "boost",
    "disabled",
    "named_parameters",
    "param_groups",
    "status",
    "unboost",
]

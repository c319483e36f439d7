"""Give a pretrained vision encoder a sense of 3D space without making it forget."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spatialboost.boosting import (
        Status,
        Verification,
        boost,
        disabled,
        fuse,
        named_parameters,
        param_groups,
        reset,
        set_kernel,
        status,
        unboost,
        verify,
    )
    from spatialboost.errors import SpatialBoostError
    from spatialboost.weights import from_pretrained, load_pretrained, push_to_hub, save_pretrained

__all__ = [
    "SpatialBoostError",
    "Status",
    "Verification",
    "boost",
    "disabled",
    "from_pretrained",
    "fuse",
    "load_pretrained",
    "named_parameters",
    "param_groups",
    "push_to_hub",
    "reset",
    "save_pretrained",
    "set_kernel",
    "status",
    "unboost",
    "verify",
]

# Names are imported when they are first used, so that the command line can show its help without importing torch.
_FROM_WEIGHTS = {"from_pretrained", "load_pretrained", "push_to_hub", "save_pretrained"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "errors" if name == "SpatialBoostError" else "weights" if name in _FROM_WEIGHTS else "boosting"
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

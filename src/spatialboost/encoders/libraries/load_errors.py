"""Turn the libraries' errors about models that cannot be built or loaded into a `SpatialBoostError` of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spatialboost.encoders.foreign import explain_model_errors
from spatialboost.errors import SpatialBoostError


@contextmanager
def explain_load_errors(spec: str) -> Iterator[None]:
    """Raise a `SpatialBoostError` if weights are gated, missing, broken or unreachable: it says why and what to do."""
    try:
        with explain_model_errors(spec):
            yield
    except SpatialBoostError as error:
        if isinstance(getattr(error.__cause__, "__cause__", None), OSError):  # the Hub refused, or could not be reached
            raise SpatialBoostError(
                f"{error} Or give a local folder or file of weights, or use random weights (pretrained=False, "
                "--random-weights)"
            ) from error
        raise

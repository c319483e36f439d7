"""Turn the libraries' errors about models that cannot be built or loaded into a `SpatialBoostError` of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import translated


@contextmanager
def explain_load_errors(spec: str) -> Iterator[None]:
    """Raise a `SpatialBoostError` if weights are gated, missing, broken or unreachable: it says why and what to do.

    A library raises any kind of exception for arguments or configs that it does not expect, so each of them counts.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with translated(f"cannot get {spec!r}"):
            try:
                yield
            except OSError as error:  # transformers raises an OSError; the Hub's own error is its cause
                cause = error.__cause__
                raise (cause if isinstance(cause, HfHubHTTPError) else error) from None
    except SpatialBoostError as error:
        line = " ".join(str(error).split()).removesuffix(" Try again; what has been downloaded is kept.")
        line = line if spec in line else f"cannot get {spec!r}: {line}"
        if isinstance(error.__cause__, OSError):  # the Hub refused, or could not be reached
            line += (
                " Or give a local folder or file of weights, or use random weights (pretrained=False, --random-weights)"
            )
        raise SpatialBoostError(line) from error
    except Exception as error:  # arguments, a config or weights that do not fit the model
        reason = " ".join(str(error).split())[:300]
        raise SpatialBoostError(f"cannot build {spec!r}: {type(error).__name__}: {reason}") from error

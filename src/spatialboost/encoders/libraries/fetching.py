"""What the libraries raise where weights cannot be had, as one line of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import translated


@contextmanager
def fetching(spec: str) -> Iterator[None]:
    """Raise our error for an encoder whose weights are gated, missing, broken or out of reach: why, and what to do."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        with translated(f"cannot get {spec!r}"):
            try:
                yield
            except OSError as error:  # transformers hides the Hub's refusal in one of these
                cause = error.__cause__
                raise (cause if isinstance(cause, HfHubHTTPError) else error) from None
    except SpatialBoostError as error:
        line = " ".join(str(error).split()).removesuffix(" Try again; what has arrived is kept.")
        raise SpatialBoostError(
            f"{line} Or give a local folder or file of weights, or take the encoder untrained (pretrained=False, "
            "--random-weights)"
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:  # arguments or weights that do not suit the model
        raise SpatialBoostError(f"cannot build {spec!r}: {' '.join(str(error).split())[:300]}") from error

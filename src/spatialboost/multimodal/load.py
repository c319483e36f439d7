"""Load a vision-language model with its processor."""

from __future__ import annotations

from typing import Any

import torch

from spatialboost.encoders.foreign import explain_model_errors, load_transformers, load_whole_processor
from spatialboost.multimodal.seam import find_seam
from spatialboost.weights.hub import HubOptions


def load_vlm(name: str, *, dtype: torch.dtype = torch.float32, revision: str | None = None) -> tuple[Any, Any]:
    """A vision-language model of transformers and its processor, from a folder or the Hub.

    Example::

        model, processor = load_vlm("Qwen/Qwen2.5-VL-3B-Instruct")

    Code from the Hub is never run.

    Args:
        name: A folder, or ``user/name`` on the Hub.
        dtype: Dtype of the weights.
        revision: Branch, tag or commit on the Hub.

    Raises:
        SpatialBoostError: It cannot be loaded, or its image tokens do not enter a language model (`find_seam`).
    """
    from transformers import AutoModelForImageTextToText

    options = HubOptions(revision=revision)
    with explain_model_errors(name):
        processor = load_whole_processor(name, options)
        model = load_transformers(
            name, options, cls=AutoModelForImageTextToText, pretrained=True, dtype=dtype, kwargs={}
        )
    find_seam(model)
    return model.eval(), processor

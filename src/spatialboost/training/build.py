"""Build the language model that a configuration names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.training.config import LLMConfig
from spatialboost.vlm.llms import Conversation, load_llm


def build_llm(config: LLMConfig, conversations: Iterable[Conversation], seed: int) -> tuple[Any, Any]:
    """The language model of a configuration and its tokenizer; `conversations` are the words of a ``small`` one."""
    options = {"seed": seed, **config.kwargs} if config.name == "small" else dict(config.kwargs)
    try:
        return load_llm(config.name, conversations=conversations, dtype=getattr(torch, config.dtype), **options)
    except TypeError as error:
        raise SpatialBoostError(f'llm.kwargs do not suit "{config.name}": {error}') from None

"""An image encoder connected to a causal language model: encoder -> projector -> language model."""

from __future__ import annotations

from spatialboost.vlm.chat import encode_chat
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.llms import load_llm
from spatialboost.vlm.model import SpatialVLM

__all__ = ["Collator", "SpatialVLM", "encode_chat", "load_llm"]

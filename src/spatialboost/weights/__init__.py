"""The delta: boosted weights as one small file that every library can read (`docs/delta-format.md`)."""

from spatialboost.weights.pretrained import from_pretrained, load_pretrained, push_to_hub, save_pretrained

__all__ = ["from_pretrained", "load_pretrained", "push_to_hub", "save_pretrained"]

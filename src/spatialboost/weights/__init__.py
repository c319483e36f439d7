"""The delta: the boosted weights of an encoder as one small file, for the copies of this encoder in all libraries.

Start with `pretrained.py`: `save_pretrained`, `load_pretrained`, `from_pretrained` and `push_to_hub`. Then:

- the file: `format.py` (names, versions, config), `tensor_file.py` (safetensors and checksums), `read.py`, `write.py`,
  `recognise.py` (what a folder is that is not a delta);
- the model: `fingerprint.py` (is it the same base?), `fit.py` (does a delta fit?),
  `base.py` (name the base, and build it by its name), `describe.py` (the config of a boosted model);
- around it: `card.py` (model card), `hub.py` (download and upload), `info.py` (`spatialboost info`).

The format itself is described in `docs/delta-format.md`.
"""

from spatialboost.weights.pretrained import from_pretrained, load_pretrained, push_to_hub, save_pretrained

__all__ = ["from_pretrained", "load_pretrained", "push_to_hub", "save_pretrained"]

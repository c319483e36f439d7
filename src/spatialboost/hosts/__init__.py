"""Where each library's attention keeps its weights, and how it runs: one `Family` for each kind of attention.

A host is an attention module of a library. Open `protocol.py` first: it defines `Family` and what a family can use.
Each kind of host has a file (`timm`, `transformers`, `mha`, `dino`, `parallel_block`; `generic` is for all others), and
`registry.py` has the table of all families. Families are found by class path, so no library is imported. A new host
needs one new file and one line in that table. `slots.py` and `layers.py` contain functions that most hosts need.
`towers.py` contains the names that libraries give to towers, and `adapters.py` finds the layers inside adapters.
"""

import spatialboost.boosting  # noqa: F401 - the two packages import each other; this one has to be first
from spatialboost.hosts.layers import class_path
from spatialboost.hosts.protocol import BoostedModule, Channel, Family, Share, Slot
from spatialboost.hosts.registry import FAMILIES, family_named, family_of

__all__ = [
    "FAMILIES",
    "BoostedModule",
    "Channel",
    "Family",
    "Share",
    "Slot",
    "class_path",
    "family_named",
    "family_of",
]

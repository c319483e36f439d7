"""How each library's attention reads: a `Family` a kind, looked up by class path so that no library is imported.

Open `protocol.py` first: it says what a family may answer and what it may ask. Each host has a file (`timm`,
`transformers`, `mha`, `dino`, `parallel_block`; `generic` is for all others), and `registry.py` is the table of them. A
new host is one new file and one line there. `slots.py` and `layers.py` hold what most hosts need; `towers.py` and
`adapters.py` hold names that libraries give to towers and to layers with adapters.
"""

import spatialboost.boosting  # noqa: F401 - begins the imports of the two packages, which use each other, always there
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

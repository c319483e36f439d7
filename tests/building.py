"""Sources that tests open in other processes, which import them from here."""

from __future__ import annotations

import os
import signal

from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.rooms import Rooms


class Frames:
    """Rooms, of which number 4 cannot be used."""

    def __init__(self) -> None:
        self.rooms, self.name = Rooms(7, size=48), "frames"
        self.names = [f"frame {number}" for number in range(7)]

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int, /) -> Cues:
        if index == 4:
            raise CuesError("frame 4: depth map is (480, 640) but the image is (375, 500)")
        return self.rooms[index]


class Deadly(Frames):
    """Item 3 ends the process, as a system does that has no memory left."""

    def __getitem__(self, index: int, /) -> Cues:
        if index == 3 and os.environ.get("MAY_DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def frames_with_superpixels() -> Extracted:
    return Extracted(Frames(), [open_extractor("superpixels")], batch_size=2)

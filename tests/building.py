"""Sources that tests open in other processes, which import them from here."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import parent_process
from pathlib import Path

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


class Shared(Frames):
    """This process waits at its first item until another one has begun. ``PROCESSES`` is a folder: who was there."""

    def __getitem__(self, index: int, /) -> Cues:
        seen = Path(os.environ["PROCESSES"])
        (seen / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while parent_process() is None and len(list(seen.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        return super().__getitem__(index)


class Deadly(Shared):
    """The first item in another process ends it, as a system does that has no memory left."""

    def __getitem__(self, index: int, /) -> Cues:
        if os.environ.get("MAY_DIE"):
            found = super().__getitem__(index)
            if parent_process() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            return found
        return Frames.__getitem__(self, index)


def shared_with_superpixels() -> Extracted:
    return Extracted(Shared(), [open_extractor("superpixels")], batch_size=2)


def frames_with_superpixels() -> Extracted:
    return Extracted(Frames(), [open_extractor("superpixels")], batch_size=2)

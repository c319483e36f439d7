"""One split of a probe: the items of a source that can be read; they can be read several times."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spatialboost.probes import token_store
from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.scene import Scene

logger = logging.getLogger(__name__)


class Split:
    """The items of a source that can be read, in order: views (those of a scene one by one) or labelled images.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> split = Split(Rooms(3, size=16))
        >>> [view.source for view in split], len(split)
        (['synthetic:0', 'synthetic:1', 'synthetic:2'], 3)

    The first pass finds the items that cannot be read; they are left out of this and of every later pass. The other
    items are kept in memory if all of them fit, else they are read from the source again.

    Args:
        source: a sequence of items. If it has ``names`` (one for each item) and ``left_out`` (errors of files that it
            has left out), they go into the report.
        limit: bytes that may be kept in memory; None uses `token_store.MEMORY_LIMIT`.

    Attributes:
        left_out: the error of each item that cannot be read; complete after the first pass.
    """

    def __init__(self, source: Any, limit: int | None = None) -> None:
        self.source = source
        self.left_out: list[str] = list(getattr(source, "left_out", ()))
        self._limit = token_store.MEMORY_LIMIT if limit is None else limit
        self._places: list[tuple[int, int]] | None = None  # item of the source, view of it; None before the first pass
        self._held: list[Any] | None = None

    def __len__(self) -> int:
        return len(self._known_places())

    def __getitem__(self, index: int) -> Any:
        place = self._known_places()[index]
        return self._views(place[0])[place[1]] if self._held is None else self._held[index]

    def __iter__(self) -> Iterator[Any]:
        if self._places is None:
            yield from self._first_pass()
        elif self._held is not None:
            yield from self._held
        else:
            for item in dict.fromkeys(item for item, _ in self._places):
                yield from self._views(item)

    def groups(self) -> list[list[int]]:
        """The indices of the views of each item of the source, such as those of one scene."""
        found: dict[int, list[int]] = {}
        for index, (item, _) in enumerate(self._known_places()):
            found.setdefault(item, []).append(index)
        return list(found.values())

    @property
    def sources(self) -> list[int]:
        """The indices of the items of the source that can be read."""
        return list(dict.fromkeys(item for item, _ in self._known_places()))

    def _known_places(self) -> list[tuple[int, int]]:
        if self._places is None:
            for _ in self:
                pass
        assert self._places is not None
        return self._places

    def _first_pass(self) -> Iterator[Any]:
        places: list[tuple[int, int]] = []
        problems: list[str] = []
        held: list[Any] | None = []
        num_bytes = 0
        for item in range(len(self.source)):
            try:
                views = self._views(item)
            except BAD_ITEM as error:
                names = getattr(self.source, "names", None)
                problems.append(f"{item if names is None else names[item]}: {error or type(error).__name__}")
                logger.warning("left out %s", problems[-1])
                continue
            places += [(item, number) for number in range(len(views))]
            num_bytes += sum(_num_bytes(view) for view in views)
            if num_bytes > self._limit:
                held = None
            elif held is not None:
                held += views
            yield from views
        self._places, self._held = places, held
        # again: a source may leave out single frames of a scene, which it finds when it reads them
        self.left_out = [*getattr(self.source, "left_out", ()), *problems]

    def _views(self, item: int) -> Sequence[Any]:
        found = self.source[item]
        return found.views if isinstance(found, Scene) else [found]


def _num_bytes(item: Any) -> int:
    """Bytes of an item in memory: its arrays and the masks of its objects."""
    arrays = [value for value in vars(item).values() if isinstance(value, np.ndarray)]
    arrays += [thing.mask_HW for thing in getattr(item, "objects", ())]
    return sum(array.nbytes for array in arrays)

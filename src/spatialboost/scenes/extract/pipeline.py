"""Apply extractors to the items of a source, one batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import BAD_ITEM, Cues
from spatialboost.scenes.extract.cache import ExtractionCache, content_of, identity_of
from spatialboost.scenes.extract.protocol import KINDS, Addition, Extractor, PartialCues
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import Source

Views = list[PartialCues]  # the views of one item


class Batch(list[PartialCues]):
    """The views that an extractor gets in one call.

    Attributes:
        items: for each view, the number of its item. Views with the same number are of one scene.
    """

    def __init__(self, views: Sequence[PartialCues], items: Sequence[int]) -> None:
        super().__init__(views)
        self.items = items


class Extracted:
    """A source that applies extractors to the items of another source when an item is loaded.

    Example:
        >>> from spatialboost.scenes.extract.registry import open_extractor
        >>> from spatialboost.scenes.rooms import Rooms
        >>> views = Extracted(Rooms(4, size=64), [open_extractor("superpixels")])
        >>> len(views), "object" in views[2].objects[0].description
        (4, True)

    Items ``k * batch_size`` to ``(k + 1) * batch_size - 1`` are always processed together. So the result does not
    depend on the order in which items are loaded, or on the process. A bad item raises when it is loaded; the other
    items of its batch are not affected.

    Args:
        source: source of views or scenes, or of views with missing cues (`PartialCues`).
        extractors: applied in this order.
        batch_size: number of items that are processed together.
        cache: folder in which the results of each extractor are stored, and found again by the content of the view and
            the name of the extractor. So a build that was killed, or asks other questions, does not run the networks
            again. None stores nothing.

    Raises:
        SpatialBoostError: there is no extractor, or the batch size is below one.
        CuesError: from ``[i]``, the item cannot be used.
        TypeError: from ``[i]``, an extractor returned something that `Extractor` does not allow.
    """

    def __init__(
        self,
        source: Source,
        extractors: Sequence[Extractor],
        *,
        batch_size: int = 8,
        cache: Path | None = None,
    ) -> None:
        if not extractors or batch_size < 1:
            raise SpatialBoostError(
                f"{len(extractors)} extractors and batches of {batch_size} items; expected at least 1 of each"
            )
        self.source, self.extractors, self.batch_size = source, list(extractors), batch_size
        steps = ", ".join(extractor.name for extractor in extractors)
        self.name = f"{getattr(source, 'name', type(source).__name__)} with {steps}"
        self.names: Sequence[str] | None = getattr(source, "names", None)
        self._cache = None if cache is None else ExtractionCache(cache)
        self._done: tuple[int, list[Cues | Scene | Exception]] = (-1, [])  # number of the batch, and its items

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_done": (-1, [])}

    @property
    def cached(self) -> bool:
        """Whether the results of extractors are stored in a folder."""
        return self._cache is not None

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """What made the cues, in order: of the source, and of each extractor."""
        of_source = getattr(self.source, "provenance", None)
        steps = [{"extractor": extractor.name, **getattr(extractor, "provenance", {})} for extractor in self.extractors]
        return [*([of_source] if isinstance(of_source, dict) else of_source or []), *steps]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Cues | Scene:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        batch, place = divmod(index, self.batch_size)
        if self._done[0] != batch:
            start = batch * self.batch_size
            self._done = batch, self._run(range(start, min(start + self.batch_size, len(self))))
        found = self._done[1][place]
        if isinstance(found, Exception):
            raise found
        return found

    def _run(self, indices: range) -> list[Cues | Scene | Exception]:
        items = [self._read(index) for index in indices]
        keys = [content_of(views) if self._cache and not isinstance(views, Exception) else "" for views in items]
        for extractor in self.extractors:
            _apply(extractor, items, self._cache, keys)
        return [_finish(views) for views in items]

    def _read(self, index: int) -> Views | Exception:
        try:
            item = self.source[index]
        except BAD_ITEM as error:
            return error
        views = item.views if isinstance(item, Scene) else item if isinstance(item, list) else [item]
        return [view if isinstance(view, PartialCues) else PartialCues.of(view) for view in views]


def _apply(
    extractor: Extractor, items: list[Views | Exception], cache: ExtractionCache | None, keys: list[str]
) -> None:
    """Apply one extractor to a batch of items, and replace the key of each item by its key after this step.

    An item with a view that cannot be used is replaced by the exception.
    """
    together = KINDS[extractor.kind].together
    good = {number: views for number, views in enumerate(items) if not isinstance(views, Exception)}
    if cache is not None:
        step = identity_of(extractor)
        keys[:] = [cache.key(key, step) for key in keys]
    scenes = [[(number, place) for place in range(len(views))] for number, views in good.items()]
    batches = scenes if together else [list(chain.from_iterable(scenes))]
    for batch in filter(None, batches):
        views = Batch([good[number][place] for number, place in batch], [number for number, _ in batch])
        if cache is None or getattr(extractor, "stores_answers", False):
            additions = _call(extractor, views, split=not together)
        else:
            additions = _cached(extractor, views, cache, [cache.key(keys[n], str(k)) for n, k in batch], not together)
        for (number, place), addition in zip(batch, additions, strict=True):
            if isinstance(addition, Exception):
                items[number] = addition
            else:
                _validate(extractor, addition)
                good[number][place] = good[number][place].adding(addition)


def _cached(
    extractor: Extractor, views: Views, cache: ExtractionCache, keys: Sequence[str], split: bool
) -> Sequence[Addition | Exception]:
    """What an extractor adds to some views, from the cache if it has all of them.

    If one is missing, all are made again: networks round differently in batches of another size, and the result of a
    build must not depend on when it was interrupted.
    """
    found = [cache.load(key) for key in keys]
    known = [addition for addition in found if addition is not None]
    if len(known) == len(views):
        return known
    additions = _call(extractor, views, split=split)
    for key, addition in zip(keys, additions, strict=True):
        if isinstance(addition, Mapping):
            _validate(extractor, addition)
        cache.save(key, addition)
    return additions


def _call(extractor: Extractor, views: Views, *, split: bool) -> Sequence[Addition | Exception]:
    """What an extractor adds to some views. If it raises and ``split`` is set, each view is tried alone."""
    try:
        additions = extractor(views)
    except BAD_ITEM as error:
        if split and len(views) > 1:
            return [_call(extractor, [view], split=False)[0] for view in views]
        return [error] * len(views)
    if len(additions) != len(views):
        raise TypeError(f"extractor {extractor.name!r} gave {len(additions)} results for {len(views)} views")
    return additions


def _validate(extractor: Extractor, addition: Mapping[str, Any]) -> None:
    sets = KINDS[extractor.kind].sets
    wrong = [name for name in addition if name not in sets]
    if wrong:
        raise TypeError(
            f"extractor {extractor.name!r} sets {wrong[0]}; those of the kind {extractor.kind!r} may set "
            f"{', '.join(sets)}"
        )


def _finish(views: Views | Exception) -> Cues | Scene | Exception:
    if isinstance(views, Exception):
        return views
    try:
        cues = [view.to_cues() for view in views]
        return cues[0] if len(cues) == 1 else Scene(cues)
    except BAD_ITEM as error:
        return error

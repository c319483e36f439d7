"""Choose among the self-attention layers of a model: what the argument `layers` of `boost` means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from spatialboost.boosting.find import Found, towers_in_question
from spatialboost.boosting.refuse import check_host
from spatialboost.errors import SpatialBoostError

Choice = int | slice | str | re.Pattern[str]
Layers = Choice | Sequence[Choice] | Callable[[str, nn.Module], bool] | None


def select(found: Sequence[Found], layers: Layers, root: nn.Module) -> list[Found]:
    """The layers that `layers` selects, in order.

    Raises:
        SpatialBoostError: It selects no layer, one that does not exist, or one that cannot be boosted.
    """
    known = [f for f in found if f.reason is None]
    if not known:
        raise SpatialBoostError(_nothing_found(found, root))
    if layers is None and (towers := towers_in_question(root, found)):
        listed = ", ".join(f"{name} ({number})" for name, number in towers.items())
        raise SpatialBoostError(
            f"{type(root).__name__} holds several encoders with self-attention layers: {listed}. Say which to boost: "
            f"layers={next(iter(towers))!r}, or layers={list(towers)!r}."
        )
    chosen = known if layers is None else _chosen(layers, known, found)
    for f in chosen:
        check_host(f.name, f.module, f.family)
    return chosen


def _chosen(layers: Layers, known: list[Found], found: Sequence[Found]) -> list[Found]:
    if callable(layers):
        chosen = [f for f in known if layers(f.name, f.module)]
        if not chosen:
            raise SpatialBoostError(
                f"`layers` selected none of {_names(known)}. It is called with the name and module of each and must "
                "return True for some."
            )
        return chosen
    several = isinstance(layers, Sequence) and not isinstance(layers, str)
    wanted: list[Any] = list(layers) if several else [layers]  # type: ignore[arg-type]
    if not wanted:
        raise SpatialBoostError(f"layers={layers!r} has no index; there are layers {_indices(known)}.")
    taken = {f.index for one in wanted for f in _asked_for(one, known, found, layers)}
    return [f for f in known if f.index in taken]


def _asked_for(one: Any, known: list[Found], found: Sequence[Found], layers: Layers) -> list[Found]:
    """The layers that one index, slice, name or pattern selects."""
    span = max(f.index for f in known) + 1
    if isinstance(one, int) and not isinstance(one, bool):
        index = one + span if one < 0 else one
        if not (chosen := [f for f in known if f.index == index]):
            raise SpatialBoostError(
                f"layers={layers!r}: block {index} has no self-attention layer; there are layers {_indices(known)}."
            )
        return chosen
    if isinstance(one, slice):
        inside = range(span)[one]
        if not (chosen := [f for f in known if f.index in inside]):
            raise SpatialBoostError(f"layers={layers!r} is empty; there are layers {_indices(known)}.")
        return chosen
    if isinstance(one, str | re.Pattern):
        if chosen := [f for f in known if _matches(one, f.name)]:
            return chosen
        passed = next((f for f in found if f.reason is not None and _matches(one, f.name)), None)
        why = f"{passed.name} is passed over: {passed.reason}" if passed else f"no name matches {one!r}"
        raise SpatialBoostError(f"layers={layers!r}: {why}; there are {_names(known)}.")
    raise SpatialBoostError(
        f"layers={layers!r}: {type(one).__name__} cannot choose layers; expected indices, a slice, names or "
        "patterns, or a predicate `(name, module) -> bool`."
    )


def _matches(pattern: str | re.Pattern[str], name: str) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def _names(known: list[Found]) -> str:
    return (
        f"the {len(known)} self-attention layers ({', '.join(f.name for f in known[:4])}{', ...' * (len(known) > 4)})"
    )


def _indices(known: list[Found]) -> list[int]:
    return sorted(f.index for f in known)


def _nothing_found(found: Sequence[Found], root: nn.Module) -> str:
    kinds = Counter(type(m).__name__ for m in root.modules() if m is not root and next(m.children(), None) is None)
    seen = "; ".join(f"{f.name} ({type(f.module).__name__}): {f.reason}" for f in found[:5])
    what = seen or f"its layers are {', '.join(f'{n} {k}' for k, n in kinds.most_common(6)) or 'none'}"
    return (
        f"no self-attention layer found in {type(root).__name__}: {what}. Expected a vision transformer of timm, "
        "transformers, torchvision or torch.hub, or modules whose class is named ...Attention and that map tokens to "
        "tokens."
    )

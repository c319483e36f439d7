"""The names of two objects in a question: names that do not contain the answer."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product

_SIDES = r"left|right|leftmost|rightmost|middle|cent(?:er|re)|corner|side"
_HEIGHTS = (
    r"top|bottom|upper|lower|uppermost|lowermost|topmost|above|below|beneath|under(?:neath)?|over|atop|high|low"
    r"|highest|lowest|hanging|floor|ceiling|ground|wall"
    r"|on (?:a|an|top|its|the(?! (?:left|right|far left|far right)\b))"  # it stands on something
)
_DEPTHS = r"near(?:by|er|est)?|clos(?:e|er|est)|far(?:ther|thest)?|front|behind|back|foreground|background|distant"
_SIZES = (
    r"small(?:er|est)?|large(?:r|st)?|big(?:ger|gest)?|tall(?:er|est)?|tiny|huge|little|long(?:er|est)?"
    r"|short(?:er|est)?|wide(?:r|st)?|narrow|flat|thin|thick|deep|slim|giant|mini(?:ature)?|massive|low|high"
)
# Words that decide a relation. A large object is easier to find at the bottom and in front, and one on the wall is
# high, far away, and not small.
_DECIDING = {
    "left_right": _SIDES,
    "above_below": f"{_HEIGHTS}|{_DEPTHS}|{_SIZES}",
    "front_behind": f"{_HEIGHTS}|{_DEPTHS}|{_SIZES}",
    "larger_smaller": f"{_HEIGHTS}|{_DEPTHS}|{_SIZES}",
}
_PATTERNS = {relation: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for relation, words in _DECIDING.items()}
# What a thing is called says nothing about which side it is on, but a lot about its height and size.
_NOUNS_DO_NOT_DECIDE = {"left_right"}
# Things that hang high or lie on the floor: beside another noun, they tell which one is above.
_KNOWN = (
    "window picture painting poster mirror clock curtain curtains blind blinds conditioner chandelier hood roof sky "
    "tree rug carpet mat floor ceiling slippers shoes"
)
_KNOWN_HEIGHTS = frozenset(_KNOWN.split())
_AFTER_NOUN = re.compile(r" (?:on|in|at|by|near|with|of|under|over|behind|beside|next|from|between|against|to|that) ")


@lru_cache(maxsize=1 << 16)
def choose_names(relation: str, a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, str, bool] | None:
    """Choose a name for each of two objects for a question about a relation.

    Example:
        >>> choose_names("above_below", ("red box on a box", "red object"), ("small blue ball", "blue object"))
        ('red object', 'blue object', True)
        >>> choose_names("above_below", ("chair",), ("table",)), choose_names("above_below", ("picture",), ("table",))
        (('chair', 'table', False), None)
        >>> choose_names("left_right", ("cup on the left",), ("plate",)) is None
        True

    Names with the same noun are preferred, and among these the shortest: every further word could tell something.

    Returns:
        Both names, and whether they say nothing about the answer: they have the same noun, or nouns do not matter. None
        if an object has only names that contain the answer, such as what hangs on walls for above and below.
    """
    usable = usable_names(relation, a), usable_names(relation, b)
    if not all(usable):
        return None
    pairs = sorted(product(*usable), key=lambda pair: len(pair[0].split()) + len(pair[1].split()))
    for first, second in pairs:
        if relation in _NOUNS_DO_NOT_DECIDE or noun_of(first) == noun_of(second):
            return first, second, True
    if relation == "above_below":
        pairs = [pair for pair in pairs if _KNOWN_HEIGHTS.isdisjoint(map(noun_of, pair))]
    return (*pairs[0], False) if pairs else None


@lru_cache(maxsize=4096)
def usable_names(relation: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names without words that decide the relation.

    Example:
        >>> usable_names("larger_smaller", ("large red box", "red box"))
        ('red box',)
    """
    return tuple(name for name in names if not _PATTERNS[relation].search(name))


@lru_cache(maxsize=4096)
def noun_of(name: str) -> str:
    """The noun of a description.

    Example:
        >>> noun_of("large grey chair on the left"), noun_of("man in a red shirt")
        ('chair', 'man')
    """
    words = _AFTER_NOUN.split(name.lower(), maxsplit=1)[0].split()
    return words[-1] if words else ""

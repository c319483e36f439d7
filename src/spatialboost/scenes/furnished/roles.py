"""How each kind of model is used: stands against a wall, around a table, hangs, lies on a table, stays outdoors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from spatialboost.scenes.furnished.catalogue import Catalogue, Piece
from spatialboost.scenes.furnished.naming import clean_name

# The first line whose pattern occurs in the name decides. Patterns are tried on the cleaned name.
_BY_NAME: tuple[tuple[str, str], ...] = (
    (r"elevator|escalator|staircase|garage|crossing|\barrow\b|parking|\brails?\b|swimming|diving|container", ""),
    (r"sidewalk|\bplug\b|switch|socket|railing|column|contemporary|emergency|smoke det|shower head|entry", ""),
    (r"shower door|number lock|garden faucet|corner cabinet|coathanger|clothes hanger|hose reel|child hut", ""),
    (r"chimney|window shutter|window blind|curtain|hanging clothes|screen door|water heater|swing|hammock$", ""),
    (r"^hood$|range hood|furnace|sitting|lying", ""),
    (r"goal|fountain|jacuzzi|trampoline|gazebo|garden hut|rowboat|camping tent|sandpit|fork lift", "large outdoors"),
    (r"radiator|air conditioner", "wall"),
    (r"\brug\b|carpet|bathmat|tatami|doormat", "rug"),
    (r"bedside|nightstand", "bedside"),
    (r"\bbed\b|\bcrib\b|mattress|^futon$", "bed"),
    (r"pool lounge|sun lounger|deck chair|beach chair|snowman|stone lantern|mailbox|cafe|barrow", "garden"),
    (r"painted bench|concrete bench|^bench$|rattan|garden chair|\brock\b|flower box|plant box", "garden"),
    (r"hydrant|seesaw|climbing frame|letter box|street|lamppost|park light|^fence$|dog house|mower", "garden"),
    (r"umbrella$|folding chair", "garden"),
    (r"coconut|palm|\bpine|maple|cypress|poplar|acacia|beech|peach|hedge|^bush$|sycamore", "tree"),
    (r"armchair|ottoman|pouf", "armchair"),
    (r"sofa|couch", "sofa"),
    (r"wheelchair|high chair|floor chair|table fan|desk fan|desk lamp|table lamp", "other"),
    (r"table tennis|table football|pool table", "other"),
    (r"coffee table|tea table", "low table"),
    (r"changing table|dressing table", "storage"),
    (r"\bdesk\b|technical table|workbench", "desk"),
    (r"\btable\b|^island$", "table"),
    (r"\bchair\b|\bstool\b|\bseat\b|piano bench", "chair"),
    (r"lower cabinet|drawer cabinet|sink|stove$|fridge|washing machine|tumble dryer|freezer", "kitchen"),
    (r"^oven|double oven|high cabinet|dishwasher", "kitchen"),
    (r"bath$|bathtub|shower stall|^toilet$|washbasin|bidet|urinal|vanity", "bathroom"),
    (r"wardrobe|cupboard|bookcase|\bshelf\b|dresser|cabinet|\bchest\b|tv stand|clothes rack|^safe$", "storage"),
    (r"locker|piano$|fireplace", "storage"),
    (r"ceiling|chandelier|hanging light|pendant|fluorescent|track light", "ceiling"),
    (r"plant|ficus|yucca|cactus|flower|tulip|lily|orchid|bonsai|spathiphyllum|succulent|christmas tree", "plant"),
)
_CLUTTER = (0.55, 0.62)  # metres: largest width or depth, and largest height, of what stands on tables
_THINNEST = 0.012  # metres: a thing that is flatter cannot be seen well
_LARGEST_INDOORS = 2.9  # metres


@dataclass(frozen=True)
class Use:
    """How one piece is used."""

    piece: Piece  # the piece
    noun: str  # what people call it
    role: str  # what it is used for; one of the roles that `rooms` and `gardens` place


def sort_uses(catalogue: Catalogue) -> dict[str, tuple[Use, ...]]:
    """All pieces by their role. Pieces that nobody would expect in a room or garden (plugs, rails) have none.

    Example:
        >>> sort_uses(Catalogue((), {}, ""))
        {}
    """
    uses: dict[str, list[Use]] = {}
    for piece in catalogue.pieces:
        noun = clean_name(piece.name)
        role = find_role(piece, noun)
        if role in ("window", "door"):
            noun = role
        if role:
            uses.setdefault(role, []).append(Use(piece, noun, role))
    return {role: tuple(members) for role, members in uses.items()}


def find_role(piece: Piece, noun: str) -> str:
    """The role of a piece; empty if it is not used."""
    words = noun.lower()
    role = next((role for pattern, role in _BY_NAME if re.search(pattern, words)), None)
    if role == "":
        return ""
    width, height, depth = piece.size or (0.5, 0.5, 0.5)
    if piece.opening:
        return "window" if "window" in words else "door"
    category = piece.category.lower()
    if category == "characters":
        return "person" if re.search(r"man\b|boy|girl|male|person", words) else "animal"
    if category == "vehicles":
        return "vehicle" if max(width, depth) < 7.0 else ""
    if role == "large outdoors":
        return role
    if role == "tree" or (role == "plant" and height > 2.1):
        return "tree" if height > 0.9 else "plant"
    if role == "garden" or (category == "exterior" and max(width, depth) > 0.25):
        return "garden" if piece.elevation == 0 else ""
    if piece.elevation + height > 2.3 and (category == "lights" or "ceiling" in words or "hanging" in words):
        return "ceiling"
    if role == "wall" or piece.elevation > 0.3:
        return "wall" if depth <= 0.55 and height > 0.12 and max(width, height) < 2.5 else ""
    if role == "table" and height < 0.62:
        return "low table"
    if role == "plant":
        return "plant" if max(width, depth, height) > 0.7 else "clutter"
    if role in ("rug", "bed", "sofa", "armchair", "desk", "table", "low table", "chair", "kitchen", "bathroom"):
        return role if max(width, depth) < 4.0 else ""
    if role in ("storage", "bedside", "ceiling"):
        return role if max(width, depth) > 0.25 or height > 0.5 else "clutter"
    if max(width, depth) <= _CLUTTER[0] and height <= _CLUTTER[1]:
        return "clutter" if sorted((width, height, depth))[1] > 0.05 and height > _THINNEST else ""
    return "floor" if max(width, depth) <= _LARGEST_INDOORS and height > 0.1 else ""


def by_category(uses: Sequence[Use], categories: Sequence[str]) -> tuple[Use, ...]:
    """Those whose category is one of these; all of them if none is."""
    chosen = tuple(use for use in uses if use.piece.category.lower() in categories)
    return chosen or tuple(uses)

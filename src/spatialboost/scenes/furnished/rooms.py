"""Sample a furnished room from a seed: its size, what stands in it, its windows, lights and cameras."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from spatialboost.scenes.furnished.library import Library
from spatialboost.scenes.furnished.patterns import FLOORS, WALLS, sample_surface
from spatialboost.scenes.furnished.place import Footprint, Lamp, Opening, Place, Thing
from spatialboost.scenes.furnished.placing import WALLS as SIDES
from spatialboost.scenes.furnished.placing import Plan
from spatialboost.scenes.furnished.roles import by_category
from spatialboost.scenes.furnished.viewing import sample_cameras

# What each kind of room needs at least one of, its weight, and its range of widths and depths in metres
_KINDS: dict[str, tuple[str, float, tuple[float, float], tuple[float, float]]] = {
    "living room": ("sofa", 3.0, (3.6, 6.2), (3.8, 6.8)),
    "bedroom": ("bed", 2.0, (3.2, 5.0), (3.4, 5.4)),
    "dining room": ("chair", 1.5, (3.2, 5.2), (3.6, 5.8)),
    "kitchen": ("kitchen", 1.5, (3.2, 5.0), (3.4, 5.6)),
    "office": ("desk", 1.5, (3.4, 6.0), (3.6, 6.5)),
    "bathroom": ("bathroom", 0.7, (2.8, 4.0), (3.0, 4.6)),
    "hobby room": ("floor", 0.9, (3.8, 6.2), (4.2, 7.0)),
}
# Whose small things lie about in each kind of room
_CLUTTER_OF = {
    "living room": ("living room", "miscellaneous", "lights", "kitchen"),
    "bedroom": ("bedroom", "lights", "miscellaneous", "bathroom"),
    "dining room": ("kitchen", "living room"),
    "kitchen": ("kitchen",),
    "office": ("office", "lights", "miscellaneous"),
    "bathroom": ("bathroom",),
}
_SUPPORTS = ("table", "low table", "desk", "bedside", "storage", "kitchen", "other table", "chair")
# What lies on floors, of the small things
_ON_FLOORS = r"ball|basket|bag|bear|box|bin$|toy|shoes|sneakers|slippers|helmet|gift|drum|locker|briefcase|thing"
_LAMPS = 2  # the strongest; each costs time
_SURFACES_FOR_MUCH = ("table", "desk", "storage", "kitchen")


def sample_room(seed: int, library: Library, views: int) -> Place:
    """Sample the full description of the room of a seed, without rendering it."""
    rng = np.random.default_rng([seed, 0xF0])
    kind, (width, depth) = _sample_kind(rng, library)
    size = (width, float(rng.uniform(2.45, 2.95)), depth)
    plan = Plan(library, rng, size)
    _open_walls(plan)
    _FURNISH.get(kind, _furnish_anything)(plan)
    _add_usual(plan)
    lamps = _hang_lamps(plan)
    _clutter(plan, kind)
    wall = sample_surface(rng, WALLS)
    other = sample_surface(rng, WALLS) if rng.random() < 0.3 else wall
    sides = [wall, wall, sample_surface(rng, ("plaster", "paint")), sample_surface(rng, FLOORS), wall, wall]
    sides[int(rng.choice([0, 1, 5]))] = other
    daylight = float(rng.uniform(0.7, 1.0))
    place = Place(
        seed=seed,
        kind=kind,
        size=size,
        surfaces=tuple(sides),
        things=tuple(plan.things),
        openings=tuple(plan.openings),
        lamps=lamps,
        ambient=float(rng.uniform(0.30, 0.46)),
        sky=((0.55 * daylight, 0.75 * daylight, daylight), (0.95 * daylight, 0.97 * daylight, daylight)),
        noise=float(rng.uniform(0.0, 0.015)),
        fov=float(rng.uniform(52.0, 80.0)),
    )
    return sample_cameras(place, rng, views)


def _sample_kind(rng: np.random.Generator, library: Library) -> tuple[str, tuple[float, float]]:
    """A kind of room for which there are models, and its width and depth."""
    possible = [kind for kind, (role, *_) in _KINDS.items() if role in library.uses]
    if not possible:
        return "room", (float(rng.uniform(3.2, 5.0)), float(rng.uniform(3.4, 5.5)))
    weights = np.array([_KINDS[kind][1] for kind in possible])
    kind = possible[int(rng.choice(len(possible), p=weights / weights.sum()))]
    _, _, wide, deep = _KINDS[kind]
    return kind, (float(rng.uniform(*wide)), float(rng.uniform(*deep)))


def _open_walls(plan: Plan) -> None:
    """Windows and a door, each in a hole of its wall. Nothing tall will stand in front of them."""
    rng = plan.rng
    sides = [int(side) for side in rng.permutation(list(SIDES))]
    for role, side in (("window", sides[0]), ("door", sides[1]), ("window", sides[2])):
        found = plan.library.pick(rng, role)
        if found is None or (role == "window" and side == sides[2] and rng.random() < 0.5):
            continue
        use, mesh = found
        width, height, depth = mesh.size
        low = use.piece.elevation if role == "window" else 0.0
        free = (plan.size[0] if side in (4, 5) else plan.size[2]) / 2 - width / 2 - 0.1
        if free < 0 or low + height > plan.size[1] - 0.05:
            continue
        along = float(rng.uniform(-free, free))
        x, z = plan.at_wall(side, along, 0.04 - depth / 2)  # most of it is inside of the wall
        plan.add(Thing(use, mesh, (x, -low, z), SIDES[side]))
        # A little smaller than the frame, so that no light comes through beside it
        plan.openings.append(
            Opening(
                side,
                (along - width / 2 + 0.01, along + width / 2 - 0.01),
                (max(low + 0.01, 0.0) if low else 0.0, low + height - 0.01),
            )
        )
        clear = 0.8 if role == "door" else 0.25
        x, z = plan.at_wall(side, along, clear / 2)
        plan.keep_free(Footprint(x, z, width / 2, clear / 2, SIDES[side], max(0.0, low - 0.05), low + height))


def _furnish_living_room(plan: Plan) -> None:
    rng, pick = plan.rng, plan.library.pick
    sofa = plan.against_wall(pick(rng, "sofa"), gap=float(rng.choice([0.03, 0.1])))
    if sofa is not None:
        thing = plan.things[sofa]
        table = plan.beside(pick(rng, "low table"), sofa, "front", rng.uniform(0.35, 0.6), rng.uniform(-0.2, 0.2))
        if rng.random() < 0.6 and table is not None:
            x, _, z = plan.things[table].position
            plan.lay_rug(pick(rng, "rug"), x, z, thing.yaw + float(rng.choice([0.0, np.pi / 2])))
        plan.beside(pick(rng, "storage" if rng.random() < 0.4 else "floor"), sofa, "left", 0.1)
        if rng.random() < 0.6:
            plan.beside(pick(rng, "armchair"), sofa, "front", rng.uniform(1.2, 1.9), rng.uniform(-0.6, 0.6))
    for _ in range(int(rng.integers(1, 4))):
        plan.against_wall(pick(rng, "storage"))
    if rng.random() < 0.5:
        plan.against_wall(pick(rng, "armchair"), gap=0.2)
    if rng.random() < 0.45:
        _dining_group(plan)
    if rng.random() < 0.3:
        plan.against_wall(pick(rng, "sofa"))


def _furnish_bedroom(plan: Plan) -> None:
    rng, pick = plan.rng, plan.library.pick
    bed = plan.against_wall(pick(rng, "bed"))
    if bed is not None:
        bedside = pick(rng, "bedside")
        for side in ("left", "right"):
            if rng.random() < 0.75:
                plan.beside(bedside, bed, side, 0.05)
        if rng.random() < 0.6:
            x, _, z = plan.things[bed].position
            shift = rng.uniform(-0.8, 0.8, 2)
            plan.lay_rug(pick(rng, "rug"), x + shift[0], z + shift[1], plan.things[bed].yaw)
    for _ in range(int(rng.integers(1, 3))):
        plan.against_wall(pick(rng, "storage"))
    if rng.random() < 0.45:
        _desk_group(plan)
    if rng.random() < 0.4:
        plan.against_wall(pick(rng, "armchair"), gap=0.15)


def _furnish_dining_room(plan: Plan) -> None:
    rng, pick = plan.rng, plan.library.pick
    _dining_group(plan, in_middle=True)
    for _ in range(int(rng.integers(1, 4))):
        plan.against_wall(pick(rng, "storage"))
    if rng.random() < 0.4:
        plan.against_wall(pick(rng, "sofa"))


def _furnish_kitchen(plan: Plan) -> None:
    """Cabinets side by side along one wall, with no gaps, and a table."""
    rng, library = plan.rng, plan.library
    side = int(rng.choice(list(SIDES)))
    length = plan.size[0] if side in (4, 5) else plan.size[2]
    along = -length / 2 + float(rng.uniform(0.02, 0.3))
    for _ in range(12):
        found = library.pick(rng, "kitchen")
        if found is None or along + found[1].size[0] > length / 2:
            continue
        width, _, depth = found[1].size
        x, z = plan.at_wall(side, along + width / 2, depth / 2 + 0.02)
        plan.stand(found, x, z, SIDES[side], margin=-0.002)
        along += width + 0.005
    for _ in range(int(rng.integers(0, 3))):
        plan.against_wall(library.pick(rng, "kitchen"))
    _dining_group(plan)


def _furnish_office(plan: Plan) -> None:
    rng, pick = plan.rng, plan.library.pick
    for _ in range(int(rng.integers(1, 4))):
        _desk_group(plan)
    for _ in range(int(rng.integers(1, 4))):
        plan.against_wall(pick(rng, "storage"))
    if rng.random() < 0.3:
        _dining_group(plan)


def _furnish_bathroom(plan: Plan) -> None:
    rng, pick = plan.rng, plan.library.pick
    for _ in range(int(rng.integers(3, 6))):
        plan.against_wall(pick(rng, "bathroom"))
    plan.lay_rug(pick(rng, "rug"), float(rng.uniform(-0.6, 0.6)), float(rng.uniform(-0.6, 0.6)), 0.0)


def _furnish_anything(plan: Plan) -> None:
    """A hobby room, or a room of a small catalogue: everything that there is."""
    rng, library = plan.rng, plan.library
    for role in [role for role in library.uses if role in (*_SUPPORTS, "sofa", "armchair", "bed", "bathroom")]:
        if rng.random() < (0.25 if len(library.uses) > 12 else 0.8):
            plan.against_wall(library.pick(rng, role))
    for _ in range(int(rng.integers(3, 7))):
        plan.anywhere(library.pick(rng, "floor"))


_FURNISH: dict[str, Callable[[Plan], None]] = {
    "living room": _furnish_living_room,
    "bedroom": _furnish_bedroom,
    "dining room": _furnish_dining_room,
    "kitchen": _furnish_kitchen,
    "office": _furnish_office,
    "bathroom": _furnish_bathroom,
}


def _dining_group(plan: Plan, in_middle: bool = False) -> None:
    rng, pick = plan.rng, plan.library.pick
    found = pick(rng, "table")
    yaw = float(rng.choice([0.0, np.pi / 2]))
    table = None
    if in_middle:
        x, z = rng.uniform(-0.12, 0.12, 2) * (plan.size[0], plan.size[2])
        table = plan.stand(found, x, z, yaw, margin=0.4)
    if table is None:
        table = plan.anywhere(found, margin=0.45, yaw=yaw)
    if table is None:
        return
    plan.chairs(pick(rng, "chair"), table, int(rng.integers(2, 7)))
    if rng.random() < 0.3:
        x, _, z = plan.things[table].position
        plan.lay_rug(pick(rng, "rug"), x, z, yaw)


def _desk_group(plan: Plan) -> None:
    rng, library = plan.rng, plan.library
    desk = plan.against_wall(library.pick(rng, "desk"))
    if desk is not None:
        chairs = library.uses.get("chair", ())
        found = library.pick(rng, "chair", among=by_category(chairs, ("office",)) if rng.random() < 0.7 else chairs)
        plan.beside(found, desk, "front", float(rng.uniform(0.03, 0.2)), float(rng.uniform(-0.2, 0.2)))


def _add_usual(plan: Plan) -> None:
    """What any room may have: plants, lamps, things on walls and on the floor, people and animals."""
    rng, pick = plan.rng, plan.library.pick
    for role, most, likely in (
        ("wall", 3, 0.75),
        ("plant", 2, 0.6),
        ("floor", 3, 0.7),
        ("person", 1, 0.15),
        ("animal", 1, 0.15),
    ):
        if rng.random() > likely:
            continue
        for _ in range(int(rng.integers(1, most + 1))):
            found = pick(rng, role)
            if role in ("wall", "plant") or (role == "floor" and rng.random() < 0.5):
                plan.against_wall(found, gap=0.004 if role == "wall" else 0.06)
            elif found is not None and not (role == "animal" and found[1].size[1] > 1.2):
                plan.anywhere(found)
    toys = [use for use in plan.library.uses.get("clutter", ()) if re.search(_ON_FLOORS, use.noun)]
    if rng.random() < 0.5:
        plan.anywhere(pick(rng, "clutter", among=toys))


def _hang_lamps(plan: Plan) -> tuple[Lamp, ...]:
    """One or two lamps at the ceiling, and the daylight of each window."""
    rng = plan.rng
    width, height, depth = plan.size
    lamps = []
    count = 2 if depth > 5.0 and rng.random() < 0.6 else 1
    found = plan.library.pick(rng, "ceiling")
    for k in range(count):
        x = float(rng.uniform(-0.15, 0.15)) * width
        z = float(rng.uniform(-0.12, 0.12)) * depth + (k - (count - 1) / 2) * depth * 0.45
        drop = 0.0
        if found is not None and found[1].size[1] < height - 2.0:
            use, mesh = found
            drop = min(mesh.size[1], 0.5)
            plan.add(Thing(use, mesh, (x, mesh.size[1] - height, z), 0.0))
        warm = float(rng.uniform(-0.02, 0.16))
        strength = float(rng.uniform(1.5, 2.1)) / count
        # Beside the lamp itself, which would throw its shadow on everything
        lamps.append(
            Lamp(
                (x, -height + drop + 0.06, z),
                (0.25, 0.02, 0.25),
                (strength * (1 + warm), strength, strength * (1 - warm)),
            )
        )
    daylight = float(rng.uniform(0.3, 2.0))
    for opening in plan.openings:
        low, high = opening.heights
        if low > 0.3 or high - low > 2.1:  # a window
            middle, half = sum(opening.along) / 2, (opening.along[1] - opening.along[0]) / 2
            x, z = plan.at_wall(opening.side, middle, 0.12)
            spread = (half, (high - low) / 2, 0.0) if opening.side in (4, 5) else (0.0, (high - low) / 2, half)
            strength = daylight * min(1.0, half * (high - low))
            lamps.append(Lamp((x, -(low + high) / 2, z), spread, (0.9 * strength, 0.97 * strength, 1.08 * strength)))
    return tuple(sorted(lamps, key=lambda lamp: -sum(lamp.colour))[:_LAMPS])


def _clutter(plan: Plan, kind: str) -> None:
    """Small things on tables, desks and shelves."""
    rng, library = plan.rng, plan.library
    uses = by_category(library.uses.get("clutter", ()), _CLUTTER_OF.get(kind, ()))
    taken: dict[tuple[int, int], list] = {}
    for number, thing in enumerate(list(plan.things)):
        role = thing.use.role
        if role not in _SUPPORTS or (role == "chair" and rng.random() < 0.85):
            continue
        most = 5 if role in _SURFACES_FOR_MUCH else 3
        for _ in range(int(rng.integers(0, most + 1)) if role != "chair" else 1):
            plan.put_on(library.pick(rng, "clutter", among=uses), number, taken)

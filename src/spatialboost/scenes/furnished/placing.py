"""Find free places for things: against walls, around a table, anywhere on the floor, on top of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialboost.scenes.furnished.library import Library
from spatialboost.scenes.furnished.meshes import Mesh
from spatialboost.scenes.furnished.place import Footprint, Opening, Thing
from spatialboost.scenes.furnished.roles import Use

# Walls as in `rooms`: number -> yaw of a thing whose back is at the wall
WALLS = {0: -np.pi / 2, 1: np.pi / 2, 4: np.pi, 5: 0.0}
_TRIES = 14
_GAP = 0.015  # metres, between things, and between a thing and a wall
_RUG = 0.006  # metres: rugs are pressed to this height, so that what stands on them stands on the floor

Found = tuple[Use, Mesh]


class Plan:
    """The floor plan of a place: what stands where, so far."""

    def __init__(self, library: Library, rng: np.random.Generator, size: tuple[float, float, float]) -> None:
        self.library, self.rng, self.size = library, rng, size
        self.things: list[Thing] = []
        self.openings: list[Opening] = []
        self._taken: list[Footprint] = []

    def fits(self, footprint: Footprint) -> bool:
        """Whether a thing would be inside the room and outside of all other things."""
        x, z = footprint.reach
        width, height, depth = self.size
        if x > width / 2 + 1e-6 or z > depth / 2 + 1e-6 or footprint.high > height + 1e-6:
            return False
        return not any(footprint.overlaps(other) for other in self._taken)

    def add(self, thing: Thing) -> int:
        """Add a thing without a check; returns its number."""
        self.things.append(thing)
        if thing.use.role not in ("rug", "window", "door"):
            self._taken.append(thing.footprint(_GAP))
        return len(self.things) - 1

    def keep_free(self, footprint: Footprint) -> None:
        """Nothing will be placed here."""
        self._taken.append(footprint)

    def stand(self, found: Found | None, x: float, z: float, yaw: float, margin: float = _GAP) -> int | None:
        """Put a thing on the floor here if it fits; returns its number or None."""
        if found is None:
            return None
        use, mesh = found
        height = use.piece.elevation if use.role == "wall" else 0.0
        thing = Thing(use, mesh, (float(x), -float(height), float(z)), float(yaw))
        return self.add(thing) if self.fits(thing.footprint(margin)) else None

    def against_wall(self, found: Found | None, sides: Sequence[int] = tuple(WALLS), gap: float = 0.02) -> int | None:
        """Put a thing with its back to a wall, at a random free place; returns its number or None."""
        if found is None:
            return None
        width, _, depth = found[1].size
        for _ in range(_TRIES):
            side = sides[int(self.rng.integers(len(sides)))]
            room = (self.size[0] if side in (4, 5) else self.size[2]) / 2 - width / 2 - 0.03
            if room < 0:
                continue
            # Corners are popular
            along = self.rng.uniform(-room, room) if self.rng.random() < 0.7 else room * self.rng.choice([-1.0, 1.0])
            x, z = self.at_wall(side, along, depth / 2 + gap)
            number = self.stand(found, x, z, WALLS[side], margin=0.0)
            if number is not None:
                return number
        return None

    def at_wall(self, side: int, along: float, away: float) -> tuple[float, float]:
        """x and z of a point this far along and away from a wall."""
        if side in (4, 5):
            return along, (self.size[2] / 2 - away) * (1 if side == 5 else -1)
        return (self.size[0] / 2 - away) * (1 if side == 1 else -1), along

    def anywhere(self, found: Found | None, *, margin: float = 0.05, yaw: float | None = None) -> int | None:
        """Put a thing at a random free place; returns its number or None."""
        if found is None:
            return None
        for _ in range(_TRIES):
            x, z = self.rng.uniform(-0.5, 0.5, 2) * (self.size[0], self.size[2])
            turn = self.rng.uniform(-np.pi, np.pi) if yaw is None else yaw
            number = self.stand(found, x, z, turn, margin)
            if number is not None:
                return number
        return None

    def beside(self, found: Found | None, other: int, direction: str, gap: float, shift: float = 0.0) -> int | None:
        """Put a thing next to another one: at its ``"left"``, ``"right"``, ``"front"`` or ``"back"``.

        The side is as someone in front of the other thing sees it. Metres between the two, and along that side.
        """
        if found is None:
            return None
        thing = self.things[other]
        width, _, depth = found[1].size
        wide, _, deep = thing.size
        if direction in ("left", "right"):
            sign = -1.0 if direction == "left" else 1.0
            # At the side of a bed or sofa, and with its back in line with the back of the other thing
            local, turn = (sign * (wide / 2 + gap + width / 2), (deep - depth) / 2 + shift), 0.0
        else:
            sign = -1.0 if direction == "front" else 1.0
            local, turn = (shift, sign * (deep / 2 + gap + depth / 2)), np.pi if direction == "front" else 0.0
        x, z = to_world(thing, *local)
        return self.stand(found, x, z, thing.yaw + turn)

    def chairs(self, found: Found | None, table: int, most: int) -> list[int]:
        """Put equal chairs around a table, their fronts to it."""
        if found is None:
            return []
        thing = self.things[table]
        wide, _, deep = thing.size
        width, _, depth = found[1].size
        each = max(1, int(wide / (width + 0.12)))
        seats = [(side, (k + 0.5) / each - 0.5) for side in ("front", "back") for k in range(each)]
        seats += [(side, 0.0) for side in ("end", "other end")] if deep > width + 0.1 else []
        placed = []
        for chosen in self.rng.permutation(len(seats))[: max(1, most)]:
            side, share = seats[int(chosen)]
            gap = self.rng.uniform(0.02, 0.14) if self.rng.random() < 0.8 else self.rng.uniform(0.2, 0.4)
            if side in ("front", "back"):
                sign = -1.0 if side == "front" else 1.0
                x, z = to_world(thing, share * wide, sign * (deep / 2 + gap + depth / 2))
                yaw = thing.yaw + (np.pi if side == "front" else 0.0)
            else:
                sign = -1.0 if side == "end" else 1.0
                x, z = to_world(thing, sign * (wide / 2 + gap + depth / 2), 0.0)
                yaw = thing.yaw + sign * np.pi / 2
            turn = float(self.rng.normal(0.0, 0.08))
            number = self.stand(found, x, z, yaw + turn, margin=0.005)
            if number is not None:
                placed.append(number)
        return placed

    def lay_rug(self, found: Found | None, x: float, z: float, yaw: float) -> None:
        """Lay a rug on the floor; furniture may stand on it."""
        if found is None:
            return
        use, mesh = found
        rug = Thing(use, mesh, (float(x), 0.0, float(z)), float(yaw), flat=min(1.0, _RUG / max(mesh.size[1], 1e-6)))
        outline = rug.footprint()
        if outline.reach[0] > self.size[0] / 2 or outline.reach[1] > self.size[2] / 2:
            return
        if not any(other.use.role == "rug" and other.footprint().overlaps(outline) for other in self.things):
            self.things.append(rug)

    def put_on(self, found: Found | None, below: int, taken: dict[tuple[int, int], list]) -> int | None:
        """Put a small thing on a free part of a surface of another thing; returns its number or None.

        ``taken`` has what stands on each surface (number of a thing, number of a surface); it is extended.
        """
        if found is None:
            return None
        use, mesh = found
        width, height, depth = mesh.size
        thing = self.things[below]
        tops = [(k, top) for k, top in enumerate(self.library.tops(thing.use)) if top.clearance > height + 0.02]
        if not tops:
            return None
        number, top = tops[int(self.rng.integers(min(len(tops), 5)))]
        turn = float(self.rng.normal(0.0, 0.35))
        there = taken.setdefault((below, number), [])
        spot = top.place(self.rng, (width / 2, depth / 2), turn, there)
        if spot is None:
            return None
        there.append((*spot, float(np.hypot(width, depth)) / 2))
        x, z = to_world(thing, *spot)
        position = (x, thing.position[1] - top.height, z)
        self.things.append(Thing(use, mesh, position, thing.yaw + turn, on=below))
        return len(self.things) - 1


def to_world(thing: Thing, x: float, z: float) -> tuple[float, float]:
    """x and z in the world of a point in a thing's own frame."""
    cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
    return float(thing.position[0] + cos * x + sin * z), float(thing.position[2] - sin * x + cos * z)

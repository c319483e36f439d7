"""Sample a place outdoors from a seed: ground, sky, sun, trees, garden furniture, vehicles, people."""

from __future__ import annotations

import numpy as np

from spatialboost.scenes.furnished.library import Library
from spatialboost.scenes.furnished.patterns import GROUNDS, sample_surface
from spatialboost.scenes.furnished.place import Lamp, Place
from spatialboost.scenes.furnished.placing import Plan
from spatialboost.scenes.furnished.viewing import sample_cameras

ROLES = ("garden", "tree", "vehicle", "large outdoors")
GROUND = 60.0  # metres: half the side of the ground
_HEIGHT = 30.0  # metres: no thing is higher


def sample_garden(seed: int, library: Library, views: int) -> Place:
    """Sample the full description of the garden or street of a seed, without rendering it."""
    rng = np.random.default_rng([seed, 0x6A])
    kind = "street" if rng.random() < 0.4 and "vehicle" in library.uses else "garden"
    side = float(rng.uniform(7.0, 11.0) if kind == "garden" else rng.uniform(11.0, 16.0))
    plan = Plan(library, rng, (side, _HEIGHT, side * float(rng.uniform(0.8, 1.3))))
    names = GROUNDS if kind == "garden" else ("asphalt", "paving", "gravel")
    if kind == "garden":
        _furnish_garden(plan)
    else:
        _furnish_street(plan)
    for _ in range(int(rng.integers(0, 3))):
        plan.anywhere(library.pick(rng, "person"))
    if rng.random() < 0.35:
        plan.anywhere(library.pick(rng, "animal"))
    _plant_around(plan)
    height, turn = np.radians(rng.uniform(28.0, 65.0)), rng.uniform(-np.pi, np.pi)
    sun = (float(np.cos(height) * np.cos(turn)), float(-np.sin(height)), float(np.cos(height) * np.sin(turn)))
    cloudy = float(rng.uniform(0.0, 1.0))
    strength = 2.2 - 1.5 * cloudy
    grey = 0.55 + 0.25 * cloudy
    place = Place(
        seed=seed,
        kind=kind,
        size=plan.size,
        surfaces=(sample_surface(rng, names),),
        things=tuple(plan.things),
        openings=(),
        lamps=(
            Lamp(sun, (0.02 + 0.3 * cloudy,) * 3, (strength * 1.05, strength, strength * (0.9 + 0.1 * cloudy)), True),
        ),
        ambient=0.5 + 0.25 * cloudy,
        sky=((0.22 + 0.5 * cloudy, grey * 0.75 + 0.1, 0.95 - 0.1 * cloudy), (0.85, 0.9, 0.95)),
        noise=float(rng.uniform(0.0, 0.012)),
        fov=float(rng.uniform(52.0, 78.0)),
    )
    return sample_cameras(place, rng, views)


def _furnish_garden(plan: Plan) -> None:
    rng, pick = plan.rng, plan.library.pick
    tables = [use for use in plan.library.uses.get("garden", ()) if "table" in use.noun]
    chairs = [use for use in plan.library.uses.get("garden", ()) if "chair" in use.noun and "deck" not in use.noun]
    if tables and rng.random() < 0.6:
        table = plan.anywhere(pick(rng, "garden", among=tables), margin=0.6)
        if table is not None:
            plan.chairs(pick(rng, "garden", among=chairs), table, int(rng.integers(2, 5)))
    for _ in range(int(rng.integers(5, 10))):
        plan.anywhere(pick(rng, "garden"), margin=0.15)
    if rng.random() < 0.35:
        plan.anywhere(pick(rng, "large outdoors"), margin=0.3)
    if rng.random() < 0.3:
        plan.anywhere(pick(rng, "vehicle"), margin=0.3)


def _furnish_street(plan: Plan) -> None:
    rng, pick = plan.rng, plan.library.pick
    yaw = float(rng.choice([0.0, np.pi / 2, np.pi]))
    for _ in range(int(rng.integers(2, 6))):
        plan.anywhere(pick(rng, "vehicle"), margin=0.3, yaw=yaw + float(rng.normal(0.0, 0.15)))
    for _ in range(int(rng.integers(2, 6))):
        plan.anywhere(pick(rng, "garden"), margin=0.2)


def _plant_around(plan: Plan) -> None:
    """Trees and hedges: some among the things, most at the border."""
    rng, pick = plan.rng, plan.library.pick
    for _ in range(int(rng.integers(2, 5))):
        found = pick(rng, "tree")
        if found is not None and max(found[1].size) < 7.0:
            plan.anywhere(found, margin=0.1)
    inner, plan.size = plan.size, (plan.size[0] * 3.0, plan.size[1], plan.size[2] * 3.0)
    for _ in range(int(rng.integers(6, 14))):
        found = pick(rng, "tree")
        angle = rng.uniform(-np.pi, np.pi)
        away = rng.uniform(1.05, 1.8) * np.hypot(inner[0], inner[2]) / 2
        if found is not None:
            plan.stand(found, away * np.cos(angle), away * np.sin(angle), rng.uniform(-np.pi, np.pi))
    plan.size = inner

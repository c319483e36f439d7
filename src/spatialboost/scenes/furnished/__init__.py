"""Rooms and gardens with models of real furniture, with exact geometry.

Open `source` first: `Furnished` is the source that a build reads. `catalogue` lists the models of `.sh3f` files or of a
folder; `meshes` loads one model and brings it to its true size, `compact` removes faces that nobody can see. `roles`
says how each kind of model is used, `naming` and `describing` how it is called. `rooms` and `gardens` choose models for
a place, `placing` finds free places on floors and walls, `tops` on tables and shelves; `place` has the classes.
`tracing` casts the rays, `light` computes the colours, `patterns` makes the textures of walls and floors.
"""

from spatialboost.scenes.furnished.source import Furnished

__all__ = ["Furnished"]

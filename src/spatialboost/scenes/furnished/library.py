"""Models by their role, loaded when they are first needed and then kept in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.furnished.catalogue import Catalogue
from spatialboost.scenes.furnished.meshes import Mesh, load_mesh
from spatialboost.scenes.furnished.roles import Use, sort_uses
from spatialboost.scenes.furnished.tops import Top, find_tops

_TRIES = 6


class Library:
    """The models of a catalogue, by role.

    Raises:
        SpatialBoostError: no model has a role.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.uses = sort_uses(catalogue)  # role -> the pieces with this role
        self.problems: dict[str, str] = {}  # file of each model that could not be loaded -> reason
        self._meshes: dict[tuple, Mesh | None] = {}
        self._tops: dict[tuple, tuple[Top, ...]] = {}
        if not self.uses:
            raise SpatialBoostError(
                f"none of the {len(catalogue.pieces)} models of the catalogue is furniture or another thing of a room; "
                "give them names such as chair, table, lamp, and their sizes in centimetres"
            )

    def mesh(self, use: Use) -> Mesh | None:
        """The model of a piece; None if it cannot be loaded, and then ``problems`` says why."""
        key = _key(use)
        if key not in self._meshes:
            try:
                self._meshes[key] = load_mesh(use.piece)
            except CuesError as error:
                self._meshes[key], self.problems[use.piece.file] = None, str(error)
        return self._meshes[key]

    def tops(self, use: Use) -> tuple[Top, ...]:
        """Where things can stand on a piece."""
        key = _key(use)
        if key not in self._tops:
            mesh = self.mesh(use)
            self._tops[key] = () if mesh is None else find_tops(mesh)
        return self._tops[key]

    def pick(
        self, rng: np.random.Generator, role: str, *, among: Sequence[Use] | None = None
    ) -> tuple[Use, Mesh] | None:
        """A piece with this role and its mesh; None if there is none that can be loaded."""
        uses = self.uses.get(role, ()) if among is None else among
        for _ in range(_TRIES if uses else 0):
            use = uses[int(rng.integers(len(uses)))]
            mesh = self.mesh(use)
            if mesh is not None:
                return use, mesh
        return None


def _key(use: Use) -> tuple:
    """What decides about a mesh: two entries of a catalogue may show one model in two sizes."""
    return use.piece.file, use.piece.size, use.piece.rotation_33.tobytes()

"""The field: views of a place become latents, and latents and a camera become the features of a view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from spatialboost.encoders.standardise import Standardise
from spatialboost.teachers.field.cameras import Cameras
from spatialboost.teachers.field.positions import CameraPositions, GridPositions, Positions, grid_places
from spatialboost.teachers.field.transformer import REGISTERS, FieldTransformer, start_linear

# Shape legend: B sequences, V context views of a sequence, I views to render, N patches, D width of the context
# features, L latents, W width of the field.

Camera = Literal["prope", "pluecker"]


class FieldNetwork(nn.Module):
    """A scene as a function from a camera to the features of its view.

    Example:
        >>> field = FieldNetwork(48, {"semantic": 32}, width=32, depth=1, heads=2, latents=6)
        >>> cameras = Cameras(torch.eye(4).expand(2, 3, 4, 4), torch.tensor([1.0, 1, 0, 0]).expand(2, 3, 4), (2, 2))
        >>> latents = field.encode(torch.zeros(2, 3, 4, 48), cameras)
        >>> rendered = field.render(latents, cameras[:, 0])  # the first view of both
        >>> latents.shape, rendered.shape, field.predict(rendered)["semantic"].shape
        (torch.Size([2, 6, 32]), torch.Size([2, 4, 32]), torch.Size([2, 4, 32]))

    Only the latents lead from the context views to the view that is rendered. Context features are standardised, and
    rendered ones brought back to the size of the true ones, if these were measured (`Standardise`).

    Args:
        context: Width D of the context features.
        targets: Name -> width of the features that are rendered.
        width: Width of both transformers.
        depth: Blocks of each.
        heads: Heads of their attention. A head's channels must be a multiple of 8.
        latents: Number of latents of a scene.
        camera: ``prope``: the camera acts on the attention. ``pluecker``: it is a part of each token.
        posed: The context features know the cameras already, as VGGT's do; else each context token is told its own.

    Source: Spa3R (arXiv 2602.21186).
    """

    def __init__(
        self,
        context: int,
        targets: Mapping[str, int],
        *,
        width: int,
        depth: int,
        heads: int,
        latents: int,
        camera: Camera = "prope",
        posed: bool = False,
    ) -> None:
        super().__init__()
        self.camera, self.posed = camera, posed
        rays = 3 if camera == "prope" else 6
        self.standard_context = Standardise(context)
        self.project = nn.Linear(context, width)
        self.context_rays = None if posed else nn.Linear(rays, width, bias=False)
        self.queries = nn.Parameter(torch.empty(latents, width))
        self.encoder = FieldTransformer(width, depth, heads)
        self.rays = nn.Linear(rays, width)
        self.decoder = FieldTransformer(width, depth, heads)
        self.heads = nn.ModuleDict({name: _layers(width, size) for name, size in targets.items()})
        self.standard_targets = nn.ModuleDict({name: Standardise(size) for name, size in targets.items()})
        self.depth_probe = _layers(width, 1)
        nn.init.trunc_normal_(self.queries, std=0.02)
        self.apply(start_linear)

    def encode(self, context: Tensor, cameras: Cameras, known_BV: Tensor | None = None) -> Tensor:
        """The latents of scenes ``(B, L, W)``.

        Args:
            context: Features of the context views ``(B, V, N, D)``.
            cameras: Their cameras ``(B, V)``.
            known_BV: Which views there are; the others only fill up the batch. None: all.
        """
        patches = context.shape[2]
        tokens = self.project(self.standard_context(context))
        if self.context_rays is not None:
            tokens = tokens + self.context_rays(self._rays(cameras).to(tokens.dtype))
        latents = self.queries.to(tokens.dtype).expand(len(tokens), -1, -1)
        known_BT = None
        if known_BV is not None:
            own_BT = known_BV.repeat_interleave(patches, 1)
            known_BT = nn.functional.pad(own_BT, (latents.shape[1], 0), value=True)
        front = REGISTERS + latents.shape[1]
        x = torch.cat([latents, tokens.flatten(1, 2)], 1)
        return self.encoder(x, self._context_positions(cameras, front), known_BT)[:, : latents.shape[1]]

    def render(self, latents: Tensor, cameras: Cameras) -> Tensor:
        """The tokens of views, each from the latents of its scene ``(I, N, W)``.

        Args:
            latents: The latents of each view's scene ``(I, L, W)``.
            cameras: The cameras of the views ``(I,)``.
        """
        tokens = self.rays(self._rays(cameras).to(latents.dtype))
        front = REGISTERS + latents.shape[1]
        positions = None
        if self.camera == "prope":
            positions = CameraPositions(cameras.projections()[:, None], cameras.grid, front=front)
        return self.decoder(torch.cat([latents, tokens], 1), positions)[:, latents.shape[1] :]

    def predict(self, rendered: Tensor) -> dict[str, Tensor]:
        """Name -> the features of the patches ``(I, N, D)``, from the result of `render`."""
        standards = self.standard_targets
        return {name: cast(Standardise, standards[name]).undo(head(rendered)) for name, head in self.heads.items()}

    def probe_depth(self, rendered: Tensor) -> Tensor:
        """The depth of the patches ``(I, N)`` in metres. Its gradient reaches the probe only."""
        return self.depth_probe(rendered.detach())[..., 0]

    def _rays(self, cameras: Cameras) -> Tensor:
        return cameras.directions() if self.camera == "prope" else cameras.pluecker()

    def _context_positions(self, cameras: Cameras, front: int) -> Positions:
        if self.camera == "prope" and not self.posed:
            return CameraPositions(cameras.projections(), cameras.grid, front=front)
        places_N2 = grid_places(cameras.grid).to(cameras.poses.device) + 1
        return GridPositions(nn.functional.pad(places_N2.repeat(cameras.poses.shape[1], 1), (0, 0, front, 0)))


def _layers(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, out))

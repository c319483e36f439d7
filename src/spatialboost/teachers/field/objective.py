"""The encoder, the field and the loss over the views of a batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.encoders import feature_dim, read_tokens
from spatialboost.teachers.field.config import FieldOptions
from spatialboost.teachers.field.geometry import Geometry, GeometryModel
from spatialboost.teachers.field.network import FieldNetwork
from spatialboost.teachers.protocol import Objective

# Shape legend: B sequences, I views of all sequences, R views that are rendered, V context views of a sequence, N
# patches, D width of features.

Grid = tuple[int, int]


@dataclass(frozen=True)
class Roles:
    """Which views of a batch are context, and which are rendered.

    Attributes:
        context_BV: For each sequence the numbers of its context views; where there are fewer, the first one again.
        known_BV: Which of these are views of their own; None: all.
        rendered_R: The numbers of the views that are rendered.
        scene_R: The sequence of each of them.
    """

    context_BV: Tensor
    known_BV: Tensor | None
    rendered_R: Tensor
    scene_R: Tensor

    @classmethod
    def of(cls, frames: Tensor, contexts: Tensor, *, targets_only: bool) -> Roles:
        """The roles in a batch whose sequences have these numbers of views, context views first."""
        sizes, counts, device = frames.tolist(), contexts.tolist(), frames.device
        firsts = [sum(sizes[:b]) for b in range(len(sizes))]
        most = max(counts)
        context = [
            [first + (i if i < count else 0) for i in range(most)] for first, count in zip(firsts, counts, strict=True)
        ]
        rendered, scenes = [], []
        for b, (first, size, count) in enumerate(zip(firsts, sizes, counts, strict=True)):
            views = range(first + (count if targets_only else 0), first + size)
            rendered += list(views)
            scenes += [b] * len(views)
        known = None
        if min(counts) < most:
            known = torch.arange(most, device=device) < contexts[:, None]
        own: Any = {"device": device}
        return cls(torch.tensor(context, **own), known, torch.tensor(rendered, **own), torch.tensor(scenes, **own))


@dataclass(frozen=True)
class Rendering:
    """What the field says about views, and the truth.

    Attributes:
        roles: Which views these are.
        predicted: Name -> features ``(R, N, D)``.
        true: Name -> features ``(R, N, D)``.
        known: Patches whose geometric features are known ``(R, N)``; None: all.
        depths: Depth by the probe ``(R, N)``.
        true_depths: True depth, 0 where unknown ``(R, N)``.
    """

    roles: Roles
    predicted: Mapping[str, Tensor]
    true: Mapping[str, Tensor]
    known: Tensor | None
    depths: Tensor
    true_depths: Tensor


class FieldObjective(Objective):
    """Render the features of views from those of other views of the same place.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.teachers.field.geometry import KnownGeometry
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=2, num_classes=0)
        >>> options = FieldOptions(width=16, heads=2, depth=1, latents=4)
        >>> objective = FieldObjective(encoder, options, KnownGeometry((2, 2)), grid=(2, 2))
        >>> batch = {"pixel_values": torch.zeros(2, 3, 32, 32), "frames": torch.tensor([2])}
        >>> batch["contexts"] = torch.tensor([1])
        >>> batch |= {"poses": torch.eye(4).repeat(2, 1, 1), "intrinsics": torch.tensor([[1.0, 1, 0, 0]] * 2)}
        >>> sorted(objective(**batch, depths=torch.ones(2, 4)))
        ['depth', 'geometric', 'loss', 'semantic']

    Args:
        encoder: Anything that `spatialboost.encoders.read_tokens` reads. A copy of it stays as it is: its features are
            what is rendered.
        options: The options of the teacher.
        geometry: Where cameras, depths and geometric features come from.
        grid: Rows and columns of patches of the encoder.
        layer: Block of the encoder whose output is read.
    """

    accepts_loss_kwargs = True  # transformers.Trainer then passes `num_items_in_batch` to forward

    def __init__(
        self, encoder: nn.Module, options: FieldOptions, geometry: GeometryModel, *, grid: Grid, layer: int = -1
    ) -> None:
        super().__init__()
        self.encoder, self.options, self.layer, self.grid = encoder, options, layer, grid
        self.base_encoder = copy.deepcopy(encoder)
        self.geometry = geometry
        width = feature_dim(encoder)
        self.own_context = options.geometry.kind == "known" or options.pupil == "context"
        weights = {"semantic": options.semantic_weight, "geometric": options.geometric_weight}
        widths = {"semantic": width, "geometric": geometry.width}
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.field = FieldNetwork(
            width if self.own_context else geometry.width,
            {name: widths[name] for name in self.weights},
            width=options.width,
            depth=options.depth,
            heads=options.heads,
            latents=options.latents,
            camera=options.camera,
            posed=not self.own_context,
        )
        self.exchange = False  # render each sequence from another one's latents: the control

    def measure(self, features: Tensor) -> None:
        """Take the mean and the spread of each channel from these features of the encoder ``(I, N, D)``."""
        if self.own_context:
            self.field.standard_context.measure(features)
        if "semantic" in self.weights:
            self.field.standard_targets["semantic"].measure(features)  # type: ignore[operator]  # of a ModuleDict

    def num_items(self, batch: Mapping[str, Any]) -> Tensor:
        """The number of patches that are rendered."""
        views = batch["frames"].sum()
        if self.options.over == "targets":
            views = views - batch["contexts"].sum()
        return views * (self.geometry.grid[0] * self.geometry.grid[1])

    def forward(self, num_items_in_batch: Tensor | None = None, **batch: Tensor) -> dict[str, Tensor]:
        """Loss of a batch of `stack_sequences`.

        Args:
            num_items_in_batch: The number of patches that the sums are divided by; None takes those of this batch.
            **batch: ``frames`` and ``contexts`` ``(B,)``, ``pixel_values`` ``(I, 3, H, W)`` or the features of the
                encoder ``patch_features`` ``(I, N, D)``, and what the geometry model needs.
        """
        items = (self.num_items(batch) if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        found = self.render(batch, targets_only=self.options.over == "targets")
        sums = {}
        for name in found.predicted:
            error_RN = feature_error(found.predicted[name], found.true[name])
            known = found.known if name == "geometric" else None
            sums[name] = (error_RN if known is None else torch.where(known, error_RN, 0.0)).sum() / items
        if self._teaches_semantic():
            return {"loss": self.weights["semantic"] * sums["semantic"], "semantic": sums["semantic"].detach()}
        error_RN = nn.functional.smooth_l1_loss(found.depths.float(), found.true_depths, reduction="none")
        sums["depth"] = torch.where(found.true_depths > 0, error_RN, 0.0).sum() / items
        loss = sum(self.weights.get(name, 1.0) * each for name, each in sums.items())
        assert isinstance(loss, Tensor)
        return {"loss": loss, **{name: each.detach() for name, each in sums.items()}}

    def render(self, batch: Mapping[str, Tensor], *, targets_only: bool) -> Rendering:
        """Render the target views of a batch, or all of its views.

        Args:
            batch: As for `forward`.
            targets_only: Leave out the context views.
        """
        geometry = self.geometry(batch)
        roles = Roles.of(batch["frames"], batch["contexts"], targets_only=targets_only)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._teaches_semantic()):
            latents = self._latents(batch, geometry, roles)
            if self.exchange:
                latents = latents.roll(1, 0)
            rendered = self.field.render(latents[roles.scene_R], geometry.cameras[roles.rendered_R])
            predicted = self.field.predict(rendered)
        true: dict[str, Tensor] = {}
        if "semantic" in self.weights:
            true["semantic"] = self._resized(self._tokens(batch, roles.rendered_R, own=self._teaches_semantic()))
        if "geometric" in self.weights:
            true["geometric"] = geometry.features[roles.rendered_R]
        known = None if geometry.known is None else geometry.known[roles.rendered_R]
        depths = self.field.probe_depth(rendered)
        return Rendering(roles, predicted, true, known, depths, geometry.depths[roles.rendered_R])

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The latents of scenes ``(B, L, W)``, from all views of a batch."""
        roles = Roles.of(batch["frames"], batch["frames"], targets_only=True)
        return self._latents(batch, self.geometry({**batch, "contexts": batch["frames"]}), roles)

    def base_features(self, batch: Mapping[str, Tensor], views: Tensor) -> Tensor:
        """The features of the base encoder for some views of a batch, at the patches of the geometry ``(R, N, D)``."""
        return self._resized(self._tokens(batch, views, own=False))

    def _teaches_semantic(self) -> bool:
        """Whether the encoder is being trained to have the features that the field renders."""
        return (
            self.training
            and self.options.pupil == "semantic"
            and any(p.requires_grad for p in self.encoder.parameters())
        )

    def _latents(self, batch: Mapping[str, Tensor], geometry: Geometry, roles: Roles) -> Tensor:
        """The latents of scenes ``(B, L, W)`` from their context views."""
        grid = self.grid if self.own_context else self.geometry.grid
        cameras = replace(geometry.cameras, grid=grid)[roles.context_BV]
        return self.field.encode(self._context(batch, geometry, roles.context_BV), cameras, roles.known_BV)

    def _context(self, batch: Mapping[str, Tensor], geometry: Geometry, views_BV: Tensor) -> Tensor:
        """The features of the context views ``(B, V, N, D)``."""
        if not self.own_context:
            assert geometry.context is not None
            return geometry.context[views_BV]
        tokens = self._tokens(batch, views_BV.flatten(), own=self.options.pupil == "context")
        return tokens.unflatten(0, views_BV.shape)

    def _resized(self, tokens: Tensor) -> Tensor:
        """Tokens of the encoder at the patches of the geometry."""
        if self.grid == self.geometry.grid:
            return tokens
        maps = tokens.transpose(1, 2).unflatten(2, self.grid).float()
        resized = nn.functional.interpolate(maps, self.geometry.grid, mode="bilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2)

    def _tokens(self, batch: Mapping[str, Tensor], views: Tensor, *, own: bool) -> Tensor:
        """Patch tokens of some views, of the encoder that is trained or of the copy that stays as it is."""
        if "patch_features" in batch:
            return batch["patch_features"][views]
        pixels = batch["pixel_values"][views]
        if own:
            return read_tokens(self.encoder, pixels, layer=self.layer).patches
        with torch.no_grad():
            return read_tokens(self.base_encoder, pixels, layer=self.layer).patches


def feature_error(predicted: Tensor, true: Tensor) -> Tensor:
    """The error of each patch ``(R, N)``: smooth L1, mean over channels, plus 1 - cosine.

    Example:
        >>> one = torch.tensor([[[1.0, 0.0]]])
        >>> float(feature_error(one, one)), float(feature_error(-one, one))
        (0.0, 2.75)

    Source: Spa3R (arXiv 2602.21186).
    """
    predicted, true = predicted.float(), true.float()
    size = nn.functional.smooth_l1_loss(predicted, true, reduction="none").mean(-1)
    return size + 1 - nn.functional.cosine_similarity(predicted, true, dim=-1)

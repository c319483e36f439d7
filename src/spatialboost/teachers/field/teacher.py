"""The teacher ``field``: first the field on the frozen encoder, then Attn+ through the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.features import training_features
from spatialboost.teachers.field.config import FieldBoostConfig, FieldConfig, FieldOptions
from spatialboost.teachers.field.geometry import GeometryModel, KnownGeometry
from spatialboost.teachers.field.measures import measure_rendering
from spatialboost.teachers.field.objective import FieldObjective
from spatialboost.teachers.field.vggt import VGGTGeometry, open_vggt
from spatialboost.teachers.field.views import Views, stack_sequences
from spatialboost.teachers.protocol import Example, Groups, MakeExample, Row, Score, Stage, Teacher, TeacherInputs
from spatialboost.training.optimizers import decay_groups

if TYPE_CHECKING:
    from spatialboost.training.data import RowDataset

FIELD = "field.safetensors"


class FieldTeacher(Teacher):
    """The field teacher. Its two stages: the field, on the frozen encoder; then Attn+ and the gates.

    Args:
        objective: The encoder and the field.
        options: The options from a run's file.
        inputs: The encoder, the rows and the settings of the run.

    Source: Spa3R (arXiv 2602.21186) trains the field; the second stage is ours.
    """

    Options = FieldOptions
    stages: ClassVar[Mapping[str, Stage]] = {
        "field": Stage(FieldConfig, cached=True),
        "boost": Stage(FieldBoostConfig, boosts=True),
    }
    savers: ClassVar[Mapping[str, Sequence[str]]] = {
        "field": ("teacher.frames=[2, 4]",),
        "boost": ("teacher.frames=[2, 4]",),
    }

    def __init__(self, objective: FieldObjective, options: FieldOptions, inputs: TeacherInputs) -> None:
        self.objective: FieldObjective = objective
        self.options, self.images, self.seed = options, inputs.images, inputs.seed
        self.collate = stack_sequences

    @classmethod
    def columns(cls, options: FieldOptions) -> Sequence[str]:
        """Images, and with known geometry depth maps, poses and intrinsics."""
        return (VGGTGeometry if options.geometry.kind == "vggt" else KnownGeometry).columns

    @classmethod
    def check_rows(cls, stages: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Raise an error if no row has several views."""
        counts = rows.lengths("images") if hasattr(rows, "lengths") else [len(row["images"]) for row in rows]
        if len(counts) and max(counts) < 2:
            raise SpatialBoostError(
                f"all {len(counts)} rows have one view, and a field needs at least two of one place: build the data "
                "with --views 4 or another number"
            )

    @classmethod
    def build(cls, options: FieldOptions, inputs: TeacherInputs) -> FieldTeacher:
        """Make the field, and open VGGT if it is asked for."""
        geometry: GeometryModel = KnownGeometry(inputs.images.grid)
        own = options.geometry
        if own.kind == "vggt":
            geometry = VGGTGeometry(open_vggt(own.name), own.image_size, aggregation=own.aggregation, bf16=own.bf16)
        return cls.with_geometry(options, inputs, geometry)

    @classmethod
    def with_geometry(cls, options: FieldOptions, inputs: TeacherInputs, geometry: GeometryModel) -> FieldTeacher:
        """Make the field on a geometry model of your own."""
        grid = inputs.images.grid
        objective = FieldObjective(inputs.encoder, options, geometry, grid=grid, layer=inputs.layer)
        planned = next(inputs.encoder.parameters()).is_meta
        if options.standardise and not planned and not inputs.finished:  # a finished stage has what it measured
            objective.measure(training_features(inputs))
        return cls(objective, options, inputs)

    def typical_example(self, config: Any) -> tuple[Example, int]:
        """A sequence of the largest number of views."""
        options, views = self.options, self.options.frames[1]
        contexts = max(1, int(views * (1 - options.target_share)))
        example = {"frames": torch.tensor(views), "contexts": torch.tensor(contexts)}
        if options.geometry.kind == "vggt":
            example["geometry_images"] = torch.zeros(views, 3, *options.geometry.image_size, dtype=torch.uint8)
            return example, views
        grid = self.objective.geometry.grid
        example["poses"] = torch.eye(4).repeat(views, 1, 1)
        example["intrinsics"] = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(views, 1)
        example["depths"] = torch.ones(views, grid[0] * grid[1])
        return example, views

    def groups(self, stage: str, config: Any) -> Groups:
        """The parameters of the field; none while it teaches without being trained itself."""
        if stage == "field":
            return decay_groups(self.objective.field, config.lr, config.weight_decay)
        if self.options.pupil == "semantic" or not config.train_field:
            return []
        return decay_groups(self.objective.field, config.field_lr or config.lr, config.weight_decay)

    def prepare(self, stage: str, config: Any) -> None:
        """Set whether sequences are exchanged."""
        if config.exchange_views and config.batch_size < 2:
            raise SpatialBoostError(
                f"{stage}.exchange_views exchanges the rows of a batch, and {stage}.batch_size is {config.batch_size}: "
                "set it to at least 2"
            )
        self.objective.exchange = config.exchange_views

    def make_example(self, config: Any, rows: Sequence[Row], numbers: Sequence[int]) -> MakeExample:
        """Return a `Views`."""
        return Views(self.images, self.options, self.objective.geometry.grid, seed=self.seed)

    def score(self, rows: RowDataset, *, every_kind: bool = False) -> list[Score]:
        """Score rendered features of views that the field has not seen, and the depth probe on them.

        ``rendered features``: the share of patches at which the rendered feature is more similar to the truth than the
        features of the most similar context view and than the mean; the guess is the better one of these two.
        """
        examples: Iterable[Example] = (example for _, example in rows.usable(self.options.evaluate))
        if not self.options.evaluate or not self.options.semantic_weight:
            return []
        try:
            found = measure_rendering(self.objective, examples)
        except SpatialBoostError:
            return []  # no usable row, which the run reports
        other = max(share for name, share in found.wins.items() if name != "rendered")
        scores = [
            Score("rendered features", "image", found.patches, found.wins["rendered"], loss=found.loss),
            Score("rendered features", "guess", found.patches, other),
        ]
        if found.depths:
            errors = (found.depth_right, found.depth_error), (found.depth_guess_right, found.depth_guess_error)
            for answerer, (right, error) in zip(("image", "guess"), errors, strict=True):
                scores.append(Score("depth of rendered patches", answerer, found.depths, right, error))
        return scores

    def loaded(self) -> Sequence[nn.Module]:
        """The copy of the encoder, and VGGT."""
        geometry = self.objective.geometry
        return [self.objective.base_encoder, *([geometry] if isinstance(geometry, nn.Module) else [])]

    def save(self, stage: str, folder: Path) -> None:
        """Save the field."""
        from safetensors.torch import save_file

        state = {name: value.detach().cpu().contiguous() for name, value in self.objective.field.state_dict().items()}
        save_file(state, folder / FIELD)

    def load(self, stage: str, folder: Path) -> None:
        """Load the field."""
        from safetensors.torch import load_file

        self.objective.field.load_state_dict(load_file(folder / FIELD))

    def facts(self) -> dict[str, Any]:
        """The geometry and what the encoder's tokens were."""
        kept = ("pupil", "over", "camera", "latents", "width", "depth", "target_share")
        return {"geometry": self.options.geometry.kind, **{name: getattr(self.options, name) for name in kept}}

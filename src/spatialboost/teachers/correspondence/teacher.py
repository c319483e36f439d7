"""The teacher ``correspondence``: heads and Attn+ together, on sequences of views."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.correspondence.config import CorrespondenceBoostConfig, CorrespondenceOptions
from spatialboost.teachers.correspondence.measures import Tally
from spatialboost.teachers.correspondence.objective import CorrespondenceObjective, stack_sequences
from spatialboost.teachers.correspondence.sequences import COLUMNS, Grid, Sequences
from spatialboost.teachers.protocol import Example, Groups, MakeExample, Row, Score, Stage, Teacher, TeacherInputs
from spatialboost.training.optimizers import decay_groups

if TYPE_CHECKING:
    from spatialboost.training.data import RowDataset

HEADS = "heads.safetensors"
HEAD_RATE = 4  # times the rate of Attn+, as in the paper
KIND = "attention matches"


class CorrespondenceTeacher(Teacher):
    """The correspondence teacher. Its one stage trains Attn+, the gates and a head for each supervised block.

    Args:
        objective: The encoder and the heads.
        options: The options from a run's file.
        inputs: The encoder, the rows and the settings of the run.

    Source: GASP (arXiv 2605.30231), which teaches the layers of a language model in this way; here it is the encoder.
    """

    Options = CorrespondenceOptions
    stages: ClassVar[Mapping[str, Stage]] = {"boost": Stage(CorrespondenceBoostConfig, boosts=True)}
    savers: ClassVar[Mapping[str, Sequence[str]]] = {"boost": ("teacher.points=128", "teacher.frames=[2, 8]")}

    def __init__(
        self, objective: CorrespondenceObjective, options: CorrespondenceOptions, inputs: TeacherInputs
    ) -> None:
        self.objective: CorrespondenceObjective = objective
        self.options, self.images, self.seed = options, inputs.images, inputs.seed
        self.collate = stack_sequences

    @classmethod
    def columns(cls, options: CorrespondenceOptions) -> Sequence[str]:
        """Images, depth maps, poses and intrinsics."""
        return COLUMNS

    @classmethod
    def check_rows(cls, stages: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Raise an error if no row has several views."""
        check_views(rows)

    @classmethod
    def build(cls, options: CorrespondenceOptions, inputs: TeacherInputs) -> CorrespondenceTeacher:
        """Make the heads, from the query projections of the encoder."""
        return cls(CorrespondenceObjective(inputs.encoder, options, layer=inputs.layer), options, inputs)

    def typical_example(self, config: Any) -> tuple[Example, int]:
        """A sequence of the largest number of views and points."""
        return typical_sequence(self.options, self.images.grid), self.options.frames[1]

    def groups(self, stage: str, config: CorrespondenceBoostConfig) -> Groups:
        """The parameters of the heads, at four times the rate unless `head_lr` is given."""
        return decay_groups(self.objective.heads, config.head_lr or HEAD_RATE * config.lr, config.weight_decay)

    def make_example(
        self, config: CorrespondenceBoostConfig | None, rows: Sequence[Row], numbers: Sequence[int]
    ) -> MakeExample:
        """Return a `Sequences`; for held-out rows, one that takes all views in order."""
        own: Any = {"seed": self.seed, "shuffle": config is not None and config.shuffle_pairs, "whole": config is None}
        return Sequences(self.images, self.images.grid, self.options, **own)

    def score(self, rows: RowDataset, *, every_kind: bool = False) -> list[Score]:
        """Score how well the attention's own queries and keys match points, with chance beside it.

        `every_kind` adds each layer, and each number of frames between the two views.
        """
        was_training = self.objective.training
        self.objective.eval()
        tally = Tally(self.objective.encoder, self.objective.layers, self.options.radius)
        losses = []
        for _, example in rows.usable(self.options.evaluate):
            tally.add(example)
            losses.append(self._loss(example))
        self.objective.train(was_training)
        if not losses:
            return []
        reasons = {str(row): reason for row, reason in rows.skipped.items()}
        return match_scores(tally, losses, reasons, every_kind=every_kind)

    def save(self, stage: str, folder: Path) -> None:
        """Save the heads, to resume; nothing else uses them."""
        save_heads(self.objective.heads, folder / HEADS)

    def load(self, stage: str, folder: Path) -> None:
        """Load the heads."""
        load_heads(self.objective.heads, folder / HEADS)

    def facts(self) -> dict[str, Any]:
        """The supervised blocks and the losses."""
        kept = ("temperature", "contrast_weight", "depth_weight", "negatives", "grids")
        return {"layers": self.objective.layers, **{name: getattr(self.options, name) for name in kept}}

    @torch.no_grad()
    def _loss(self, example: Example) -> float:
        device = next(self.objective.parameters()).device
        own = {name: value for name, value in example.items() if name not in ("pixel_values", "places", "row")}
        batch = {**stack_sequences([own]), "pixel_values": example["pixel_values"]}
        return float(self.objective(**{name: value.to(device) for name, value in batch.items()})["loss"])


def check_views(rows: Sequence[Row]) -> None:
    """Raise an error if no row has several views."""
    counts = rows.lengths("images") if hasattr(rows, "lengths") else [len(row["images"]) for row in rows]
    if len(counts) and max(counts) < 2:
        raise SpatialBoostError(
            f"all {len(counts)} rows have one view, and correspondence needs at least two of one place: build the "
            "data with --views 4 or another number"
        )


def typical_sequence(options: CorrespondenceOptions, grid: Grid) -> Example:
    """A sequence of the largest number of views and points, without its images."""
    views = options.frames[1]
    points = min(options.points, sum((g or grid[0]) * (g or grid[1]) for g in options.grids))
    example = {
        "points": torch.full((views, points, 2), 0.5),
        "visible": torch.ones(views, points, dtype=torch.bool),
        "depths": torch.ones(views, points),
        "patch_depths": torch.ones(views, grid[0] * grid[1]),
    }
    if options.epipolar:
        example["far"] = torch.full((views, points, options.epipolar, 2), 0.5)
        example["far_valid"] = torch.ones(views, points, options.epipolar, dtype=torch.bool)
    return example


def match_scores(tally: Tally, losses: Sequence[float], skipped: Mapping[str, str], *, every_kind: bool) -> list[Score]:
    """The scores of what a tally has added up.

    Args:
        tally: The matches of all sequences.
        losses: The loss of each sequence.
        skipped: Rows that could not be used -> the reason.
        every_kind: Add each layer, and each number of frames between the two views.
    """
    found = tally.result(skipped)
    loss, count = sum(losses) / len(losses), found.points
    scores = [
        Score(KIND, "image", count, found.mean, loss=loss),
        Score(KIND, "guess", count, found.chance),
    ]
    if not every_kind:
        return scores
    for layer, share, sure in zip(found.layers, found.pck, found.confidence, strict=True):
        kind, known = f"{KIND}, layer {layer}", None if math.isnan(sure) else sure
        scores.append(Score(kind, "image", count, share, correlation=known))
        scores.append(Score(kind, "guess", count, found.chance))
    for apart, share in found.by_distance.items():
        kind = f"{KIND}, {apart} frames apart"
        guess = found.chance_by_distance[apart]
        number = int(sum((each == apart).sum() for each in tally.distance))
        scores += [Score(kind, "image", number, share), Score(kind, "guess", number, guess)]
    return scores


def save_heads(heads: nn.Module, file: Path) -> None:
    """Write the weights of the heads."""
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in heads.state_dict().items()}, file)


def load_heads(heads: nn.Module, file: Path) -> None:
    """Read the weights of the heads."""
    from safetensors.torch import load_file

    heads.load_state_dict(load_file(file))

"""The teacher ``pixel``: first the linear heads alone, then heads, Attn+ and gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.pixel.objective import PixelObjective
from spatialboost.teachers.pixel.targets import DETAIL, IGNORE, PixelTargets, collect_classes, descriptions
from spatialboost.teachers.protocol import (
    BAD_DATA,
    Example,
    Groups,
    MakeExample,
    Row,
    Score,
    Stage,
    Teacher,
    TeacherInputs,
    TeacherOptions,
)
from spatialboost.training.config import BoostStageConfig, StageConfig
from spatialboost.training.optimizers import decay_groups

if TYPE_CHECKING:
    from spatialboost.training.data import RowDataset

HEADS = "heads.safetensors"
MOST_ROWS = 2000  # rows that are read to make the list of classes


class PixelOptions(TeacherOptions):
    """The keys of `teacher:` for ``kind: pixel``.

    Attributes:
        targets: What the heads predict.
        classes: Names of the classes for segmentation. An object has the first class that is a word of its
            description. None uses the last words of the descriptions in the training rows as classes.
    """

    kind: Literal["pixel"] = "pixel"
    targets: list[Literal["depth", "segmentation"]] = Field(default=["depth"], min_length=1)
    classes: list[str] | None = Field(default=None, min_length=1)


class HeadConfig(StageConfig):
    """Settings of the stage that trains the heads alone, on the frozen encoder."""

    lr: float = Field(default=1e-3, gt=0)


class PixelBoostConfig(BoostStageConfig):
    """Settings of the stage that trains Attn+, the gates and the heads.

    Attributes:
        head_lr: Highest learning rate of the heads; None uses `lr`.
    """

    head_lr: float | None = Field(default=None, gt=0)


class PixelTeacher(Teacher):
    """The pixel teacher. Its two stages: the heads; then Attn+, gates and heads.

    Args:
        objective: The encoder and the heads.
        classes: Names of the classes; None without segmentation.
        options: The options from a run's file.
        grid: Rows and columns of patches.

    Source: the paper's Table 6 and appendix E.1.
    """

    Options = PixelOptions
    stages: ClassVar[Mapping[str, Stage]] = {
        "head": Stage(HeadConfig, cached=True),
        "boost": Stage(PixelBoostConfig, boosts=True),
    }

    def __init__(
        self, objective: PixelObjective, classes: list[str] | None, options: PixelOptions, grid: tuple[int, int]
    ) -> None:
        self.objective: PixelObjective = objective
        self.classes, self.options, self.grid = classes, options, grid
        self.collate = stack_images

    @classmethod
    def columns(cls, options: PixelOptions) -> Sequence[str]:
        """``images``, and the columns with the maps of the targets."""
        maps = {"depth": ("depths",), "segmentation": ("labels", "meta")}
        return ("images", *(column for target in options.targets for column in maps[target]))

    @classmethod
    def build(cls, options: PixelOptions, inputs: TeacherInputs) -> PixelTeacher:
        """Make new heads. The classes are those of the options, or are collected from the training rows."""
        classes = None
        if "segmentation" in options.targets:
            classes = options.classes or collect_classes(_descriptions(inputs))
            if not classes:
                raise SpatialBoostError(
                    "no training row has descriptions of objects in its meta: give `teacher.classes`"
                )
        objective = PixelObjective(
            inputs.encoder,
            layer=inputs.layer,
            depth="depth" in options.targets,
            num_classes=len(classes or ()),
            grid=inputs.images.grid,
        )
        return cls(objective, classes, options, inputs.images.grid)

    def typical_example(self, config: Any) -> tuple[Example, int]:
        """The targets of one image."""
        example: Example = {}
        if self.objective.depth_head is not None:
            example["depth"] = torch.ones(1, *self.grid)
        if self.classes is not None:
            example["classes"] = torch.zeros(1, DETAIL * self.grid[0], DETAIL * self.grid[1], dtype=torch.long)
        return example, 1

    def groups(self, stage: str, config: Any) -> Groups:
        """The parameters of the heads, in both stages."""
        rate = config.lr if stage == "head" else config.head_lr or config.lr
        return decay_groups(self.objective.heads, rate, config.weight_decay)

    def make_example(self, config: Any, rows: Sequence[Row], numbers: Sequence[int]) -> MakeExample:
        """Return a `PixelTargets`, which makes the targets at the patch grid."""
        depth = self.objective.depth_head is not None
        return PixelTargets(self.grid, depth=depth, classes=self.classes, by_name=self.options.classes is not None)

    def score(self, rows: RowDataset, *, every_kind: bool = False) -> list[Score]:
        """Score depth of patches and classes of pixels, and the best constant answer for comparison."""
        return score_pixels(self.objective, rows, self.options.evaluate)

    def save(self, stage: str, folder: Path) -> None:
        """Save the heads."""
        from safetensors.torch import save_file

        state = {name: value.detach().cpu().contiguous() for name, value in self.objective.heads.state_dict().items()}
        save_file(state, folder / HEADS)

    def load(self, stage: str, folder: Path) -> None:
        """Load the heads."""
        from safetensors.torch import load_file

        self.objective.heads.load_state_dict(load_file(folder / HEADS))

    def facts(self) -> dict[str, Any]:
        """The targets, and the names of the classes."""
        return {"targets": list(self.options.targets), "classes": self.classes}


def stack_images(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Make a batch of targets: concatenate the targets of all images of all rows."""
    return {name: torch.cat([example[name] for example in examples]) for name in examples[0]}


@torch.no_grad()
def score_pixels(objective: PixelObjective, rows: RowDataset, limit: int) -> list[Score]:
    """Score the heads on the first `limit` usable rows, and the best constant answer on the same rows."""
    was_training = objective.training
    objective.eval()
    device = next(objective.parameters()).device
    depths: list[np.ndarray] = []  # predicted and true, of each known patch
    classes: list[np.ndarray] = []  # predicted and true, of each labelled pixel
    losses: list[float] = []
    for _, example in rows.usable(limit):
        batch = {name: value.to(device) for name, value in example.items() if name != "row"}
        losses.append(float(objective(**batch)["loss"]))
        if "depth" in batch:
            pair = np.stack([objective.predict(batch["pixel_values"]).cpu(), batch["depth"].cpu()])
            depths.append(pair[:, pair[1] > 0])
        if "classes" in batch:
            true = batch["classes"]
            guess = objective.predict_classes(batch["pixel_values"], (true.shape[1], true.shape[2]))
            pair = np.stack([guess.cpu(), true.cpu()])
            classes.append(pair[:, pair[1] != IGNORE])
    objective.train(was_training)
    loss = float(np.mean(losses)) if losses else None
    scores = []
    if depths:
        predicted, true_depth = np.concatenate(depths, 1)
        scores.append(_depth_score("image", predicted, true_depth, loss))
        scores.append(_depth_score("guess", np.median(true_depth), true_depth, None))
    if classes:
        predicted, true_class = np.concatenate(classes, 1)
        most = np.bincount(true_class).argmax()
        for name, values, own in (("image", predicted, loss), ("guess", most, None)):
            scores.append(Score("segmentation", name, len(true_class), float(np.mean(values == true_class)), loss=own))
    return scores


def _depth_score(answerer: str, predicted: Any, true: np.ndarray, loss: float | None) -> Score:
    errors = np.abs(predicted - true) / true
    return Score("depth", answerer, len(true), float(np.mean(errors <= 0.25)), float(errors.mean()), loss)


def _descriptions(inputs: TeacherInputs) -> Iterator[list[str]]:
    """Descriptions of objects in evenly spaced training rows, at most `MOST_ROWS` of them."""
    rows: Any = inputs.rows
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns(["meta"])  # images and maps are not read
    for number in inputs.training[:: max(1, -(-len(inputs.training) // MOST_ROWS))]:
        try:
            yield descriptions(rows[number])
        except BAD_DATA:
            continue  # training reports bad rows when it reads them

"""The options of the teacher ``correspondence``, and the settings of its stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spatialboost.teachers.protocol import TeacherOptions
from spatialboost.training.config import BoostStageConfig

Share = Annotated[float, Field(gt=0, le=1)]


class CorrespondenceOptions(TeacherOptions):
    """The keys of `teacher:` for ``kind: correspondence``.

    What the paper does not tell is marked as open; ``docs/teachers.md`` has the reason for each choice.

    Attributes:
        frames: Smallest and largest number of views of a sequence; the number is drawn. A row with fewer views gives
            all it has.
        window: The views of a sequence are at most this many places before or after its first one in the row.
        grids: Points of the first view: for each number g, the centres of g x g equal cells. 0 is the encoder's own
            patch grid.
        points: Largest number of points of a sequence.
        keep: Of too many points, this share is kept that is seen in the most views; from it the points are drawn.
        agree: A view sees a point if the two depths differ by less than this share of the smaller one.
        border: Points nearer to the edge of an image than this are not seen, in pixels of the row's images.
        neighbours: Whether ``all`` four pixels around a point have to agree in depth, or ``any`` of them, as in the
            paper: then some points behind the edge of something nearer count as seen.
        negatives: ``frame``: the other points of the view in which the match is. ``frames``: the points of all views
            except the first. Open: the paper's notes have both.
        epipolar: Further negatives for each match: places in the same view that are no possible match, as they are far
            from the point's epipolar line.
        epipolar_distance: How far, in pixels of the row's images (Sampson distance).
        apart: A negative nearer to the true match than this does not count, in patches. Open.
        sample: How the embedding of a point is read from the patches: ``bilinear`` from four, or the ``nearest``. Open.
        patch_depth: The depth of a patch: the ``mean`` of its pixels (of their logarithms), or the one at its
            ``centre``. Open.
        layers: The blocks with a head; None is all blocks up to the one that is read, and negative ones count from the
            end. The last of them must be the one that is read.
        width: Width of an embedding. Open.
        head_start: How a head starts from the singular vectors of its block's query projection, see `start_head`. Open.
        head_norm: Normalise tokens (without weights) before the head. Open.
        temperature: Of both losses. Open.
        contrast_weight: Weight of the contrastive loss.
        depth_weight: Weight of the depth loss.
        over_layers: The loss is the mean over layers, or their sum. Open.
        epsilon: Added to the denominator of the depth loss. Open.
        radius: For the scores: a match is right if it is at most this many patches away.
    """

    kind: Literal["correspondence"] = "correspondence"
    frames: tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]] = (8, 24)
    window: int = Field(default=48, ge=1)
    grids: list[Annotated[int, Field(ge=0, le=256)]] = Field(default=[8, 24], min_length=1)
    points: int = Field(default=512, ge=2)
    keep: Share = 0.5
    agree: float = Field(default=0.05, gt=0, lt=1)
    border: float = Field(default=4.0, ge=0)
    neighbours: Literal["any", "all"] = "all"
    negatives: Literal["frame", "frames"] = "frame"
    epipolar: int = Field(default=0, ge=0)
    epipolar_distance: float = Field(default=16.0, gt=0)
    apart: float = Field(default=1.0, ge=0)
    sample: Literal["bilinear", "nearest"] = "bilinear"
    patch_depth: Literal["mean", "centre"] = "mean"
    layers: Annotated[list[int], Field(min_length=1)] | None = None
    width: int = Field(default=256, ge=1)
    head_start: Literal["paired", "truncated", "random"] = "paired"
    head_norm: bool = True
    temperature: float = Field(default=0.07, gt=0)
    contrast_weight: float = Field(default=0.3, ge=0)
    depth_weight: float = Field(default=1.0, ge=0)
    over_layers: Literal["mean", "sum"] = "mean"
    epsilon: float = Field(default=1e-6, gt=0)
    radius: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _some_loss(self) -> CorrespondenceOptions:
        if self.frames[0] > self.frames[1]:
            raise ValueError(f"frames is {list(self.frames)}; expected the smallest number of views, then the largest")
        if not self.contrast_weight and not self.depth_weight:
            raise ValueError("contrast_weight and depth_weight are both 0, so there is nothing to learn")
        return self


class CorrespondenceBoostConfig(BoostStageConfig):
    """Settings of the stage that trains Attn+, the gates and the heads.

    Attributes:
        head_lr: Highest learning rate of the heads; None is four times `lr`, as in the paper.
        shuffle_pairs: For the control experiment: exchange the matches among the points of each view, so that no point
            is paired with itself.
    """

    head_lr: float | None = Field(default=None, gt=0)
    shuffle_pairs: bool = False

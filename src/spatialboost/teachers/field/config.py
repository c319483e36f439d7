"""The options of the teacher ``field``, and the settings of its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spatialboost.encoders.run_file import resolve_path
from spatialboost.teachers.protocol import TeacherOptions
from spatialboost.training.config import BoostStageConfig, StageConfig

Share = Annotated[float, Field(gt=0, lt=1)]


class GeometryConfig(BaseModel):
    """Where cameras, depths and geometric features come from.

    Attributes:
        kind: ``known``: from the depth maps, poses and intrinsics of the rows. ``vggt``: from a frozen VGGT, which
            needs images only.
        name: For vggt: a Hub id, or a folder with ``model.safetensors`` (and ``config.json``).
        image_size: For vggt: (height, width) of the images that it sees, multiples of 14.
        aggregation: For vggt: how context features are kept from knowing the target views. ``masked``: one pass, in
            which the global attention of context views does not see target views. ``two passes``: one pass over the
            context views, one over all.
        bf16: For vggt: compute its blocks in bfloat16 by autocast; its heads stay in float32.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    kind: Literal["known", "vggt"] = "known"
    name: str = "facebook/VGGT-1B"
    image_size: tuple[Annotated[int, Field(ge=14)], Annotated[int, Field(ge=14)]] = (392, 518)
    aggregation: Literal["masked", "two passes"] = "masked"
    bf16: bool = False

    @model_validator(mode="after")
    def _settings_of_the_kind(self) -> GeometryConfig:
        defaults = type(self).model_fields
        given = [key for key in defaults if key != "kind" and getattr(self, key) != defaults[key].default]
        if self.kind == "known" and given:
            raise ValueError(f"geometry.{given[0]} is for kind: vggt; leave it out with kind: known")
        if self.kind == "vggt" and any(side % 14 for side in self.image_size):
            raise ValueError(f"geometry.image_size is {list(self.image_size)}; expected multiples of 14")
        return self


class FieldOptions(TeacherOptions):
    """The keys of `teacher:` for ``kind: field``.

    What the paper does not tell is marked as open; ``docs/teachers.md`` has the reason for each choice.

    Attributes:
        geometry: Where cameras, depths and geometric features come from.
        frames: Smallest and largest number of views of a sequence; the number is drawn. A row with fewer views gives
            all it has.
        target_share: Share of the views that are only rendered. Of V views, int(V * (1 - share)) are context, at least
            one; the first view always is.
        pupil: What the boosted encoder's tokens are. ``context``: the features of the context views, from which the
            field renders what the base encoder and the geometry see from elsewhere. ``semantic``: what the field
            renders; its own input is then VGGT's features as in the paper, or with known geometry those of the base
            encoder, and it is not trained further.
        over: The loss is over the ``targets``, or over ``all`` views. Open: the paper says the first, its code does the
            second.
        latents: Number of latents of a scene.
        width: Width of the field.
        depth: Blocks of its encoder, and of its decoder.
        heads: Heads of their attention.
        camera: How the field knows cameras. ``prope``: they act on the attention. ``pluecker``: they are a part of each
            token.
        standardise: The field gets the encoder's features with mean 0 and variance 1 in each channel, and what it
            renders begins at their mean; measured on 64 training images. Losses are those of the features as they are.
        geometric_weight: Weight of the geometric features; 0 leaves them out.
        semantic_weight: Weight of the encoder's features.
    """

    kind: Literal["field"] = "field"
    geometry: GeometryConfig = GeometryConfig()
    frames: tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]] = (4, 12)
    target_share: Share = 0.5
    pupil: Literal["context", "semantic"] = "context"
    over: Literal["targets", "all"] = "all"
    latents: int = Field(default=256, ge=1)
    width: int = Field(default=768, ge=8)
    depth: int = Field(default=6, ge=1)
    heads: int = Field(default=12, ge=1)
    camera: Literal["prope", "pluecker"] = "prope"
    standardise: bool = True
    geometric_weight: float = Field(default=1.0, ge=0)
    semantic_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> FieldOptions:
        if self.frames[0] > self.frames[1]:
            raise ValueError(f"frames is {list(self.frames)}; expected the smallest number of views, then the largest")
        if self.width % (8 * self.heads):
            raise ValueError(
                f"width is {self.width} with {self.heads} heads; expected a multiple of 8 for each head, such as "
                f"width: {8 * self.heads * max(1, self.width // (8 * self.heads))}"
            )
        if not self.geometric_weight and not self.semantic_weight:
            raise ValueError("geometric_weight and semantic_weight are both 0, so there is nothing to learn")
        if self.pupil == "semantic" and not self.semantic_weight:
            raise ValueError("pupil: semantic needs a semantic_weight above 0: it is what the encoder learns from")
        return self

    def from_folder(self, folder: Path) -> FieldOptions:
        """The options with VGGT's folder joined to the folder of the run's file."""
        path = resolve_path(self.geometry.name, folder)
        if self.geometry.kind != "vggt" or not path.is_dir():
            return self
        return self.model_copy(update={"geometry": self.geometry.model_copy(update={"name": str(path)})})


class ViewKeys(BaseModel):
    """Keys of both stages.

    Attributes:
        exchange_views: For the control experiment: the context views of a row show another row's place, with that
            row's cameras; so nothing can be learnt about the views to render but what all places have in common.
    """

    exchange_views: bool = False


class FieldConfig(StageConfig, ViewKeys):
    """Settings of the stage that trains the field on the frozen encoder."""

    lr: float = Field(default=1e-3, gt=0)


class FieldBoostConfig(BoostStageConfig, ViewKeys):
    """Settings of the stage that trains Attn+ and the gates, and with ``pupil: context`` the field, too.

    Attributes:
        field_lr: Highest learning rate of the field; None uses `lr`.
        train_field: With ``pupil: context``: train the field further.
    """

    field_lr: float | None = Field(default=None, gt=0)
    train_field: bool = True

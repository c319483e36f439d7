"""A teacher as a user would write it. The encoder has to predict the mean colour of each patch."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from spatialboost.encoders import feature_dim, read_tokens
from spatialboost.teachers.protocol import Objective, Stage, Teacher, TeacherOptions
from spatialboost.training import StageConfig
from spatialboost.training.config import BoostStageConfig
from spatialboost.training.optimizers import decay_groups


class ColourObjective(Objective):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(feature_dim(encoder), 3)

    def forward(self, pixel_values=None, patch_features=None, colour=None):
        if patch_features is None:
            patch_features = read_tokens(self.encoder, pixel_values).patches
        return {"loss": (self.head(patch_features) - colour).square().mean()}


class ColourOptions(TeacherOptions):
    kind: Literal["made_up"] = "made_up"
    scale: float = 1.0


class ColourTeacher(Teacher):
    Options = ColourOptions
    stages: ClassVar = {"head": Stage(StageConfig, cached=True), "boost": Stage(BoostStageConfig, boosts=True)}

    def __init__(self, objective: ColourObjective, images) -> None:
        self.objective, self.images = objective, images

    @classmethod
    def build(cls, options, inputs):
        return cls(ColourObjective(inputs.encoder), inputs.images)

    def groups(self, stage, config):
        return decay_groups(self.objective.head, config.lr, config.weight_decay)

    def make_example(self, config, rows, numbers):
        return Colours(self.images)


class Colours:
    def __init__(self, images) -> None:
        self.images = images

    def __call__(self, number, row):
        pooled = nn.functional.adaptive_avg_pool2d(self.images(row), self.images.grid)
        return {"colour": pooled[0].flatten(1).T}

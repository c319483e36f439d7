"""A made-up probe, as somebody else would write it: linear regression of a view's mean brightness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch

from spatialboost.probes.draws import Draw
from spatialboost.probes.inputs import ViewSplits
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import Metric, ProbeRow
from spatialboost.probes.ridge import Moments
from spatialboost.scenes.cues import Cues


@dataclass(frozen=True)
class BrightnessProbe(Probe):
    """Linear regression of the mean brightness."""

    name = "brightness"
    metrics = {"error": Metric("mean error", "grey levels")}  # noqa: RUF012
    splits = ViewSplits
    baseline = "mean brightness"
    patches = False

    ridge: Annotated[float, "Added to the diagonal."] = 0.001

    def keep(self, item: Cues, grid: tuple[int, int], image_size: tuple[int, int]) -> float:
        return float(item.image_HW3.mean())

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        x_VD, y_V = train.features.tokens_VND[:, 0], torch.tensor(train.kept)
        rows, first = [], None
        for draw in draws:
            weight_1D, bias_1 = Moments.of(x_VD[draw.items], y_V[draw.items]).solve([self.ridge])
            guess_V = test.features.tokens_VND[:, 0].double() @ weight_1D[0] + bias_1
            error_V = (guess_V - torch.tensor(test.kept)).abs()
            rows.append(ProbeRow(name, draw.seed, {"error": error_V.mean().item()}, {}, error_V.tolist()))
            first = guess_V if first is None else first
        return Measured(rows, [first[index].item() for index in shown])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        error = np.abs(np.array(test.kept) - np.mean(train.kept)).mean()
        return ProbeRow(self.baseline, None, {"error": float(error)})

    def panel(self, item: Cues, shown: Mapping[str, Any]) -> BrightnessPanel:
        return BrightnessPanel(item.image_HW3, shown)


@dataclass(frozen=True)
class BrightnessPanel:
    image_HW3: np.ndarray
    shown: Mapping[str, float]
    num_pictures = 2
    aspect = 1.0

    def draw(self, axes: Sequence[Any]) -> None:
        axes[0].imshow(self.image_HW3)
        axes[1].barh(range(len(self.shown)), list(self.shown.values()))

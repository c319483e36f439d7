"""Segmentation probe: how well a linear head on frozen patch tokens tells the class of each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.draws import Draw
from spatialboost.probes.features import Features
from spatialboost.probes.heads import RATES, HeadTraining, LinearHead, train_heads
from spatialboost.probes.inputs import SegmentationFolder
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.probes.segmentation_panel import SegmentationPanel
from spatialboost.probes.segmented_images import NONE, SegmentedImage, SegmentedImages

# Shape legend: V views, B views of a batch, N patches, C classes, H and W pixels of the labels.

COMMONEST = "most frequent class"
FINE = 4  # labels of a patch in each direction while a head is trained


@dataclass(frozen=True)
class SegmentationProbe(Probe):
    """Linear segmentation: batch normalisation and a linear map from patch tokens to classes.

    `segmentation_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is out of its range.
    """

    name = "segmentation"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "miou": Metric("mIoU", higher_is_better=True),
        "accuracy": Metric("pixel accuracy", higher_is_better=True),
    }
    splits = SegmentationFolder
    baseline = COMMONEST

    steps: Annotated[int, "Steps of the optimiser."] = 1000
    batch: Annotated[int, "Images in a training step of the head."] = 16
    rates: Annotated[list[float], "Learning rate to choose from; repeat it for several."] = field(
        default_factory=lambda: list(RATES)
    )

    def __post_init__(self) -> None:
        _ = self.training

    @property
    def training(self) -> HeadTraining:
        """How the heads are trained."""
        return HeadTraining(steps=self.steps, batch_size=self.batch, rates=self.rates)

    def keep(self, item: SegmentedImage, grid: tuple[int, int], image_size: tuple[int, int]) -> tuple[np.ndarray, int]:
        """The labels of a grid that is four times finer than that of the patches, int16, and the largest label."""
        height, width = item.labels_HW.shape
        row = ((np.arange(FINE * grid[0]) + 0.5) * height / (FINE * grid[0])).astype(int)
        column = ((np.arange(FINE * grid[1]) + 0.5) * width / (FINE * grid[1])).astype(int)
        return item.labels_HW[np.ix_(row, column)].astype(np.int16), int(item.labels_HW.max())

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Train a head for each draw, and score every pixel of the test images."""
        classes, features = _num_classes(train, test), train.features
        width = features.tokens[0].shape[-1]
        rows: list[ProbeRow] = []
        pictures: list[Tensor] = []
        for draw in draws:

            def batch(items: Sequence[int]) -> tuple[Tensor, Tensor]:
                labels = np.stack([train.kept[item][0] for item in items])
                return torch.stack([features.tokens[item] for item in items]), torch.from_numpy(labels).long()

            head, rate = train_heads(
                lambda: LinearHead(width, classes),
                batch,
                lambda head, given: _loss(head, given, features.grid),
                draw.items.tolist(),
                self.training,
                seed=draw.seed or 0,
            )
            guesses = _predict(head, test)
            metrics, per_view = score_classes(zip(guesses, _labels(test), strict=True), classes)
            rows.append(ProbeRow(name, draw.seed, metrics, {"rate": rate}, per_view))
            if not pictures:
                pictures = [_predict_one(head, test.features, index) for index in shown]
        return Measured(rows, pictures)

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of the most frequent training class everywhere."""
        classes = _num_classes(train, test)
        counts = sum(np.bincount(kept[kept != NONE], minlength=classes) for kept, _ in train.kept)
        common = int(np.argmax(counts))
        guesses = (torch.full(labels.shape, common) for labels in _labels(test))
        metrics, per_view = score_classes(zip(guesses, _labels(test), strict=True), classes)
        return ProbeRow(COMMONEST, None, metrics, {"class": common}, per_view)

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The options as text for the result."""
        return {
            "head": "batch normalisation and a linear map, cross-entropy",
            "classes": _num_classes(train, test),
            "steps": self.steps,
            "batch": self.batch,
            "rates": list(self.rates),
            "rate chosen by": "the loss on the last tenth of the drawn images",
            "measured on": "all pixels with a class, logits upsampled bilinearly, one scale",
        }

    def panel(self, item: SegmentedImage, shown: Mapping[str, Tensor]) -> SegmentationPanel:
        """A picture with image, true classes and the predictions of the first run."""
        size = item.labels_HW.shape
        guesses = {name: _enlarge(logits, (size[0], size[1])).numpy() for name, logits in shown.items()}
        return SegmentationPanel(item.source, item.image_HW3, item.labels_HW, guesses)


def segmentation_probe(
    encoders: Encoders,
    train: SegmentedImages | str | Path,
    test: SegmentedImages | str | Path | None = None,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int | Sequence[int] = -1,
    seeds: Sequence[int] = (0, 1, 2),
    subset: float = 0.8,
    steps: int = 1000,
    batch: int = 16,
    rates: Sequence[float] = RATES,
    batch_size: int = 16,
    num_panels: int = 4,
    progress: bool = False,
) -> ProbeResult:
    """Train a linear head from patch tokens to classes, and measure mean intersection over union.

    Example:
        >>> segmentation_probe(encoder, "ADEChallengeData2016", image_size=512)  # doctest: +SKIP

    The head is that of DINOv2's linear evaluation (arXiv 2304.07193, batch normalisation and a linear map). The
    features are read once. Logits are upsampled bilinearly: four times while the head is trained, to the size of the
    label file when it is measured. There is one head for each rate; the one with the least loss on the last tenth of
    the drawn training images is measured. For the "+ms" rows of papers give the last four layers. The mean is over the
    classes that occur in labels or predictions of the test images.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        train: training images, or the folder of a whole set, see `open_segmentation`.
        test: test images; not given for the folder of a whole set.
        image_size: (height, width) to which the whole image is resized for the encoder, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width.
        seeds: one draw of the training images, and one head, for each seed.
        subset: share of the training images that a seed draws.
        steps: steps of the optimiser.
        batch: images in a training step of the head.
        rates: learning rates to choose from.
        batch_size: images that go through the encoder at a time.
        num_panels: test images in the picture.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: a folder without images, or an encoder that cannot be read.
    """
    if test is None:
        if isinstance(train, SegmentedImages):
            raise SpatialBoostError("no test images were given; expected `test`, or the folder of a whole set")
        train, test = SegmentationFolder(str(train)).open()
    options = CommonOptions(image_size, layer, batch_size, seeds, subset, num_panels, progress)
    return run_probe(SegmentationProbe(steps, batch, list(rates)), encoders, train, test, options)


def score_classes(guesses: Iterator[tuple[Tensor, Tensor]], classes: int) -> tuple[dict[str, float], list[float]]:
    """mIoU and pixel accuracy over all images together, and the mIoU of each image alone.

    Args:
        guesses: predicted and true classes ``(H, W)`` of each image; -1 in the truth is not measured.
        classes: number of classes.

    Raises:
        SpatialBoostError: no pixel has a class.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    total_CC, per_view = torch.zeros(classes, classes, dtype=torch.float64), []
    for guess, truth in guesses:
        counts_CC = multiclass_confusion_matrix(guess, truth, classes, ignore_index=NONE).double()
        total_CC += counts_CC
        if counts_CC.any():
            per_view.append(_mean_iou(counts_CC))
    if not total_CC.any():
        raise SpatialBoostError("no pixel of the test images has a class, so there is nothing to measure")
    accuracy = float(total_CC.diagonal().sum() / total_CC.sum())
    return {"miou": _mean_iou(total_CC), "accuracy": accuracy}, per_view


def _mean_iou(counts_CC: Tensor) -> float:
    """Mean over the classes that occur."""
    both_C = counts_CC.diagonal()
    union_C = counts_CC.sum(0) + counts_CC.sum(1) - both_C
    return float((both_C / union_C)[union_C > 0].mean())


def _loss(head: nn.Module, given: tuple[Tensor, Tensor], grid: tuple[int, int]) -> Tensor:
    """Cross-entropy of the upsampled logits."""
    tokens_BND, labels_Bhw = given
    logits_BChw = _as_maps(head(tokens_BND.float()), grid)
    logits = nn.functional.interpolate(logits_BChw, size=labels_Bhw.shape[1:], mode="bilinear", align_corners=False)
    measured = labels_Bhw != NONE
    if not bool(measured.any()):
        return logits.sum() * 0  # a batch without a class
    return nn.functional.cross_entropy(logits, labels_Bhw, ignore_index=NONE)


def _as_maps(logits_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
    return logits_BNC.transpose(1, 2).unflatten(2, grid)


@torch.no_grad()
def _predict_one(head: nn.Module, features: Features, index: int) -> Tensor:
    """Logits ``(C, rows, columns)`` of one image."""
    return _as_maps(head(features.tokens[index][None].float()), features.grid)[0]


def _predict(head: nn.Module, test: ReadSplit) -> Iterator[Tensor]:
    """The predicted class of each pixel, image by image."""
    for index, labels in enumerate(_labels(test)):
        yield _enlarge(_predict_one(head, test.features, index), (labels.shape[0], labels.shape[1]))


def _enlarge(logits_Chw: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of each pixel ``(H, W)``."""
    return nn.functional.interpolate(logits_Chw[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0)


def _labels(test: ReadSplit) -> Iterator[Tensor]:
    return (torch.from_numpy(item.labels_HW) for item in test.items)


def _num_classes(train: ReadSplit, test: ReadSplit) -> int:
    """That of the set, or one more than the largest label.

    Raises:
        SpatialBoostError: there are fewer than two.
    """
    found = train.items.source.classes or 1 + max(most for split in (train, test) for _, most in split.kept)
    if found < 2:
        raise SpatialBoostError(f"the labels have {found} classes; expected at least 2")
    return found

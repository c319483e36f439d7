"""Segmentation probe: how well a linear head on frozen patch tokens tells the class of each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.class_scores import ClassCounts
from spatialboost.probes.draws import Draw
from spatialboost.probes.heads import RATES, HeadTraining, LinearHead, as_maps, enlarge, train_heads
from spatialboost.probes.inputs import SegmentationFolder
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.options import CommonOptions, Layer
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.probes.segmentation_panel import SegmentationPanel
from spatialboost.probes.segmented_images import NONE, SegmentedImage, SegmentedImages
from spatialboost.probes.windows import FINE, Reading, random_window, sliding_windows, whole

# Shape legend: V views, B views of a batch, N patches, D width of the tokens, C classes, H and W pixels of the labels,
# h and w those of a window.

COMMONEST = "most frequent class"


@dataclass(frozen=True)
class SegmentationProbe(HeadTraining, Probe):
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

    features: Annotated[Reading, "Read whole images once, or random windows of them at each step."] = "stored"
    zoom: Annotated[list[float], "fresh: smallest and largest zoom of windows; repeat it for both."] = field(
        default_factory=lambda: [0.5, 2.0]
    )
    stride: Annotated[float, "Test on windows, this share of their side apart; 0 is the whole image, squeezed."] = 0.0
    scales: Annotated[list[float], "Scale of the image in the test, from 1; the mean of several is taken."] = field(
        default_factory=lambda: [1.0]
    )
    flips: Annotated[bool, "Average the prediction with that of the mirrored image."] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features not in get_args(Reading):
            raise SpatialBoostError(f"features is {self.features!r}; expected one of {get_args(Reading)}")
        if len(self.zoom) not in (1, 2) or not 0 < self.zoom[0] <= self.zoom[-1]:
            raise SpatialBoostError(f"zoom is {self.zoom}; expected the smallest and the largest, above 0")
        if not 0 <= self.stride <= 1 or not len(self.scales) or min(self.scales) < 1:
            raise SpatialBoostError(
                f"stride is {self.stride} and scales {list(self.scales)}; expected a share of a window, and scales of "
                "at least 1"
            )
        if not self.stride and list(self.scales) != [1.0]:
            raise SpatialBoostError(f"scales are {list(self.scales)}, which need windows: give a stride, such as 0.667")

    def stored(self, split: str) -> bool:
        """Whether whole images are read once: not where windows are drawn or slid, or images mirrored."""
        return self.features == "stored" if split == "train" else not (self.stride or self.flips)

    def keep(self, item: SegmentedImage, grid: tuple[int, int], image_size: tuple[int, int]) -> tuple[np.ndarray, int]:
        """The labels of a grid that is finer than that of the patches, int16, and the largest label."""
        fine = FINE if self.features == "stored" else 1
        labels = whole((fine * grid[0], fine * grid[1])).of_map(item.labels_HW, NONE)
        return labels.astype(np.int16), int(item.labels_HW.max())

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Train a head for each draw, and score every pixel of the test images."""
        classes = _num_classes(train, test)
        fits = [self._fit(train, draw, classes) for draw in draws]
        counts = [ClassCounts(classes) for _ in fits]
        pictures: dict[int, Tensor] = {}
        for index, item in enumerate(test.items):
            guesses = self._predict([head for head, _ in fits], test, index, item)
            for each, guess_HW in zip(counts, guesses, strict=True):
                each.add(guess_HW, torch.from_numpy(item.labels_HW))
            if index in shown:
                pictures[index] = guesses[0]
        rows = [
            ProbeRow(name, draw.seed, each.metrics(), {"rate": rate}, each.per_view)
            for draw, (_, rate), each in zip(draws, fits, counts, strict=True)
        ]
        return Measured(rows, [pictures[index] for index in shown])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of the most frequent training class everywhere."""
        counts = ClassCounts(_num_classes(train, test))
        numbers = sum(np.bincount(kept[kept != NONE], minlength=counts.classes) for kept, _ in train.kept)
        common = int(np.argmax(numbers))
        for item in test.items:
            counts.add(torch.full(item.labels_HW.shape, common), torch.from_numpy(item.labels_HW))
        return ProbeRow(COMMONEST, None, counts.metrics(), {"class": common}, counts.per_view)

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The options as text for the result."""
        windows = f"random windows, zoom {' to '.join(f'{each:g}' for each in self.zoom)}, mirrored or not"
        scales = "one scale" if len(self.scales) == 1 else f"scales {', '.join(f'{each:g}' for each in self.scales)}"
        sliding = f", windows {self.stride:.3g} of their side apart" if self.stride else ", whole images"
        mirrored = ", and mirrored" if self.flips else ""
        return {
            "head": "batch normalisation and a linear map, cross-entropy",
            "classes": _num_classes(train, test),
            "trained on": "whole images, read once" if self.features == "stored" else windows,
            **self.about_training(),
            "measured on": f"all pixels with a class, logits upsampled bilinearly, {scales}{sliding}{mirrored}",
        }

    def panel(self, item: SegmentedImage, shown: Mapping[str, Tensor]) -> SegmentationPanel:
        """A picture with image, true classes and the predictions of the first run."""
        guesses = {name: guess_HW.numpy() for name, guess_HW in shown.items()}
        return SegmentationPanel(item.source, item.image_HW3, item.labels_HW, guesses)

    def _fit(self, train: ReadSplit, draw: Draw, classes: int) -> tuple[nn.Module, float]:
        """A trained head, and its rate."""
        features = train.features
        width = features.tokens[0].shape[-1]

        def stored(items: Sequence[int]) -> tuple[Tensor, Tensor]:
            labels_Bhw = torch.from_numpy(np.stack([train.kept[item][0] for item in items])).long()
            tokens_BND = torch.stack([features.tokens[item] for item in items])
            return tokens_BND.to(features.device), labels_Bhw.to(features.device)

        def fresh(items: Sequence[int]) -> tuple[Tensor, Tensor]:
            assert train.read is not None
            images, labels = [], []
            for image in (train.items[item] for item in items):
                size = (image.labels_HW.shape[0], image.labels_HW.shape[1])
                window, _ = random_window(size, features.image_size, self.zoom, squeezed=False)
                images.append(window.of_image(image.image_HW3))
                labels.append(window.of_map(image.labels_HW, NONE))
            return train.read(images), torch.from_numpy(np.stack(labels)).to(features.device)

        return train_heads(
            lambda: LinearHead(width, classes).to(features.device),
            stored if self.features == "stored" else fresh,
            lambda head, given: _loss(head, given, features.grid),
            draw.items.tolist(),
            self,
            seed=draw.seed or 0,
        )

    @torch.no_grad()
    def _predict(self, heads: Sequence[nn.Module], test: ReadSplit, index: int, item: SegmentedImage) -> list[Tensor]:
        """The class of each pixel ``(H, W)`` that each head predicts."""
        features = test.features
        size = (item.labels_HW.shape[0], item.labels_HW.shape[1])
        if self.stored("test"):
            tokens_BND = features.tokens[index][None].to(features.device)
            logits = [enlarge(as_maps(head(tokens_BND), features.grid), size)[0] for head in heads]
        else:
            logits = [torch.zeros(()) for _ in heads]
            for scale in self.scales:
                for mirrored in (False, True) if self.flips else (False,):
                    for place, found in enumerate(self._on_windows(heads, test, item.image_HW3, scale, mirrored)):
                        logits[place] = logits[place] + enlarge(found[None], size)[0].softmax(0)
        return [each.argmax(0).cpu() for each in logits]

    def _on_windows(
        self, heads: Sequence[nn.Module], test: ReadSplit, image_HW3: np.ndarray, scale: float, mirrored: bool
    ) -> list[Tensor]:
        """Logits ``(C, height, width)`` of the resized image by each head: where windows overlap, their mean."""
        assert test.read is not None
        features = test.features
        image_HW3 = np.ascontiguousarray(image_HW3[:, ::-1]) if mirrored else image_HW3
        size = (image_HW3.shape[0], image_HW3.shape[1])
        windows = [whole(features.image_size)]
        if self.stride:
            windows = sliding_windows(size, features.image_size, self.stride, scale)
        tokens_BND = test.read([window.of_image(image_HW3) for window in windows])
        merged = []
        for head in heads:
            logits_BChw = enlarge(as_maps(head(tokens_BND), features.grid), features.image_size)
            sums = logits_BChw.new_zeros(logits_BChw.shape[1], *windows[0].resized)
            times = logits_BChw.new_zeros(windows[0].resized)
            for window, logits_Chw in zip(windows, logits_BChw, strict=True):
                part = (
                    slice(window.top, window.top + window.size[0]),
                    slice(window.left, window.left + window.size[1]),
                )
                sums[:, part[0], part[1]] += logits_Chw
                times[part] += 1
            merged.append((sums / times).flip(-1) if mirrored else sums / times)
        return merged


def segmentation_probe(
    encoders: Encoders,
    train: SegmentedImages | str | Path,
    test: SegmentedImages | str | Path | None = None,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: Layer = -1,
    seeds: Sequence[int] = (0, 1, 2),
    subset: float = 0.8,
    steps: int = 1000,
    batch: int = 16,
    rates: Sequence[float] = RATES,
    batch_size: int = 16,
    num_panels: int = 4,
    progress: bool = False,
    **more: Any,
) -> ProbeResult:
    """Train a linear head from patch tokens to classes, and measure mean intersection over union.

    Example:
        >>> segmentation_probe(encoder, "ADEChallengeData2016", image_size=512)  # doctest: +SKIP

    The head is that of DINOv2's linear evaluation (arXiv 2304.07193, batch normalisation and a linear map). The
    features are read once. Logits are upsampled bilinearly: four times while the head is trained, to the size of the
    label file when it is measured. There is one head for each rate; the one with the least loss on the last tenth of
    the drawn training images is measured. The mean is over the classes that occur in labels or predictions of the test
    images. For the "+ms" rows of papers give the last four layers, ``stride`` and ``scales``: the image then keeps its
    aspect, its shorter side is ``image_size`` times each scale, and windows of ``image_size`` slide over it. Their
    logits are averaged, then the probabilities of all scales. ``features="fresh"`` trains on random windows that the
    encoder reads at each step, as the papers do.

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
        **more: other fields of `SegmentationProbe`, such as ``stride=2 / 3`` and ``scales``.

    Raises:
        SpatialBoostError: a folder without images, or an encoder that cannot be read.
    """
    if test is None:
        if isinstance(train, SegmentedImages):
            raise SpatialBoostError("no test images were given; expected `test`, or the folder of a whole set")
        train, test = SegmentationFolder(str(train)).open()
    options = CommonOptions(image_size, layer, batch_size, seeds, subset, num_panels, progress)
    return run_probe(SegmentationProbe(steps, batch, list(rates), **more), encoders, train, test, options)


def _loss(head: nn.Module, given: tuple[Tensor, Tensor], grid: tuple[int, int]) -> Tensor:
    """Cross-entropy of the upsampled logits."""
    tokens_BND, labels_Bhw = given
    logits = enlarge(as_maps(head(tokens_BND.float()), grid), (labels_Bhw.shape[1], labels_Bhw.shape[2]))
    measured = labels_Bhw != NONE
    if not bool(measured.any()):
        return logits.sum() * 0  # a batch without a class
    return nn.functional.cross_entropy(logits, labels_Bhw, ignore_index=NONE)


def _num_classes(train: ReadSplit, test: ReadSplit) -> int:
    """That of the set, or one more than the largest label.

    Raises:
        SpatialBoostError: there are fewer than two.
    """
    found = train.items.source.classes or 1 + max(most for split in (train, test) for _, most in split.kept)
    if found < 2:
        raise SpatialBoostError(f"the labels have {found} classes; expected at least 2")
    return found

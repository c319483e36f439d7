"""Linear probe: how well a linear map tells the class of an image from frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.classification import CHANCE, FIT_HELP, Fit, KnnProbe, about_fit, check_fit
from spatialboost.probes.draws import Draw
from spatialboost.probes.heads import HeadTraining, LinearHead, train_heads
from spatialboost.probes.image_folder import LabelledImages
from spatialboost.probes.inputs import ImageFolders
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.options import CommonOptions, Layer
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import Encoders, run_probe

# Shape legend: V images, B images of a batch, D width of the features.

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
Token = Literal["auto", "class", "mean", "both"]


@dataclass(frozen=True)
class LinearProbe(HeadTraining, Probe):
    """Classification by a linear map, trained with a grid of rates.

    `linear_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is not known or out of its range.
    """

    name = "linear"
    metrics: ClassVar = {
        "accuracy": Metric("accuracy", higher_is_better=True),
        "top5": Metric("accuracy of five guesses", higher_is_better=True),
    }
    splits = ImageFolders
    baseline = CHANCE
    patches = False

    token: Annotated[Token, "Class token, mean patch token, both joined, or auto: class if there is one."] = "auto"
    fit: Annotated[Fit, FIT_HELP] = "squeeze"
    norm: Annotated[bool, "Batch normalisation before the linear map."] = True
    batch: Annotated[int, "Images in a training step of the head."] = 256
    rates: Annotated[list[float], "Learning rate to choose from; repeat it for several."] = field(
        default_factory=lambda: list(RATES)
    )

    check_sources = KnnProbe.check_sources
    image = KnnProbe.image
    keep = KnnProbe.keep

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fit(self.fit)
        if self.token not in get_args(Token):
            raise SpatialBoostError(f"token is {self.token!r}; expected one of {get_args(Token)}")

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Train a head for each draw, and score the test images."""
        x_VD, x_test_VD = (split.features.vectors(self.token) for split in (train, test))
        y_V, y_test_V = (torch.tensor(split.kept) for split in (train, test))
        classes, device = len(train.items.source.classes), train.features.device
        rows = []
        for draw in draws:
            # images are stored class by class, so the held-out ones must be a random part
            mixed = draw.items[torch.randperm(len(draw.items), generator=_generator(draw)).numpy()]
            head, rate = train_heads(
                lambda: LinearHead(x_VD.shape[1], classes, norm=self.norm).to(device),
                lambda items: (x_VD[list(items)].to(device), y_V[list(items)].to(device)),
                lambda head, given: nn.functional.cross_entropy(head(given[0][:, None])[:, 0], given[1]),
                mixed.tolist(),
                self,
                seed=draw.seed or 0,
            )
            with torch.no_grad():
                logits_VC = head(x_test_VD[:, None].to(device))[:, 0].cpu()
            best_V5 = logits_VC.topk(min(5, classes), dim=1).indices
            right_V5 = best_V5 == y_test_V[:, None]
            metrics = {"accuracy": _share(right_V5[:, 0]), "top5": _share(right_V5.any(1))}
            rows.append(ProbeRow(name, draw.seed, metrics, {"rate": rate}, right_V5[:, 0].double().tolist()))
        return Measured(rows)

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The accuracy of the most frequent training classes."""
        counts = torch.bincount(torch.tensor(train.kept), minlength=len(train.items.source.classes))
        truth_V1 = torch.tensor(test.kept)[:, None]
        right_V5 = counts.topk(min(5, len(counts))).indices == truth_V1
        return ProbeRow(CHANCE, None, {"accuracy": _share(right_V5[:, 0]), "top5": _share(right_V5.any(1))})

    def about(self, train: ReadSplit) -> dict[str, Any]:
        """The settings of the features, and which token represents the image."""
        return {**train.features.about(), "token": train.features.chosen_token(self.token)}

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The options and the number of classes."""
        return {
            "head": f"{'batch normalisation and ' if self.norm else ''}a linear map, cross-entropy",
            **about_fit(self.fit),
            "classes": len(train.items.source.classes),
            **self.about_training(),
        }


def linear_probe(
    encoders: Encoders,
    train: LabelledImages | str | Path,
    test: LabelledImages | str | Path,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: Layer = -1,
    seeds: Sequence[int] = (0, 1, 2),
    subset: float = 1.0,
    token: Token = "auto",
    steps: int = 1000,
    batch: int = 256,
    rates: Sequence[float] = RATES,
    batch_size: int = 32,
    progress: bool = False,
) -> ProbeResult:
    """Train a linear map from one vector of an image to its class, with a grid of learning rates.

    Example:
        >>> linear_probe(encoder, "imagenet/train", "imagenet/val")  # doctest: +SKIP

    The vector is the class token, or the mean patch token if the encoder has none (``token``). The head is batch
    normalisation and a linear map. There is one head for each rate, all trained in one pass over the stored features;
    the one with the least loss on a random tenth of the drawn training images is measured. This is the shape of the
    linear evaluation of DINOv2 and DINOv3 (arXiv 2304.07193, 2508.10104), without their augmentations of images.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        train: training images, or their folder (``CLASS/NAME.jpg``).
        test: images that are classified, or their folder; the same classes.
        image_size: (height, width) to which images are resized, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width.
        seeds: one draw of the training images, and one head, for each seed.
        subset: share of the training images that a seed draws.
        token: the vector of an image.
        steps: steps of the optimiser.
        batch: images in a training step of the head.
        rates: learning rates to choose from.
        batch_size: images that go through the encoder at a time.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: a folder without images, different classes in the splits, or an encoder that cannot be read.
    """
    options = CommonOptions(image_size, layer, batch_size, seeds, subset, progress=progress)
    return run_probe(
        LinearProbe(steps=steps, batch=batch, rates=list(rates), token=token), encoders, train, test, options
    )


def _generator(draw: Draw) -> torch.Generator:
    return torch.Generator().manual_seed(draw.seed or 0)


def _share(right: Tensor) -> float:
    return right.double().mean().item()

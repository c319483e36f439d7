"""kNN probe: can the encoder still distinguish classes? The nearest training images vote; nothing is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.draws import Draw
from spatialboost.probes.features import Features
from spatialboost.probes.image_folder import LabelledImage, LabelledImages
from spatialboost.probes.inputs import ImageFolders
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.options import CommonOptions, Layer
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.probes.windows import middle

# Shape legend: V images, D width of the encoder, C classes.

METRICS = {"accuracy": Metric("accuracy", higher_is_better=True)}
CHANCE = "most frequent class"

Fit = Literal["squeeze", "middle"]
FIT_HELP = "Squeeze whole images, or resize the shorter side to 8/7 of the size and take the middle."


def check_fit(fit: str) -> None:
    """Raise an error unless it is a known way to fit images to the encoder's size."""
    if fit not in get_args(Fit):
        raise SpatialBoostError(f"fit is {fit!r}; expected one of {get_args(Fit)}")


def about_fit(fit: Fit) -> dict[str, str]:
    """The setting for the result, unless it is the default."""
    return {} if fit == "squeeze" else {"image fit": "the middle of an image that is resized to 8/7 of the size"}


@dataclass(frozen=True)
class KnnProbe(Probe):
    """Classification by a vote of the nearest training images.

    `knn_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is out of its range.
    """

    name = "knn"
    metrics = METRICS
    splits = ImageFolders
    baseline = CHANCE
    patches = False
    draws = False

    k: Annotated[int, "Neighbours that vote."] = 20
    temperature: Annotated[float, "Temperature of the votes: a smaller one gives near images more weight."] = 0.07
    fit: Annotated[Fit, FIT_HELP] = "squeeze"

    def __post_init__(self) -> None:
        check_fit(self.fit)
        if self.k < 1 or self.temperature <= 0:
            raise SpatialBoostError(
                f"k is {self.k} and temperature {self.temperature}; expected k of at least 1 and a temperature above 0"
            )

    def check_sources(self, train: LabelledImages, test: LabelledImages) -> None:
        """Raise an error unless both splits have the same classes."""
        if list(train.classes) != list(test.classes):
            raise SpatialBoostError(
                f"the training split has the classes {list(train.classes)}, the test split {list(test.classes)}: "
                "give both splits the same class folders"
            )

    def image(self, item: LabelledImage, image_size: tuple[int, int]) -> np.ndarray:
        """The whole image, or its middle."""
        if self.fit == "squeeze":
            return item.image_HW3
        size = (item.image_HW3.shape[0], item.image_HW3.shape[1])
        return middle(size, image_size).of_image(item.image_HW3)

    def keep(self, item: LabelledImage, grid: tuple[int, int], image_size: tuple[int, int]) -> int:
        """The class of an image."""
        return item.label

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Let the training images vote for the class of each test image."""
        vectors = _one_vector_each(train.features), _one_vector_each(test.features)
        guess_V = _vote(vectors[0], torch.tensor(train.kept), vectors[1], _num_classes(train), self.k, self.temperature)
        right_V = (guess_V == torch.tensor(test.kept)).float()
        return Measured([ProbeRow(name, None, {"accuracy": right_V.mean().item()}, {}, right_V.tolist())])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The accuracy of always answering the most frequent training class."""
        common = torch.bincount(torch.tensor(train.kept)).argmax()
        return ProbeRow(CHANCE, None, {"accuracy": (torch.tensor(test.kept) == common).float().mean().item()})

    def about(self, train: ReadSplit) -> dict[str, Any]:
        """The settings of the features, and which token represents the image."""
        return {**train.features.about(), "token": train.features.chosen_token()}

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The options and the number of classes."""
        return {
            "k": min(self.k, len(train)),
            "similarity": "cosine",
            "temperature": self.temperature,
            **about_fit(self.fit),
            "classes": _num_classes(train),
        }


def knn_probe(
    encoders: Encoders,
    train: LabelledImages | str | Path,
    test: LabelledImages | str | Path,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: Layer = -1,
    k: int = 20,
    temperature: float = 0.07,
    batch_size: int = 32,
    progress: bool = False,
) -> ProbeResult:
    """Classify each test image by a vote of its ``k`` nearest training images, as DINO's evaluation does.

    The feature is the class token, or the mean patch token if the encoder has no class token (the result states
    which). Nearness is cosine similarity s; a neighbour's vote weighs ``exp(s / temperature)`` (DINO, arXiv
    2104.14294, follows Wu et al., arXiv 1805.01978). Nothing is drawn, so there is one run and no spread.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        train: images that vote, or their folder (``CLASS/NAME.jpg``).
        test: images that are classified, or their folder; the same classes.
        image_size: (height, width) to which images are resized, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width. The final norm is
            applied to the last layer only.
        k: neighbours that vote; all images if there are fewer.
        temperature: a smaller temperature gives near images more weight.
        batch_size: images that go through the encoder at a time.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: a folder without images, different classes in the splits, or an encoder that cannot be read.
    """
    options = CommonOptions(image_size, layer, batch_size, progress=progress)
    return run_probe(KnnProbe(k, temperature), encoders, train, test, options)


def _num_classes(split: ReadSplit) -> int:
    return len(split.items.source.classes)


def _one_vector_each(features: Features) -> Tensor:
    """One unit vector ``(V, D)`` for each image."""
    return nn.functional.normalize(features.vectors(), dim=-1)


def _vote(train_VD: Tensor, labels_V: Tensor, test_VD: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    """The class with most votes for each test image."""
    guesses = []
    for block_BD in test_VD.split(max(1, min(1024, 2**27 // len(train_VD)))):  # at most 512 MiB of similarities
        nearness_Bk, index_Bk = (block_BD @ train_VD.T).topk(min(k, len(train_VD)), dim=1)
        votes_BkC = (
            nn.functional.one_hot(labels_V[index_Bk], num_classes) * (nearness_Bk / temperature).exp()[..., None]
        )
        guesses.append(votes_BkC.sum(1).argmax(1))
    return torch.cat(guesses)

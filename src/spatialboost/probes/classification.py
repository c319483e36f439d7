"""kNN probe: does the encoder still tell things apart? Votes of the nearest training images, nothing to fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.features import Features, each_encoder, read_both
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow

logger = logging.getLogger(__name__)

# Shape legend: V images, D width of the encoder, C classes.

METRICS = {"accuracy": Metric("accuracy", higher_is_better=True)}
CHANCE = "most frequent class"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class LabelledImages(Sequence[np.ndarray]):
    """Image files with a class each.

    Attributes:
        paths: the files, sorted by class and name.
        labels: index of each file's class.
        classes: names of the classes, sorted.
        left_out: what was wrong with the files that cannot be opened.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    classes: Sequence[str]
    left_out: Sequence[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return _open_image(self.paths[index])


def read_image_folder(folder: str | Path) -> LabelledImages:
    """The images of a folder laid out as ``CLASS/NAME.jpg`` (also png, webp, bmp).

    A file that is no image is left out, counted and named.

    Raises:
        SpatialBoostError: no folder, no class folders, or no image in them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SpatialBoostError(f"{folder} is not a folder; expected one with a folder of images for each class")
    classes = sorted(child.name for child in folder.iterdir() if child.is_dir())
    paths, labels, left_out = [], [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() not in SUFFIXES:
                continue
            try:
                _open_image(path)
            except OSError as error:
                left_out.append(f"{path}: {error}")
                logger.warning("%s is left out: %s", path, error)
            else:
                paths.append(path)
                labels.append(label)
    if not paths:
        raise SpatialBoostError(
            f"{folder} has {len(classes)} class folders and no image that can be opened ({len(left_out)} cannot); "
            f"expected CLASS/NAME with one of {sorted(SUFFIXES)}"
        )
    return LabelledImages(paths, labels, classes, left_out)


def knn_probe(
    encoders: nn.Module | Mapping[str, nn.Module],
    train: LabelledImages | str | Path,
    test: LabelledImages | str | Path,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int = -1,
    k: int = 20,
    temperature: float = 0.07,
    batch_size: int = 32,
    progress: bool = False,
) -> ProbeResult:
    """Classify each test image by a vote of its ``k`` nearest training images, as DINO's evaluation does.

    The feature is the class token, or the mean patch token where the encoder has no class token (the result says
    which). Nearness is cosine similarity s; a neighbour's vote weighs ``exp(s / temperature)`` (DINO, arXiv
    2104.14294, follows Wu et al., arXiv 1805.01978). Nothing is drawn, so there is one run and no spread.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        train: images that vote, or their folder (``CLASS/NAME.jpg``).
        test: images that are classified, or their folder; the same classes.
        image_size: (height, width) at which images are seen, or one number for both.
        layer: block after which tokens are read; the final norm is applied to the last layer only.
        k: neighbours that vote; all where there are fewer.
        temperature: how fast a vote fades with distance.
        batch_size: images that go through the encoder at a time.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: a folder without images, other classes in the test split, or an unreadable encoder.
    """
    train, test = (split if isinstance(split, LabelledImages) else read_image_folder(split) for split in (train, test))
    if list(train.classes) != list(test.classes):
        raise SpatialBoostError(
            f"the training split has the classes {list(train.classes)}, the test split {list(test.classes)}: "
            "give both splits the same class folders"
        )
    if k < 1 or temperature <= 0:
        raise SpatialBoostError(f"k is {k} and temperature {temperature}; expected k of at least 1 and above 0")
    train_labels, test_labels = torch.tensor(train.labels), torch.tensor(test.labels)

    rows, about = [], {}
    reading: dict[str, Any] = {"image_size": image_size, "layer": layer, "batch_size": batch_size, "progress": progress}
    for name, model, switched in each_encoder(encoders, reserved=CHANCE):
        train_features, test_features = read_both(name, model, switched, train, test, patches=False, **reading)
        guess_V = _vote(
            _global(train_features), train_labels, _global(test_features), len(train.classes), k, temperature
        )
        right_V = (guess_V == test_labels).float()
        rows.append(ProbeRow(name, None, {"accuracy": right_V.mean().item()}, {}, right_V.tolist()))
        token = "mean patch token" if train_features.cls_VD is None else "class token"
        about[name] = {**train_features.about(), "token": token}
    common = torch.bincount(train_labels).argmax()
    rows.append(ProbeRow(CHANCE, None, {"accuracy": (test_labels == common).float().mean().item()}))

    first = about[next(iter(about))]
    settings = {
        "k": min(k, len(train)),
        "similarity": "cosine",
        "temperature": temperature,
        **{key: first[key] for key in ("token", "layer", "norm", "resolution")},
        "images": [len(train), len(test)],
        "classes": len(train.classes),
        "left out": [*train.left_out, *test.left_out],
        "seeds": "none, nothing is drawn",
        "encoders": about,
    }
    return ProbeResult("knn", settings, METRICS, rows)


def _open_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _global(features: Features) -> Tensor:
    """One unit vector ``(V, D)`` for each image."""
    tokens_VD = features.tokens_VND.mean(1) if features.cls_VD is None else features.cls_VD
    return nn.functional.normalize(tokens_VD, dim=-1)


def _vote(train_VD: Tensor, labels_V: Tensor, test_VD: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    """The class with most votes for each test image."""
    guesses = []
    for block_BD in test_VD.split(1024):
        nearness_Bk, index_Bk = (block_BD @ train_VD.T).topk(min(k, len(train_VD)), dim=1)
        votes_BkC = (
            nn.functional.one_hot(labels_V[index_Bk], num_classes) * (nearness_Bk / temperature).exp()[..., None]
        )
        guesses.append(votes_BkC.sum(1).argmax(1))
    return torch.cat(guesses)

"""Points probe: tokens of several posed views as features of 3D points, and what the points can be used for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.class_scores import ClassCounts
from spatialboost.probes.draws import Draw, draw_items, take_all
from spatialboost.probes.halves import OVERLAP, REACH, RECALL, Halves
from spatialboost.probes.heads import RATES, HeadTraining, LinearHead, train_heads
from spatialboost.probes.inputs import SceneSplits
from spatialboost.probes.lifting import LiftedScene
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.run import Encoders, run_probe
from spatialboost.probes.scan_labels import NONE
from spatialboost.probes.token_store import TokenStore
from spatialboost.probes.view_scenes import ViewScenes
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import Source

# Shape legend: P points of a scene, n points of a chunk, D width of the tokens.

BASELINE = "without the images"
MOST_CLASSES = 20  # the most frequent ones of the training scenes
CHUNK = 256  # points that are kept together


@dataclass(frozen=True)
class PointsProbe(Probe):
    """Features lifted to 3D points: linear classes of points, objects found again, registration of two halves.

    `points_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is out of its range.
    """

    name = "points"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "miou": Metric("mIoU", higher_is_better=True),
        "accuracy": Metric("accuracy", higher_is_better=True),
        "found": Metric("found", higher_is_better=True),
        "registered": Metric("registered", higher_is_better=True),
        "translation": Metric("median translation", "m"),
        "rotation": Metric("median rotation", "\N{DEGREE SIGN}"),
    }
    splits = SceneSplits
    baseline = BASELINE

    voxel: Annotated[float, "Edge of a voxel in metres: all samples in it are one point."] = 0.05
    points: Annotated[int, "Training points of a scene, and points of each half that are matched."] = 2048
    steps: Annotated[int, "Steps of the optimiser of the classifier."] = 500
    rates: Sequence[float] = RATES

    def __post_init__(self) -> None:
        if not 0.001 <= self.voxel <= 10 or self.points < CHUNK:
            raise SpatialBoostError(
                f"voxel is {self.voxel} and points {self.points}; expected 0.001 to 10 metres, and at least {CHUNK}"
            )
        _ = self.training

    @property
    def training(self) -> HeadTraining:
        """How the classifier is trained; a batch is 1,024 points."""
        return HeadTraining(steps=self.steps, batch=4, rates=list(self.rates))

    def keep(self, item: Cues, grid: tuple[int, int], image_size: tuple[int, int]) -> None:
        """Nothing: the views are read again, scene by scene."""

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Train a classifier of points for each draw, and measure all test scenes in one pass."""
        heads, vocabulary = self._classifiers(train, test, draws)
        guesses: list[list[Tensor]] = [[] for _ in heads]
        truths, halves = [], self._halves(test)
        for scene in self._scenes(test):
            features_PD = scene.lifted.features(scene.tokens)
            if heads:
                truths.append(vocabulary.numbers(scene.names(self.voxel)).to(torch.int8))  # small, as it is kept
                for guessed, (head, _) in zip(guesses, heads, strict=True):
                    guessed.append(_classify(head, features_PD))
            halves.add(scene.views, scene.tokens, seed=scene.place)
        rows = []
        for place, draw in enumerate(draws if heads else [take_all(len(test))]):  # without a classifier, one run
            metrics, per_scene = halves.metrics(), halves.per_scene()
            chosen = halves.counts()
            if heads:
                scores, per_scene = _score_classes(guesses[place], truths, len(vocabulary.classes))
                metrics, chosen = {**scores, **metrics}, {"rate": heads[place][1], **chosen}
            rows.append(ProbeRow(name, draw.seed, _checked(metrics), chosen, per_scene))
        return Measured(rows)

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The most frequent class, an object drawn among those of the scene, and registration by random matches."""
        vocabulary, halves, truths = self._vocabulary(train, test), self._halves(test), []
        for scene in self._scenes(test):
            if vocabulary.classes:
                truths.append(vocabulary.numbers(scene.names(self.voxel)).to(torch.int8))
            halves.add(scene.views, scene.tokens, seed=scene.place, at_random=True)
        metrics = halves.metrics()
        if vocabulary.classes:
            guesses = (torch.zeros_like(truth_P) for truth_P in truths)  # the first class is the most frequent one
            scores, _ = _score_classes(guesses, truths, len(vocabulary.classes))
            metrics = {**scores, **metrics}
        return ProbeRow(BASELINE, None, _checked(metrics), halves.counts())

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """How points are made and measured, and what could not be measured."""
        vocabulary = self._vocabulary(train, test)
        groups = [len(split.items.groups()) for split in ((test,) if train is test else (train, test))]
        classifier = f"batch normalisation and a linear map, cross-entropy, {self.steps} steps"
        return {
            "scenes": groups,
            "points": f"voxels of {self.voxel:g} m, the mean of bilinear samples",
            "classes": vocabulary.classes or f"not measured: {vocabulary.reason}",
            **({"classifier": classifier, "training points of a scene": self.points} if vocabulary.classes else {}),
            "halves": f"first and second half of the views, those with {OVERLAP:.0%} of their points in common",
            "registered": f"RMSE of the common points below {RECALL:g} m",
            "matches": f"mutual nearest of {self.points} points of each half, agree within {REACH:g} m",
        }

    def _halves(self, test: ReadSplit) -> Halves:
        return Halves(test.features.grid, self.voxel, self.points)

    def _scenes(self, split: ReadSplit) -> Iterator[_Scene]:
        """The scenes of a split, one at a time."""
        views, source = iter(split.items), split.items.source
        for place, indices in zip(split.items.sources, split.items.groups(), strict=True):
            seen = [next(views) for _ in indices]
            tokens = [split.features.tokens[index] for index in indices]
            lifted = LiftedScene(seen, split.features.grid, self.voxel)
            if len(lifted.points_P3):
                yield _Scene(place, source, seen, tokens, lifted)

    def _vocabulary(self, train: ReadSplit, test: ReadSplit) -> _Vocabulary:
        if train is test:
            return _Vocabulary([], "no view has objects, and there is no labelled mesh")
        counts: Counter[str] = Counter()
        for scene in self._scenes(train):
            names, nums = np.unique(scene.names(self.voxel), return_counts=True)
            counts.update(dict(zip(map(str, names), nums.tolist(), strict=True)))
        return _Vocabulary.of(counts)

    def _classifiers(
        self, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw]
    ) -> tuple[list[tuple[nn.Module, float]], _Vocabulary]:
        """A trained head and its rate for each draw; none if there are no classes."""
        vocabulary = self._vocabulary(train, test)
        if not vocabulary.classes:
            return [], vocabulary
        chunks, labels, owners = self._training_points(train, vocabulary)
        width, heads = train.features.tokens[0].shape[-1], []

        def batch(items: Sequence[int]) -> tuple[Tensor, Tensor]:
            return torch.stack([chunks[item] for item in items]), torch.stack([labels[item] for item in items])

        for draw in draws:
            drawn = draw_items(owners[-1] + 1, draw.seed or 0, len(draw.items) / len(train)).items
            heads.append(
                train_heads(
                    lambda: LinearHead(width, len(vocabulary.classes)),
                    batch,
                    _loss,
                    np.flatnonzero(np.isin(owners, drawn)).tolist(),
                    self.training,
                    seed=draw.seed or 0,
                )
            )
        return heads, vocabulary

    def _training_points(self, train: ReadSplit, vocabulary: _Vocabulary) -> tuple[TokenStore, list[Tensor], list[int]]:
        """Features and classes of some points of each scene, in chunks, and the scene of each chunk."""
        store, labels, owners = TokenStore(), [], []
        for number, scene in enumerate(self._scenes(train)):
            label_P = vocabulary.numbers(scene.names(self.voxel))
            known = np.flatnonzero(label_P.numpy() != NONE)
            if not len(known):
                continue
            rng = np.random.default_rng([number, 0])
            order = rng.permutation(known) if len(known) >= CHUNK else rng.choice(known, CHUNK)
            features_PD = scene.lifted.features(scene.tokens)
            for start in range(0, min(len(order), self.points) - CHUNK + 1, CHUNK):
                chosen = torch.from_numpy(order[start : start + CHUNK])
                store.append(features_PD[chosen][None])
                labels.append(label_P[chosen])
                owners.append(number)
        return store, labels, owners


def points_probe(
    encoders: Encoders,
    train: ViewScenes | Source | Sequence[Scene] | str | None,
    test: ViewScenes | Source | Sequence[Scene] | str,
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int | Sequence[int] = -1,
    seeds: Sequence[int] = (0, 1, 2),
    subset: float = 0.8,
    voxel: float = 0.05,
    points: int = 2048,
    steps: int = 500,
    rates: Sequence[float] = RATES,
    batch_size: int = 16,
    progress: bool = False,
) -> ProbeResult:
    """Lift patch tokens of several views to 3D points, and measure three tasks on the points.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.scenes.rooms import Rooms
        >>> encoder = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> rooms = Rooms(3, size=32, views=4), Rooms(2, first=100, size=32, views=4)
        >>> result = points_probe({"mine": encoder}, *rooms, image_size=32, steps=5, voxel=0.1)
        >>> result.names, result.settings["scenes"]
        (['mine', 'without the images'], [3, 2])

    Tokens are enlarged bilinearly, lifted by depth, intrinsics and poses, and averaged in voxels; each voxel is a point
    (`LiftedScene`). The tasks are those of Lexicon3D (arXiv 2409.03757) that need no further model:

    - classes: a linear map from features to the classes of points. A class is the noun of an object's description, with
      ``background`` for all else, or that of ScanNet's labelled mesh. The 20 most frequent training classes are
      measured. mIoU and accuracy are over all points of all test scenes.
    - objects: the mean feature of each object in the first half of a scene's views is looked up among the objects of
      the second half; the share that finds itself. Objects need an identity, which the procedural rooms and
      ScanNet's instance masks have.
    - registration: two halves of the views are registered by mutual nearest features and LO-RANSAC (pycolmap), without
      a trained head, unlike Lexicon3D. A scene is registered if the RMSE of the common points is below 0.05 m. Scenes
      whose halves have less than 30 % in common are not counted.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        train: scenes of several views for the classifier, or single views in their order; None: no classes.
        test: scenes to measure on.
        image_size: (height, width) to which the whole view is resized for the encoder, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width.
        seeds: one draw of the training scenes, and one classifier, for each seed.
        subset: share of the training scenes that a seed draws.
        voxel: edge of a voxel, metres.
        points: training points of a scene, and points of each half that are matched.
        steps: steps of the optimiser of the classifier.
        rates: learning rates to choose from.
        batch_size: views that go through the encoder at a time.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: no scene with enough views, or nothing that can be measured.
    """
    options = CommonOptions(image_size, layer, batch_size, seeds, subset, progress=progress)
    return run_probe(PointsProbe(voxel, points, steps, rates), encoders, train, test, options)


@dataclass(frozen=True)
class _Scene:
    """A scene of a split, with the tokens of each view."""

    place: int
    source: Any
    views: Sequence[Cues]
    tokens: Sequence[Tensor]
    lifted: LiftedScene

    def names(self, voxel: float) -> np.ndarray:
        """The class of each point; empty if it is not known."""
        scan = self.source.labels(self.place)
        return self.lifted.names_P if scan is None else scan.at(self.lifted.points_P3, voxel)


@dataclass(frozen=True)
class _Vocabulary:
    """The classes that are measured, the most frequent first; none for a reason."""

    classes: Sequence[str]
    reason: str = ""

    @classmethod
    def of(cls, counts: Counter[str]) -> _Vocabulary:
        """The most frequent classes."""
        classes = [name for name, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0])) if name]
        if len(classes) < 2:
            return cls([], f"the training scenes have {len(classes)} classes {classes}; expected at least 2")
        return cls(classes[:MOST_CLASSES])

    def numbers(self, names_P: np.ndarray) -> Tensor:
        """The number of each class; -1 for one that is not measured."""
        places = {name: place for place, name in enumerate(self.classes)}
        found, inverse_P = np.unique(names_P, return_inverse=True)
        return torch.from_numpy(np.array([places.get(str(name), NONE) for name in found], np.int64)[inverse_P])


def _score_classes(
    guesses: Iterable[Tensor], truths: Iterable[Tensor], classes: int
) -> tuple[dict[str, float], list[float]]:
    """mIoU and accuracy over the points of all scenes, and the mIoU of each scene."""
    counts = ClassCounts(classes)
    for guess_P, truth_P in zip(guesses, truths, strict=True):
        counts.add(guess_P.long(), truth_P.long())
    return counts.metrics(), counts.per_view


def _loss(head: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
    features_BnD, label_Bn = given
    return nn.functional.cross_entropy(head(features_BnD).flatten(0, 1), label_Bn.flatten())


@torch.no_grad()
def _classify(head: Callable[[Tensor], Tensor], features_PD: Tensor) -> Tensor:
    return head(features_PD[None])[0].argmax(1).to(torch.int8)


def _checked(metrics: dict[str, float]) -> dict[str, float]:
    if not metrics:
        raise SpatialBoostError(
            "there is nothing to measure: no view has objects, no scan has a labelled mesh, and in no scene the two "
            f"halves of the views have {OVERLAP:.0%} of their points in common; give more views of each scene"
        )
    return metrics

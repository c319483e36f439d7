"""Retrieval probe: are images of one thing near to each other by their frozen global features? Nothing is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.draws import Draw
from spatialboost.probes.inputs import RetrievalFolder
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.protocol import Measured, Probe, ReadSplit
from spatialboost.probes.ranking import average_precision, global_average_precision, softmax_confidence
from spatialboost.probes.result import ProbeResult
from spatialboost.probes.retrieval_sets import UNKNOWN, ImageList, NumberedImage, Ranking, Rules, open_retrieval
from spatialboost.probes.run import Encoders, run_probe

# Shape legend: V images of the database, Q queries, B images of a block, k neighbours, D width of the features.

CHANCE = "random order"
Token = Literal["auto", "class", "mean"]
NEIGHBOURS = (1, 2, 3, 5, 7, 10, 15, 20, 50)  # the grid of the Met dataset's own evaluation
SHARPNESS = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)
_IMAGES_AT_ONCE, _SIMILARITIES_AT_ONCE = 8192, 2**23


@dataclass(frozen=True)
class RetrievalProbe(Probe):
    """Ranking of images by the cosine similarity of their global features: mean average precision, or GAP.

    `retrieval_probe` describes the method.

    Raises:
        SpatialBoostError: an option that is not known.
    """

    name = "retrieval"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "map": Metric("mAP", higher_is_better=True),
        "map_hard": Metric("mAP hard", higher_is_better=True),
        "map_medium": Metric("mAP medium", higher_is_better=True),
        "map_easy": Metric("mAP easy", higher_is_better=True),
        "map_old_new": Metric("mAP old to new", higher_is_better=True),
        "map_new_old": Metric("mAP new to old", higher_is_better=True),
        "gap": Metric("GAP", higher_is_better=True),
        "gap_known": Metric("GAP, known things only", higher_is_better=True),
        "accuracy": Metric("accuracy, known things only", higher_is_better=True),
    }
    splits = RetrievalFolder
    baseline = CHANCE
    patches = False
    draws = False

    token: Annotated[Token, "Class token, mean patch token, or auto: class if there is one."] = "auto"

    def __post_init__(self) -> None:
        if self.token not in get_args(Token):
            raise SpatialBoostError(f"token is {self.token!r}; expected one of {get_args(Token)}")

    def check_sources(self, train: Any, test: Any) -> None:
        """Raise an error unless the queries say what is relevant for them."""
        _ = _rules(test)

    def keep(self, item: NumberedImage, grid: tuple[int, int], image_size: tuple[int, int]) -> int:
        """The number of an image in its list: images that cannot be read are left out."""
        return item.number

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Rank the database for each query."""
        database = _Vectors(train.features.vectors(self.token), np.array(train.kept))
        queries = database if train is test else _Vectors(test.features.vectors(self.token), np.array(test.kept))
        return Measured([_score(name, _rules(test.items.source), database, queries)])

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of vectors that are drawn at random."""
        draw = torch.Generator().manual_seed(0)
        database = _Vectors(torch.randn(len(train), 32, generator=draw), np.array(train.kept))
        queries = (
            database if train is test else _Vectors(torch.randn(len(test), 32, generator=draw), np.array(test.kept))
        )
        row = _score(CHANCE, _rules(test.items.source), database, queries)
        return ProbeRow(CHANCE, None, row.metrics)

    def about(self, train: ReadSplit) -> dict[str, Any]:
        """The settings of the features, and which token represents the image."""
        return {**train.features.about(), "token": train.features.chosen_token(self.token)}

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The set and how it is measured."""
        rules = _rules(test.items.source)
        settings: dict[str, Any] = {"set": rules.name, "similarity": "cosine, not whitened, one scale"}
        for ranking in rules.rankings:
            numbers = train.kept if ranking.backwards else test.kept
            settings[f"queries of {ranking.key}"] = sum(len(ranking.of(number)[0]) > 0 for number in numbers)
        if rules.rankings:
            settings["precision"] = "mean before and after each hit" if rules.trapezoid else "after each hit"
        else:
            settings["neighbours chosen by"] = f"GAP on {len(rules.tuning)} queries" if rules.tuning else "none, 1"
        return settings


def retrieval_probe(
    encoders: Encoders,
    data: str | Path | ImageList,
    database: ImageList | None = None,
    *,
    mini: bool = False,
    image_size: int | tuple[int, int] = 224,
    layer: int | Sequence[int] = -1,
    token: Token = "auto",
    batch_size: int = 32,
    progress: bool = False,
) -> ProbeResult:
    """Rank the images of a database by their similarity to each query, and score the ranking.

    Example:
        >>> retrieval_probe(encoder, "roxford5k", image_size=518)  # doctest: +SKIP

    The feature of an image is its class token, or the mean patch token if the encoder has none (``token``). Nearness is
    cosine similarity. Nothing is fitted or drawn. What is measured depends on the set (`open_retrieval` has the
    layouts):

    - Oxford and Paris revisited (arXiv 1803.11285): queries are cut out by their boxes. Easy, medium and hard differ in
      which of the easy and hard images are relevant and which are ignored, as junk always is. A query without a
      relevant image is left out. Average precision is the mean of the precisions before and after each hit.
    - Met (arXiv 2202.01747): the class of the nearest image, with a confidence from the nearest images of each class;
      GAP over all queries, also those of things that the database does not have. ``gap_known`` and ``accuracy`` are of
      the others only. The number of neighbours and the sharpness are chosen on ``valset.json`` from the grid of the
      authors' evaluation; features are not whitened.
    - AmsterTime (arXiv 2203.16291): each old photograph is to find the new one of its place, and the other way round;
      ``map`` is over both.
    - folders of classes: each image is to find the others of its class.

    Args:
        encoders: a boosted model, measured as ``"base"`` (within `spatialboost.disabled`) and as ``"boosted"``; or
            models by name, each as it is.
        data: folder of a set; or its queries, with `database`.
        database: the images that are ranked, if `data` is not a folder.
        mini: the small database of Met.
        image_size: (height, width) to which images are resized, or one number for both.
        layer: block after which tokens are read; the tokens of several are joined along their width.
        token: the vector of an image.
        batch_size: images that go through the encoder at a time.
        progress: show a progress bar.

    Raises:
        SpatialBoostError: a folder in none of the layouts, no query with a relevant image, or an encoder that cannot be
            read.
    """
    options = CommonOptions(image_size, layer, batch_size, progress=progress)
    if not isinstance(data, ImageList):
        found = open_retrieval(data, mini=mini)
        data, database = found.queries, found.database
    return run_probe(RetrievalProbe(token), encoders, database, data, options)


@dataclass(frozen=True)
class _Vectors:
    """Vectors of images, and the number of each image in its list."""

    vectors_VD: Tensor
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def blocks(self) -> Iterator[Tensor]:
        """Unit vectors of a few images at a time, so that a mapped file is not read into memory as a whole."""
        for block_BD in self.vectors_VD.split(_IMAGES_AT_ONCE):
            yield nn.functional.normalize(block_BD.float(), dim=-1)


def _rules(source: Any) -> Rules:
    if not isinstance(source, ImageList) or source.rules is None:
        raise SpatialBoostError(f"the queries are {source!r:.80}; expected those of `open_retrieval(FOLDER)`")
    return source.rules


def _score(name: str, rules: Rules, database: _Vectors, queries: _Vectors) -> ProbeRow:
    if rules.labels is not None:
        metrics, chosen, per_query = _score_classifier(rules, rules.labels, database, queries)
        return ProbeRow(name, None, metrics, chosen, per_query)
    found: dict[str, list[float]] = {ranking.key: [] for ranking in rules.rankings}
    for backwards in sorted({ranking.backwards for ranking in rules.rankings}):
        rankings = [ranking for ranking in rules.rankings if ranking.backwards == backwards]
        sides = (queries, database) if backwards else (database, queries)
        for key, value in _average_precisions(rankings, *sides, trapezoid=rules.trapezoid):
            found[key].append(value)
    if rules.together:
        found = {"map": [value for values in found.values() for value in values], **found}
    empty = [key for key, values in found.items() if not values]
    if len(empty) == len(found):
        raise SpatialBoostError(
            f"none of {len(queries)} queries has a relevant image among the {len(database)} that can be read: check "
            "the folder of the images"
        )
    first = next(key for key in RetrievalProbe.metrics if found.get(key))
    return ProbeRow(name, None, {key: float(np.mean(each)) for key, each in found.items() if each}, {}, found[first])


def _average_precisions(
    rankings: Sequence[Ranking], database: _Vectors, queries: _Vectors, *, trapezoid: bool
) -> Iterator[tuple[str, float]]:
    """The metric and the average precision of each query that has a relevant image."""
    there = np.sort(database.numbers)
    for query, similarity_V in _similarities(database, queries):
        ranked = database.numbers[np.argsort(-similarity_V, kind="stable")]
        for ranking in rankings:
            relevant, ignored = ranking.of(int(queries.numbers[query]))
            relevant = relevant[np.isin(relevant, there)]  # an image that cannot be read cannot be found
            if len(relevant):
                yield ranking.key, average_precision(ranked, relevant, ignored, trapezoid=trapezoid)


def _similarities(database: _Vectors, queries: _Vectors) -> Iterator[tuple[int, np.ndarray]]:
    """Similarities ``(V,)`` of all images to each query; a few queries at a time."""
    at_once = max(1, _SIMILARITIES_AT_ONCE // len(database))
    for start in range(0, len(queries), at_once):
        some_BD = nn.functional.normalize(queries.vectors_VD[start : start + at_once].float(), dim=-1)
        similarity_BV = torch.cat([some_BD @ block_BD.T for block_BD in database.blocks()], dim=1)
        yield from enumerate(similarity_BV.numpy(), start)


def _score_classifier(
    rules: Rules, labels: tuple[np.ndarray, np.ndarray], database: _Vectors, queries: _Vectors
) -> tuple[dict[str, float], dict[str, float], list[float]]:
    """GAP of the nearest image's class: the metrics, the settings that were chosen, and which queries are right."""
    label_V, truth_Q = labels[0][database.numbers], labels[1][queries.numbers]
    similarity_Qk, index_Qk = _nearest(database, queries, min(max(NEIGHBOURS), len(database)))
    label_Qk, num_classes = label_V[index_Qk], len(np.unique(label_V))
    right_Q, known_Q = label_Qk[:, 0] == truth_Q, truth_Q != UNKNOWN
    tuning_Q = np.isin(queries.numbers, rules.tuning)

    def gap(chosen: tuple[int, float], used_Q: np.ndarray) -> float:
        confidence_Q = softmax_confidence(similarity_Qk[used_Q], label_Qk[used_Q], *chosen, num_classes)
        return global_average_precision(right_Q[used_Q], confidence_Q, known_Q[used_Q])

    chosen: tuple[int, float] = (1, 1.0)
    if (tuning_Q & known_Q).any():
        chosen = max(product(NEIGHBOURS, SHARPNESS), key=lambda each: gap(each, tuning_Q))
    test_Q = ~tuning_Q
    if not (test_Q & known_Q).any():
        raise SpatialBoostError(
            "no query that can be read has a thing of the database, so that there is nothing to find"
        )
    right = right_Q[test_Q & known_Q].astype(float)
    metrics = {"gap": gap(chosen, test_Q), "gap_known": gap(chosen, test_Q & known_Q), "accuracy": float(right.mean())}
    return metrics, {"neighbours": chosen[0], "sharpness": chosen[1]}, right.tolist()


def _nearest(database: _Vectors, queries: _Vectors, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities ``(Q, k)`` of the nearest images, the largest first, and their places in the database."""
    best, start = None, 0
    unit_QD = torch.cat(list(queries.blocks()))
    for block_BD in database.blocks():
        parts = []
        for some_QD in unit_QD.split(max(1, _SIMILARITIES_AT_ONCE // _IMAGES_AT_ONCE)):
            value_Qk, index_Qk = (some_QD @ block_BD.T).topk(min(k, len(block_BD)), dim=1)
            parts.append((value_Qk, index_Qk + start))
        value_Qk, index_Qk = (torch.cat(each) for each in zip(*parts, strict=True))
        if best is not None:
            value_Qk, order_Qk = torch.cat([best[0], value_Qk], 1).topk(k, dim=1)
            index_Qk = torch.cat([best[1], index_Qk], 1).gather(1, order_Qk)
        best, start = (value_Qk, index_Qk), start + len(block_BD)
    assert best is not None
    return best[0].double().numpy(), best[1].numpy()

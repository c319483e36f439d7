"""Average precision and GAP against scikit-learn, torchmetrics, and computations by the definition."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.retrieval import retrieval_average_precision

from retrieval_writers import by_definition
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.ranking import average_precision, global_average_precision, softmax_confidence

NONE = np.array([], int)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_agrees_with_two_libraries(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, truth = rng.normal(size=200), rng.random(200) < 0.1
    ranked, relevant = np.argsort(-score), np.flatnonzero(truth)
    ours = average_precision(ranked, relevant, NONE, trapezoid=False)
    assert ours == pytest.approx(average_precision_score(truth, score), abs=1e-9)
    positive = 1 / (1 + np.exp(-score))  # torchmetrics takes what has no positive score as not found
    theirs = retrieval_average_precision(torch.tensor(positive), torch.tensor(truth))
    assert ours == pytest.approx(theirs.item(), abs=1e-6)
    ignored = rng.choice(np.flatnonzero(~truth), 40, replace=False)
    kept = np.setdiff1d(np.arange(200), ignored)
    ours = average_precision(ranked, relevant, ignored, trapezoid=False)
    assert ours == pytest.approx(average_precision_score(truth[kept], score[kept]), abs=1e-9)
    ours = average_precision(ranked, relevant, ignored, trapezoid=True)
    assert ours == pytest.approx(by_definition(ranked.tolist(), set(relevant), set(ignored)), abs=1e-12)


def test_nothing_relevant_is_an_error() -> None:
    with pytest.raises(SpatialBoostError, match="no image is relevant"):
        average_precision(np.arange(3), NONE, NONE, trapezoid=True)


def test_global_average_precision_is_that_of_scikit_learn_times_the_share_of_right_answers() -> None:
    rng = np.random.default_rng(0)
    right, known, confidence = rng.random(300) < 0.4, rng.random(300) < 0.6, rng.random(300)
    truth = right & known
    expected = average_precision_score(truth, confidence) * truth.sum() / known.sum()
    assert global_average_precision(right, confidence, known) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("k", "sharpness"), [(1, 0.1), (3, 5.0), (6, 500.0), (50, 20.0)])
def test_confidence_is_that_of_a_loop_over_classes(k: int, sharpness: float) -> None:
    rng = np.random.default_rng(1)
    similarity = -np.sort(-rng.uniform(-0.3, 0.9, (20, 6)), axis=1)
    label = rng.integers(0, 4, (20, 6))
    ours = softmax_confidence(similarity, label, k, sharpness, num_classes=9)
    for row in range(20):
        best: dict[int, float] = {}
        for value, each in zip(similarity[row, :k], label[row, :k], strict=True):
            best[each] = max(best.get(each, 0.0), value)
        powers = np.exp(sharpness * np.array(list(best.values())))
        total = powers.sum() + 9 - len(best)
        assert ours[row] == pytest.approx(np.exp(sharpness * max(similarity[row, 0], 0)) / total, rel=1e-9)

import numpy as np
import pytest
from scipy.stats import bootstrap, wilcoxon

from spatialboost.paired import paired_test, signed_rank_p


@pytest.mark.parametrize("num", [12, 300])
def test_interval_and_p_agree_with_scipy(num: int) -> None:
    differences = np.random.default_rng(num).gamma(2.0, 0.1, num) - 0.15
    found = paired_test(differences.tolist())
    theirs = bootstrap((differences,), np.mean, n_resamples=20_000, method="percentile", random_state=1)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found.num == num and found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)
    assert found.p == wilcoxon(differences).pvalue == signed_rank_p(differences)
    assert paired_test(differences.tolist()) == found  # the draws have a fixed seed


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    tests = [paired_test(rng.normal(0.3, 1.0, 40).tolist()) for _ in range(200)]
    assert 0.90 <= np.mean([test.low <= 0.3 <= test.high for test in tests]) <= 0.99
    assert 0.25 <= np.mean([test.p < 0.05 for test in tests]) <= 0.65  # its power; 0.05 where there is no difference
    none = [paired_test(rng.normal(0.0, 1.0, 40).tolist()).p < 0.05 for _ in range(200)]
    assert np.mean(none) <= 0.10


@pytest.mark.parametrize("differences", [[0.0] * 5, [0.5], [1.0, 1.0]])
def test_few_items_and_no_difference(differences: list[float]) -> None:
    found = paired_test(differences)
    assert found.low <= found.mean <= found.high and found.p >= 0.5


def test_many_items_do_not_need_much_memory() -> None:
    differences = np.random.default_rng(0).normal(0.01, 1.0, 50_000)
    found = paired_test(differences)
    assert found.low == pytest.approx(differences.mean() - 1.96 / 50_000**0.5, abs=5e-4)

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from spatialboost.probes.ridge import Moments


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
def test_agrees_with_scikit_learn_on_standardised_features(ridge: float) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 7)) * [1, 5, 0.1, 1, 1, 1, 30] + 3).astype(np.float32)
    y = x @ rng.normal(size=7) + rng.normal(size=500)
    moments = Moments.of(torch.from_numpy(x), torch.from_numpy(y))
    weights, biases = moments.solve([ridge])
    mean, std = x.astype(float).mean(0), x.astype(float).std(0)
    reference = Ridge(alpha=ridge * len(x)).fit((x - mean) / std, y)
    np.testing.assert_allclose(weights[0], reference.coef_ / std, rtol=1e-6)
    np.testing.assert_allclose(
        x @ weights[0].numpy() + biases[0].item(), reference.predict((x - mean) / std), rtol=1e-5
    )


def test_moments_of_parts_add_up() -> None:
    x, y = torch.randn(40, 3), torch.randn(40)
    whole = Moments.of(x, y).solve([0.1])
    parts = (Moments.of(x[:11], y[:11]) + Moments.of(x[11:], y[11:])).solve([0.1])
    torch.testing.assert_close(whole, parts)


def test_a_feature_that_never_moves_gets_no_weight() -> None:
    x = torch.cat([torch.randn(50, 2), torch.full((50, 1), 7.0)], 1)
    weights, biases = Moments.of(x, x[:, 0] * 2 + 1).solve([0.0])
    torch.testing.assert_close(weights[0], torch.tensor([2.0, 0.0, 0.0]).double(), atol=1e-6, rtol=0)
    assert biases.item() == pytest.approx(1.0, abs=1e-6)

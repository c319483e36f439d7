"""The training of heads: optimisers, warm-up, limits of the gradient, and what is held out."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from spatialboost.probes.heads import HeadTraining, LinearHead, train_heads

X = torch.randn(60, 1, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0, 0] > 0).long()


def train(seen=None, **options):
    training = HeadTraining(**{"steps": 40, "batch": 16, "rates": [0.01], **options})

    def batch(items):
        if seen is not None:
            seen.append(list(items))
        return X[list(items)], Y[list(items)]

    def loss(head, given):
        return nn.functional.cross_entropy(head(given[0])[:, 0], given[1])

    return train_heads(lambda: LinearHead(5, 2), batch, loss, range(60), training, seed=3)


@pytest.mark.parametrize("options", [{}, {"optimiser": "sgd", "rates": [1.0]}, {"warmup": 0.25, "clip": 1.0}])
def test_a_head_learns_and_the_same_seed_gives_the_same_one(options):
    before = torch.random.get_rng_state()
    head, rate = train(**options)
    again, _ = train(**options)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert float((head(X)[:, 0].argmax(1) == Y).float().mean()) > 0.85 and rate in options.get("rates", [0.01])
    assert all(torch.equal(one, other) for one, other in zip(head.parameters(), again.parameters(), strict=True))


def test_one_rate_holds_nothing_out_and_several_choose_on_the_last_tenth():
    seen: list[list[int]] = []
    train(seen)
    assert {item for part in seen for item in part} == set(range(60))
    seen.clear()
    _, rate = train(seen, rates=[1e-7, 0.03])
    assert rate == 0.03 and {item for part in seen[:40] for item in part} == set(range(54))
    assert [item for part in seen[40:] for item in part] == list(range(54, 60))


def test_warm_up_rises_then_falls_and_the_gradient_is_limited(monkeypatch):
    rates, norms = [], []
    step = torch.optim.SGD.step

    def watched(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        grads = [each.grad for group in self.param_groups for each in group["params"]]
        norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    train(optimiser="sgd", warmup=0.25, clip=0.001, rates=[0.5])
    top = rates.index(max(rates))
    assert len(rates) == 40 and top == 10 and rates[top] == pytest.approx(0.5)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] < 0.06 and rates[-1] < 0.02 and max(norms) <= 0.001 + 1e-6


def test_a_linear_map_is_that_of_scikit_learn_s_logistic_regression():
    """The same objective, to its minimum: cross-entropy with all weights, that of the constant too, kept small."""
    mixed = X[:, 0] + 0.7 * torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    training = HeadTraining(steps=600, batch=60, rates=[1.0], optimiser="sgd", weight_decay=0.01)
    head, _ = train_heads(
        lambda: LinearHead(5, 2, norm=False),
        lambda items: (mixed[list(items)][:, None], Y[list(items)]),
        lambda head, given: nn.functional.cross_entropy(head(given[0])[:, 0], given[1]),
        range(60),
        training,
        seed=0,
    )
    ours = head(mixed[:, None])[:, 0].softmax(-1)[:, 1].detach().numpy()
    x = np.concatenate([mixed.numpy(), np.ones((60, 1))], 1)
    # two classes are one weight vector there and two here, which share the penalty
    theirs = LogisticRegression(C=2 / (0.01 * 60), fit_intercept=False, tol=1e-8).fit(x, Y.numpy())
    np.testing.assert_allclose(ours, theirs.predict_proba(x)[:, 1], atol=1e-3)

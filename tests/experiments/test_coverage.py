"""A sample of `benchmarks/coverage.py`: what it counts as attention, what it holds a model to, what it reports."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from host_models import HOSTS, WIDTH, InheritedAttention, PlainAttention, Tower, images, tokens
from spatialboost.experiments.coverage import Built, Record, attention_sites, check
from spatialboost.experiments.coverage_table import table


def examined(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Record:
    return check(Record("timm", "tiny"), Built(model, lambda m: m(*inputs.values()), "tiny"))


@pytest.mark.parametrize("name", ["timm", "timm_levit", "timm_parallel"])
def test_a_model_that_keeps_every_promise(name):
    record = examined(HOSTS[name].make(), images())
    assert (record.verdict, record.reason, record.layers) == ("boosted", "", 2)


class Mixer(PlainAttention):
    """Attention under a name that the library does not know."""


def test_attention_is_found_by_the_computation_and_not_by_the_library():
    model = Tower(Mixer)
    assert list(attention_sites(Built(model, lambda m: m(**tokens())))) == ["blocks.0.attn", "blocks.1.attn"]
    record = examined(model, tokens())
    assert record.verdict == "refused" and "no self-attention layer found" in record.reason


def test_a_layer_that_is_missed_is_a_failure():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known, self.unknown = Tower(InheritedAttention), Tower(Mixer)

        def forward(self, x):
            return self.unknown(self.known(x))

    record = examined(Both(), tokens())
    assert record.verdict == "failed" and record.reason == "missed 2: ('unknown.blocks.0.attn', 'Mixer')"


def test_a_layer_that_nobody_reads_needs_no_gradient():
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.spare = Tower(InheritedAttention), Tower(InheritedAttention)

        def forward(self, x):
            self.spare(x)
            return self.tower(x)

    record = examined(Unread(), tokens())
    assert (record.verdict, record.reason, record.layers) == ("boosted", "", 4)


def test_a_broken_promise_is_a_failure():
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.calls = Tower(PlainAttention), 0

        def forward(self, x):
            self.calls += 1
            return self.tower(x) + self.calls

    assert examined(Once(), tokens()).reason == "the output is not the same at start"


def test_no_attention_is_set_apart():
    record = examined(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Softmax(dim=1)), tokens())
    assert record.verdict == "no self-attention"


def test_the_table_counts_what_has_attention():
    verdicts = ["boosted"] * 3 + ["failed", "no self-attention", "no self-attention", "not examined"]
    rows = [Record("timm", f"m{i}", v, "a|b", ["Attention"]).as_json() for i, v in enumerate(verdicts)]
    text = table(rows, {"torch": "2"})
    assert "| timm | 7 | 1 | 2 | 4 | 3 | 0 | 1 | 75.0% |" in text
    assert "| timm | m3 | failed | a\\|b |" in text and "| timm | m6 | not examined | a\\|b |" in text
    assert "* timm: `Attention` 3." in text

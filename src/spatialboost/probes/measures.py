"""Metrics, the scores of one run, and mean and spread over several runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """Name and unit of a metric, and whether higher is better."""

    label: str
    unit: str = ""
    higher_is_better: bool = False

    @property
    def title(self) -> str:
        """The label with its unit, for tables and pictures."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


@dataclass(frozen=True)
class ProbeRow:
    """One run: what was measured (``"base"``, ``"boosted"``, ...), with which seed, and the figures.

    Attributes:
        name: name of the encoder or of the baseline.
        seed: seed of the run; None if nothing is drawn.
        metrics: score over the whole test split, by the name of the metric.
        chosen: settings that the run has chosen itself, such as the ridge.
        per_view: the first metric for each single test view, in order.
    """

    name: str
    seed: int | None
    metrics: Mapping[str, float]
    chosen: Mapping[str, float] = field(default_factory=dict)
    per_view: Sequence[float] = ()


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single run) over ``num`` runs."""

    mean: float
    std: float | None
    num: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one or more runs."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.std is None else f"{self.mean:.3f} +- {self.std:.3f}"

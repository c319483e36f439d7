"""The figures of a probe: what a metric is, what one run scored, mean and spread over several runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """What a figure is called, in what unit it is, and which way is better."""

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
        name: the encoder, or the baseline.
        seed: None where nothing is drawn.
        metrics: figure by name, over the whole test split.
        chosen: what the run settled on by itself, such as the ridge.
        per_view: the first metric for each test view alone, in order.
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
        """The spread of some runs, of which there is at least one."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.std is None else f"{self.mean:.3f} +- {self.std:.3f}"

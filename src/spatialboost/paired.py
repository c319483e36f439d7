"""Whether two models differ on the same items by more than chance: the paired test of probes and of readiness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

RESAMPLES = 2000
_AT_ONCE = 2**22  # values that are drawn at a time


@dataclass(frozen=True)
class PairedTest:
    """The differences of two models over the items that both were measured on.

    Attributes:
        num: number of items.
        mean: mean difference.
        low: lower end of the 95 % bootstrap interval of the mean.
        high: its upper end.
        p: probability of such differences by chance (signed-rank test of Wilcoxon, two-sided).
    """

    num: int
    mean: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        chance = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        return f"{self.mean:+.3f} (95 %: {self.low:+.3f} to {self.high:+.3f}, {chance})"


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Test the differences of two models, one for each item.

    Example:
        >>> print(paired_test([-0.1, -0.3, -0.2, -0.1, -0.4, -0.2, 0.1, -0.3]))
        -0.188 (95 %: -0.287 to -0.087, p = 0.031)

    The items count as independent of each other. Neighbouring frames of one walk are not: then the interval is too
    narrow and p too small. The draws of the bootstrap have a fixed seed.

    Args:
        differences: one model minus the other, item by item; at least one.
    """
    values = np.asarray(differences, np.float64)
    rng = np.random.default_rng(0)
    rows = max(1, _AT_ONCE // len(values))
    parts = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    means = np.concatenate([values[rng.integers(len(values), size=(part, len(values)))].mean(1) for part in parts])
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return PairedTest(len(values), float(values.mean()), low, high, signed_rank_p(values))


def signed_rank_p(differences: Any, alternative: Literal["two-sided", "greater", "less"] = "two-sided") -> float:
    """Probability of such differences by chance, by the signed-rank test of Wilcoxon; 1 if all differences are zero.

    Example:
        >>> signed_rank_p([0.2, 0.1, 0.4, 0.3, 0.5], "greater"), signed_rank_p([0.0, 0.0])
        (0.03125, 1.0)
    """
    from scipy.stats import wilcoxon

    values = np.asarray(differences, np.float64)
    return float(wilcoxon(values, alternative=alternative).pvalue) if values.any() else 1.0

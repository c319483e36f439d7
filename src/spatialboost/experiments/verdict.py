"""Say in one sentence whether boosting helped, from the results of a probe."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.result import ProbeResult

LEVEL = 0.05  # of the paired test over items


def verdict(results: Sequence[ProbeResult], controls: Sequence[str] = ()) -> str:
    """Compare boosted with base and with each control by a probe's first metric, pair by pair.

    A pair is one draw of the probe (or its only run) in one training run, so that training seeds and probe draws
    both count. An effect is claimed only where boosted is better than base and every control in every pair, and, if the
    test items were scored one by one, in each training run over the same items with p below 0.05.

    Example:
        >>> from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
        >>> runs = {"base": [0.50, 0.52], "boosted": [0.40, 0.41], "shuffled answers": [0.55, 0.56]}
        >>> rows = [ProbeRow(name, i, {"rmse": v}) for name, values in runs.items() for i, v in enumerate(values)]
        >>> print(verdict([ProbeResult("depth", {}, {"rmse": Metric("RMSE", "m")}, rows)], ["shuffled answers"]))
        Boosted beats base (RMSE 0.405 m against 0.510 m) and the control shuffled answers (0.555 m).

    Args:
        results: Results of one probe, one for each training run.
        controls: Names of the controls.

    Raises:
        SpatialBoostError: No result, or one without base, boosted or a control.
    """
    if not results:
        raise SpatialBoostError("no probe result was given; expected one for each training run")
    key, metric = next(iter(results[0].metrics.items()))
    names = ["boosted", "base", *controls]
    values = {name: [value for result in results for value in result.values(name, key)] for name in names}
    sign = 1 if metric.higher_is_better else -1
    better = {
        name: sum(sign * (ours - theirs) > 0 for ours, theirs in zip(values["boosted"], values[name], strict=True))
        for name in names[1:]
    }
    pairs = len(values["boosted"])
    unit = f" {metric.unit}" if metric.unit else ""
    means = {name: f"{statistics.fmean(found):.3f}{unit}" for name, found in values.items()}
    chance = {name: max((_chance(result, name) for result in results), default=0.0) for name in names[1:]}
    if min(better.values()) == pairs and max(chance.values()) < LEVEL:
        beaten = "".join(f" and the control {name} ({means[name]})" for name in controls)
        return f"Boosted beats base ({metric.label} {means['boosted']} against {means['base']}){beaten}."
    counts = [f"base in {better['base']} of {pairs} pairs{_by_chance(chance['base'])}"]
    counts += [f"the control {name} in {better[name]}{_by_chance(chance[name])}" for name in controls]
    figures = ", ".join(f"{name} {means[name]}" for name in names)
    return f"No effect is shown: boosted beats {', '.join(counts)} ({metric.label}: {figures})."


def _chance(result: ProbeResult, other: str) -> float:
    """The p of the paired test over the items; 0 if these were not scored."""
    try:
        return result.paired("boosted", other).p
    except SpatialBoostError:
        return 0.0


def _by_chance(p: float) -> str:
    return f" (over the same items p = {p:.2f})" if p >= LEVEL else ""

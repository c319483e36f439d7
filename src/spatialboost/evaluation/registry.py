"""The table of all benchmarks."""

from __future__ import annotations

import importlib

from spatialboost.errors import unknown
from spatialboost.evaluation.benchmark import Benchmark

BENCHMARKS: dict[str, str] = {
    "all-angles": "spatialboost.evaluation.sets.all_angles:AllAngles",
    "blink": "spatialboost.evaluation.sets.blink:Blink",
    "cv-bench": "spatialboost.evaluation.sets.cv_bench:CVBench",
    "spar-bench": "spatialboost.evaluation.sets.spar_bench:SparBench",
    "view-spatial": "spatialboost.evaluation.sets.view_spatial:ViewSpatial",
    "vsi-bench": "spatialboost.evaluation.sets.vsi_bench:VSIBench",
}
"""Class of each benchmark by its name in commands; imported when it is needed."""


def find_benchmark(name: str) -> Benchmark:
    """A benchmark by its name.

    Example:
        >>> find_benchmark("vsi-bench").title
        'VSI-Bench'

    Raises:
        SpatialBoostError: There is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise unknown("benchmark", name, BENCHMARKS)
    module, _, attribute = BENCHMARKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()

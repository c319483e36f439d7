"""Probes on frozen encoders, base against boosted: depth from patch tokens, classes from whole images.

Open `protocol.py` first: what a probe is, and the table of those that there are.

- `depth.py`, `classification.py`: the probes; `depth_*.py`, `patch_depth.py`, `ridge.py`: the parts of the depth probe.
- `run.py`: the one driver, which gives every encoder the same items, seeds and draws.
- `options.py`, `draws.py`: the options that all probes have, and which training items each seed takes.
- `inputs.py`, `views.py`, `image_folder.py`, `splits.py`: how splits are given, opened and read.
- `features.py`, `token_store.py`: tokens of frozen encoders, which need not fit into memory.
- `measures.py`, `result.py`, `pictures.py`: figures, and how they are shown.
- `probe_command.py`: the command line.
"""

from spatialboost.probes.classification import knn_probe
from spatialboost.probes.depth import depth_probe
from spatialboost.probes.depth_panel import DepthPanel
from spatialboost.probes.features import Features, read_features
from spatialboost.probes.image_folder import read_image_folder
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.pictures import Panel
from spatialboost.probes.protocol import PROBES, Measured, Probe, ReadSplit, find_probe
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
from spatialboost.probes.run import run_probe

__all__ = [
    "PROBES",
    "CommonOptions",
    "DepthPanel",
    "Features",
    "Measured",
    "Metric",
    "Panel",
    "Probe",
    "ProbeResult",
    "ProbeRow",
    "ReadSplit",
    "depth_probe",
    "find_probe",
    "knn_probe",
    "read_features",
    "read_image_folder",
    "run_probe",
]

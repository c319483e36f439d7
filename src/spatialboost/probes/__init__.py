"""Probes on frozen encoders, base against boosted: depth from patch tokens, classes from whole images."""

from spatialboost.probes.classification import knn_probe, read_image_folder
from spatialboost.probes.depth import depth_probe
from spatialboost.probes.features import Features, read_features
from spatialboost.probes.result import Metric, Panel, ProbeResult, ProbeRow

__all__ = [
    "Features",
    "Metric",
    "Panel",
    "ProbeResult",
    "ProbeRow",
    "depth_probe",
    "knn_probe",
    "read_features",
    "read_image_folder",
]

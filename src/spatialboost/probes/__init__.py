"""Probes on frozen encoders, base against boosted: depth, normals, classes, retrieval, matches, poses, 3D points.

Open `protocol.py` first: it says what a probe is and has the table of all probes.

- `depth.py`, `normals.py`, `segmentation.py`, `matches.py`, `classification.py` (kNN), `linear.py`, `retrieval.py`,
  `pose.py`, `points.py`, `control/`: the probes.
- `published.py`: the values of published protocols by name.
- `ridge.py`, `ridge_fit.py`, `heads.py`: linear maps in closed form, and heads trained by gradient descent;
  `depth_*.py`, `patch_depth.py`: further parts of the depth probe; `class_scores.py`, `ranking.py`, `pose_errors.py`:
  scores; `lifting.py`, `halves.py`, `registration.py`: parts of the points probe; `*_panel.py`: the pictures.
- `run.py`: runs a probe and gives every encoder the same items and seeds.
- `options.py`, `draws.py`: the options of all probes, and the training items that each seed draws.
- `inputs.py`, `views.py`, `view_scenes.py`, `scan_labels.py`, `pair_lists.py`, `split_lists.py`, `image_folder.py`,
  `segmented_images.py`, `retrieval_sets.py`, `plain_pickle.py`, `splits.py`: how splits are specified, opened and read;
  `windows.py`: parts of images.
- `features.py`, `token_store.py`: tokens of frozen encoders, in memory or on disk.
- `measures.py`, `result.py`, `encoder_facts.py`, `pictures.py`, `report_page.py`: metrics, results, pictures, and one
  page for many results.
- `compare.py` (with `compare_pictures.py`, `room_heads.py`, `token_colours.py`): pictures of any images.
- `probe_command.py`, `compare_command.py`: the command line.
"""

from spatialboost.probes.classification import knn_probe
from spatialboost.probes.compare import compare_images
from spatialboost.probes.depth import depth_probe
from spatialboost.probes.depth_panel import DepthPanel
from spatialboost.probes.features import Features, read_features
from spatialboost.probes.image_folder import read_image_folder
from spatialboost.probes.linear import linear_probe
from spatialboost.probes.matches import matches_probe
from spatialboost.probes.normals import normals_probe
from spatialboost.probes.options import CommonOptions
from spatialboost.probes.pair_lists import ListedPairs
from spatialboost.probes.pictures import Panel
from spatialboost.probes.points import points_probe
from spatialboost.probes.pose import pose_probe
from spatialboost.probes.protocol import PROBES, Measured, Probe, ReadSplit, find_probe
from spatialboost.probes.published import PROTOCOLS, from_protocol
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
from spatialboost.probes.retrieval import retrieval_probe
from spatialboost.probes.retrieval_sets import open_retrieval
from spatialboost.probes.run import run_probe
from spatialboost.probes.segmentation import segmentation_probe
from spatialboost.probes.segmented_images import open_segmentation

__all__ = [
    "PROBES",
    "PROTOCOLS",
    "CommonOptions",
    "DepthPanel",
    "Features",
    "ListedPairs",
    "Measured",
    "Metric",
    "Panel",
    "Probe",
    "ProbeResult",
    "ProbeRow",
    "ReadSplit",
    "compare_images",
    "depth_probe",
    "find_probe",
    "from_protocol",
    "knn_probe",
    "linear_probe",
    "matches_probe",
    "normals_probe",
    "open_retrieval",
    "open_segmentation",
    "points_probe",
    "pose_probe",
    "read_features",
    "read_image_folder",
    "retrieval_probe",
    "run_probe",
    "segmentation_probe",
]

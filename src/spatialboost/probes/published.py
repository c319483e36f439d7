"""Published protocols by name: the values of a probe's and of the common options that make figures comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.probes.options import QUARTERS, CommonOptions
from spatialboost.probes.protocol import Probe, find_probe

# Each run of a paper is one run on all training items
_ONE_RUN = {"seeds": (0,), "subset": 1.0}

# The linear depth probe of DINOv3 on NYUv2 (public code; 2 images on each of 8 GPUs)
_DEPTH = {
    **_ONE_RUN,
    "features": "fresh",
    "bins": 256,
    "min_depth": 0.001,
    "average": "views",
    "flips": True,
    "steps": 38_400,
    "batch": 16,
    "rates": [3e-4],
    "optimiser": "adamw",
    "weight_decay": 1e-4,
    "beta2": 0.99,
    "warmup": 1 / 3,
    "clip": 35.0,
}
_NYUD = {**_DEPTH, "image_size": (480, 640), "max_depth": 10.0, "crop": "eigen"}
_KITTI = {**_DEPTH, "image_size": (352, 1216), "max_depth": 80.0, "crop": "garg"}
_LINEAR = {"head": "linear", "layer": -1}
_DPT = {"head": "dpt", "layer": QUARTERS, "channels": 256}

# The linear segmentation probe of DINOv3 on ADE20K, and the multi-scale one of DINOv2 (public configurations)
_SEGMENTATION = {
    **_ONE_RUN,
    "features": "fresh",
    "steps": 40_000,
    "batch": 16,
    "rates": [1e-3],
    "optimiser": "adamw",
    "beta2": 0.999,
    "warmup": 1500 / 40_000,
    "clip": 0.0,
}
_ONE_SCALE = {
    **_SEGMENTATION,
    "image_size": 512,
    "layer": -1,
    "weight_decay": 1e-3,
    "zoom": [0.5, 2.0],
    "stride": 2 / 3,  # windows of 512, 341 apart
    "scales": [1.0],
    "flips": False,
}
_MULTI_SCALE = {
    **_SEGMENTATION,
    "image_size": 640,
    "layer": (-4, -3, -2, -1),
    "weight_decay": 1e-4,
    "zoom": [1.0, 3.0],
    "stride": 0.5,
    "scales": [1.0, 1.32, 1.73, 2.28, 3.0],
    "flips": True,
}

# The linear evaluation of DINOv2 and DINOv3: 10 epochs of 1,281,167 images, 128 on each of 8 GPUs
_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
_IMAGENET = {"image_size": 224, "layer": -1, "fit": "middle"}

PROTOCOLS: dict[str, dict[str, Mapping[str, Any]]] = {
    "depth": {
        "nyud-linear": {**_NYUD, **_LINEAR},
        "nyud-dpt": {**_NYUD, **_DPT},
        "kitti-linear": {**_KITTI, **_LINEAR},
        "kitti-dpt": {**_KITTI, **_DPT},
    },
    "segmentation": {
        "ade20k-linear": _ONE_SCALE,
        "ade20k-ms": _MULTI_SCALE,
        "voc-linear": _ONE_SCALE,
        "voc-ms": _MULTI_SCALE,
    },
    "linear": {
        "imagenet-linear": {
            **_IMAGENET,
            **_ONE_RUN,
            "token": "class",
            "norm": False,
            "optimiser": "sgd",
            "weight_decay": 0.0,
            "steps": 12_510,
            "batch": 1024,
            "rates": [4 * rate for rate in _RATES],  # scaled by batch / 256
            "warmup": 0.0,
            "clip": 0.0,
        },
    },
    "knn": {"imagenet-knn": {**_IMAGENET, "k": 20, "temperature": 0.07}},
}
"""Values by the name of the probe and that of the protocol; a new protocol is one entry."""


def from_protocol(task: str, name: str, **given: Any) -> tuple[Probe, CommonOptions]:
    """A probe and the options of a published protocol, for `run_probe`.

    Example:
        >>> probe, options = from_protocol("depth", "nyud-linear", steps=20, num_panels=0)
        >>> probe.bins, probe.steps, options.image_size, options.protocol
        (256, 20, (480, 640), 'nyud-linear, but steps 20')

    `docs/probes.md` says where the values are from.

    Args:
        task: name of the probe, such as ``"depth"``.
        name: name of the protocol, such as ``"nyud-linear"``.
        **given: fields of the probe and of `CommonOptions` with other values than those of the protocol.

    Raises:
        SpatialBoostError: there is no such probe, protocol or field.
    """
    probe = find_probe(task)
    known = PROTOCOLS.get(task, {})
    if not known:
        raise SpatialBoostError(f"probe {task} has no published protocols; those that have are {', '.join(PROTOCOLS)}")
    if name not in known:
        raise unknown("protocol", name, known)
    own, common = ({field.name for field in fields(each)} for each in (probe, CommonOptions))  # type: ignore[arg-type]
    for key in given:
        if key not in own | common:
            raise unknown(f"option of the probe {task}", key, own | common)
    changed = [
        f"{key} {_text(value)}" for key, value in given.items() if key in known[name] and value != known[name][key]
    ]
    values = {**known[name], **given, "protocol": ", but ".join([name, *([", ".join(changed)] if changed else [])])}
    return (
        probe(**{key: value for key, value in values.items() if key in own}),
        CommonOptions(**{key: value for key, value in values.items() if key in common}),
    )


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple, range)) else str(value)

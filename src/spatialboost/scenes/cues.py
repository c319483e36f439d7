"""The 3D cues of one view. Every source returns them; questions and probes read nothing else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError

# Shape legend: H, W = image height and width in pixels.

_RIGID = 0.02  # largest error of a rotation matrix; files often have few digits


class CuesError(SpatialBoostError):
    """The cues of a view cannot be used. A build skips the view, counts it and reports its name."""


# Exceptions that a source raises for a bad item: a view that cannot be used, or a broken image, depth map or text file.
# PIL raises SyntaxError on a broken PNG.
BAD_ITEM = (
    CuesError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class SceneObject:
    """One object in a view: its descriptions and its mask.

    Attributes:
        description: noun phrase without article, such as ``"red box"``; unique within a view.
        mask_HW: bool ``(H, W)``, the visible pixels.
        aliases: further descriptions, each unique within the view. A question uses one that does not contain its
            answer: "Is the red object above ...?" instead of "Is the red box on the wall above ...?".
        identity: which thing of the place it is, if the source knows: in all views of a scene, objects with the same
            identity are one thing, and objects with different ones are different things. None if unknown.
    """

    description: str
    mask_HW: np.ndarray
    aliases: tuple[str, ...] = ()
    identity: str | None = None


@dataclass(frozen=True)
class Cues:
    """RGB image, metric depth, camera and objects of one view.

    Example:
        >>> cues = Cues(
        ...     image_HW3=np.zeros((4, 6, 3), np.uint8),
        ...     depth_HW=np.full((4, 6), 2.0, np.float32),
        ...     intrinsics_33=np.array([[5.0, 0, 2.5], [0, 5.0, 1.5], [0, 0, 1]]),
        ...     source="example",
        ... )
        >>> int(cues.valid_HW.sum())
        24

    Camera frame as in OpenCV: x right, y down, z forward, in metres; the centre of the top left pixel is (0, 0).

    Attributes:
        image_HW3: uint8 ``(H, W, 3)``, RGB.
        depth_HW: float32 ``(H, W)``, z in metres. A value that is not finite, not above zero, or the largest of its
            type means "no reading".
        intrinsics_33: float ``(3, 3)``, camera matrix in pixels of this image.
        source: name of the view's origin, such as ``"synthetic:17"``; used in ``meta`` and in error messages.
        objects: objects with masks; may be empty.
        pose_44: float ``(4, 4)`` camera to world, or None if unknown.
        valid_HW: bool ``(H, W)``, pixels with a reading; computed from ``depth_HW`` if not given.
        depth_noise: standard deviation of a depth reading divided by the depth (0.0 = exact, 0.02 = 2 %). No question
            is asked about a difference that is within this noise.
        facts: other facts from the source (room size, lights), as JSON-compatible values.
        up_3: float ``(3,)``, the direction up, against gravity, in the camera's frame; scaled to length 1. None if
            unknown.

    Raises:
        CuesError: shapes differ, intrinsics are missing or not valid, or no pixel has a valid depth.
    """

    image_HW3: np.ndarray
    depth_HW: np.ndarray
    intrinsics_33: np.ndarray
    source: str
    objects: Sequence[SceneObject] = ()
    pose_44: np.ndarray | None = None
    valid_HW: np.ndarray = field(default=None)  # type: ignore[arg-type]  # filled in below
    depth_noise: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    up_3: np.ndarray | None = None

    def __post_init__(self) -> None:
        image, depth = self.image_HW3, self.depth_HW
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise CuesError(f"{self.source}: image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
        size = image.shape[:2]
        if depth.shape != size:
            raise CuesError(
                f"{self.source}: depth map is {depth.shape} but the image is {size}; resize one to the other "
                "(depth by nearest neighbour) and scale the intrinsics with it"
            )
        if not np.issubdtype(depth.dtype, np.floating):
            raise CuesError(
                f"{self.source}: depth map is {depth.dtype}, expected float32 in metres; divide it by its number of "
                "values per metre, and set pixels without a reading (often 0 and the largest value) to NaN"
            )
        if self.intrinsics_33 is None or np.shape(self.intrinsics_33) != (3, 3):
            raise CuesError(f"{self.source}: intrinsics are {np.shape(self.intrinsics_33)}, expected a 3x3 matrix")
        focal = np.diag(self.intrinsics_33)[:2]
        if not np.isfinite(self.intrinsics_33).all() or (focal <= 0).any():
            raise CuesError(
                f"{self.source}: focal lengths are {focal.tolist()}, expected two positive numbers in pixels"
            )
        if self.pose_44 is not None and (np.shape(self.pose_44) != (4, 4) or not np.isfinite(self.pose_44).all()):
            raise CuesError(
                f"{self.source}: pose is {np.shape(self.pose_44)}, expected a finite 4x4 camera-to-world matrix"
            )
        if self.pose_44 is not None:
            turn_33 = np.asarray(self.pose_44, np.float64)[:3, :3]
            rigid = np.abs(turn_33 @ turn_33.T - np.eye(3)).max() < _RIGID and np.linalg.det(turn_33) > 0
            if not rigid or np.abs(self.pose_44[3] - np.array([0, 0, 0, 1])).max() > _RIGID:
                raise CuesError(
                    f"{self.source}: pose {np.round(self.pose_44, 3).tolist()} is not a rotation and a translation; "
                    "expected a 4x4 camera-to-world matrix (x right, y down, z forward, metres)"
                )
        if self.up_3 is not None:
            up_3 = np.asarray(self.up_3, np.float64)
            if up_3.shape != (3,) or not np.isfinite(up_3).all() or abs(np.linalg.norm(up_3) - 1) > _RIGID:
                raise CuesError(f"{self.source}: up_3 is {up_3.tolist()}, expected three numbers of length 1 together")
            object.__setattr__(self, "up_3", up_3 / np.linalg.norm(up_3))
        if not 0 <= self.depth_noise < 1:
            raise CuesError(f"{self.source}: depth_noise is {self.depth_noise}, expected a fraction of the depth")
        readings = np.isfinite(depth) & (depth > 0) & (depth < np.finfo(depth.dtype).max)
        valid = readings if self.valid_HW is None else readings & self.valid_HW
        if not valid.any():
            raise CuesError(f"{self.source}: no pixel has a valid depth; expected at least one finite value above zero")
        object.__setattr__(self, "valid_HW", valid)
        for thing in self.objects:
            if thing.mask_HW.shape != size or thing.mask_HW.dtype != np.bool_:
                raise CuesError(
                    f"{self.source}: mask of {thing.description!r} is {thing.mask_HW.dtype} {thing.mask_HW.shape}, "
                    f"expected bool {size}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.image_HW3.shape[0], self.image_HW3.shape[1]

"""The frames of a recording as a source of views: read, brought to one size, and checked."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import rescale_intrinsics
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.extract.gravity import find_up_of_walk, up_in_camera
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.readers.annotations import Annotations, open_annotations
from spatialboost.scenes.readers.decode import MILLIMETRES, assumed_scale, image_size, read_depth, read_image
from spatialboost.scenes.readers.intrinsics import given_intrinsics, same_shape
from spatialboost.scenes.readers.matching import find_path
from spatialboost.scenes.readers.options import Fit, ReaderOptions
from spatialboost.scenes.readers.plausibility import Measured, check_depth, intrinsics_problem, principal_point_warning
from spatialboost.scenes.readers.poses import PoseOf, open_poses, to_camera_to_world
from spatialboost.scenes.readers.recording import Frame, Recording
from spatialboost.scenes.sizes import resize_image, validate_size
from spatialboost.scenes.sources import resize_cues

log = logging.getLogger(__name__)

# Shape legend: H, W = image height and width in pixels.

_FIRST_IMAGES = 3
_FARTHEST = 1e6  # metres from the origin of the poses


class Frames:
    """The frames of a recording; a frame is read when it is indexed.

    A frame with depth is a `Cues`, one without a `PartialCues`. The user's options have precedence over what the
    recording says; size and noise are as for `RGBDFolder`. The name, in the names of the views, is that of the folder
    by default. With ``check_late``, the recording is checked when its first frame is read; then no frame of a bad
    recording can be used. ``said`` are warnings that are not to be repeated: recordings of one data set share it.

    Raises:
        SpatialBoostError: a file that an option names is missing or has another form, or depth, intrinsics and poses do
            not fit together.
        CuesError: from ``[i]``, the frame cannot be used.
    """

    def __init__(
        self,
        recording: Recording,
        options: ReaderOptions,
        *,
        size: int | tuple[int, int] | None = None,
        depth_noise: float = 0.01,
        name: str | None = None,
        check_late: bool = False,
        said: set[str] | None = None,
    ) -> None:
        if size is not None:
            validate_size(size)
        if not 0 <= depth_noise < 1:
            raise SpatialBoostError(f"depth_noise is {depth_noise}, expected a fraction of the depth such as 0.01")
        self.recording, self.options, self.size, self.depth_noise = recording, options, size, depth_noise
        self.path = recording.folder
        self.name = name or self.path.resolve().name
        self.names = recording.names
        self.depth_format = recording.format_with(options)
        self._intrinsics = None
        if options.intrinsics is not None:
            self._intrinsics = given_intrinsics(options.intrinsics, self.path)
        self._poses: PoseOf | None = None
        if options.poses is not None:
            times = recording.times or [None] * len(self.names)
            self._poses = open_poses(find_path(options.poses, self.path, "poses"), self.names, times)
        self._annotations: Annotations | None = open_annotations(self.path)
        self._said: set[str] = set() if said is None else said
        self._late = check_late
        # Of a single frame, nothing is to be compared if its scale is known
        self._checked = not check_late or (len(self) == 1 and self.depth_format.scale is not None)
        self._problem_of_all: str | None = None
        if not check_late:
            self.check()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_objects(self) -> bool:
        """Whether the frames have named objects, from the user's own files or from the data set."""
        return self._annotations is not None or self.recording.has_objects

    @property
    def has_depth(self) -> bool:
        """Whether the first frame that can be used has a depth map."""
        for index in range(len(self)):
            try:
                return self._frame(index, self.name).depth is not None
            except CuesError:  # it is named when the frame is read
                continue
        return True

    @property
    def depth_scale(self) -> float | None:
        """Values per metre that the folder or an option gives."""
        return self.depth_format.scale

    def __getitem__(self, index: int, /) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)} in {self.path}")
        index %= len(self)
        source = f"{self.name}/{self.names[index]}"
        self._check_late(source)
        view = self._read(index, source)
        if view.pose_44 is not None and view.up_3 is None:
            view = replace(view, up_3=up_in_camera(self._world_up, view.pose_44))
        return resize_cues(view, self.size) if self.size is not None and isinstance(view, Cues) else view

    @cached_property
    def _world_up(self) -> np.ndarray | None:
        """The direction "up" along gravity in the world of the poses, or else from the floor; None = not known."""
        if self.options.up is not None:
            return np.array(self.options.up, np.float64)
        if self.recording.up_world_3 is not None:
            return self.recording.up_world_3
        return find_up_of_walk(self._read_posed, len(self))

    def _read_posed(self, index: int) -> Cues:
        source = f"{self.name}/{self.names[index]}"
        view = self._read(index, source)
        if not isinstance(view, Cues) or view.pose_44 is None:
            raise CuesError(f"{source}: it has no depth or no pose")
        return view

    def _read(self, index: int, source: str) -> Cues | PartialCues:
        """The view of a frame, in its own size if it has depth; "up" only if the frame itself tells it."""
        frame = self._frame(index, source)
        image_HW3 = frame.image if isinstance(frame.image, np.ndarray) else read_image(frame.image, source)
        if frame.depth is None:
            return self._without_depth(index, frame, image_HW3, source)
        intrinsics_33 = self._intrinsics_of(frame, image_HW3.shape[:2], source)
        fitted = self._fit(frame, image_HW3.shape[:2], intrinsics_33, source)
        size = fitted.depth_HW.shape
        return Cues(
            image_HW3=resize_image(image_HW3, size),
            depth_HW=fitted.depth_HW,
            intrinsics_33=fitted.intrinsics_33,
            source=source,
            objects=self._objects(index, size, source),
            pose_44=frame.pose_44,
            depth_noise=self.depth_noise,
            up_3=frame.up_3,
        )

    def _check_late(self, source: str) -> None:
        if not self._checked:
            self._checked = True
            try:
                self.check()
            except SpatialBoostError as error:
                self._problem_of_all = str(error)
        if self._problem_of_all is not None:
            raise CuesError(f"{source}: {self._problem_of_all}")

    def check(self) -> None:
        """Compare intrinsics, depth and poses of a few frames with what is usual, and with each other.

        Raises:
            SpatialBoostError: they do not fit together, or no frame of the first ones has usable intrinsics.
        """
        problems: list[str | None] = []
        for index in range(min(_FIRST_IMAGES, len(self))):
            try:
                frame = self._frame(index, f"{self.name}/{self.names[index]}")
            except CuesError:  # it is named when the frame is read
                continue
            size = frame.image.shape[:2] if isinstance(frame.image, np.ndarray) else image_size(frame.image)
            if size is None or (frame.intrinsics is None and frame.depth is None):
                continue
            problems.append(self._problem(frame, size))
            if problems[-1] is None and frame.intrinsics is not None and frame.intrinsics.size is None:
                origin = frame.intrinsics.origin
                self._say(principal_point_warning(frame.intrinsics.matrix_33, size, origin), once="principal point")
        if problems and all(problems):
            raise SpatialBoostError(f"{self.path}: {problems[0]}")
        if not self.recording.metric_poses and self.options.pose_scale is None:
            self._say(
                "its poses have a unit of their own and are not used; --pose-scale gives the metres per unit",
                once="unit of poses",
            )
        given = self.depth_format.scale
        scale = given or self._assumed_scale()
        known = given is not None
        seen = check_depth(self.path, self._measure, self._pose, len(self), scale, self.recording.usual, given=known)
        log.log(logging.DEBUG if self._late else logging.INFO, "%s: depth is %s", self.path, seen)

    def _assumed_scale(self) -> float:
        """Values per metre if nothing says it, by the type of the first depth map."""
        for index in range(min(_FIRST_IMAGES, len(self))):
            try:
                depth = self._frame(index, self.name).depth
            except CuesError:  # it is named when the frame is read
                continue
            if isinstance(depth, Path) and depth.is_file():
                return assumed_scale(depth)
        return MILLIMETRES

    def _frame(self, index: int, source: str) -> Frame:
        """The parts of a frame; options have precedence."""
        try:
            frame = self.recording.frame(index, source)
        except CuesError:
            raise
        except SpatialBoostError as error:  # of a file that belongs to this frame only
            raise CuesError(f"{source}: {error}") from error
        changes: dict[str, Any] = {}
        if self._intrinsics is not None:
            changes |= {"intrinsics": self._intrinsics, "depth_intrinsics": None}
        scale = self.options.pose_scale or 1.0
        if self._poses is not None:
            pose_44 = self._poses(index)
            changes["pose_44"] = None if pose_44 is None else to_camera_to_world(pose_44, self.options.pose_type, scale)
        elif frame.pose_44 is not None:
            usable = self.recording.metric_poses or self.options.pose_scale is not None
            changes["pose_44"] = to_camera_to_world(frame.pose_44, self.options.pose_type, scale) if usable else None
        return replace(frame, **changes)

    def _pose(self, index: int) -> np.ndarray | None:
        """The pose of a frame for `check`; None if it is not known, or cannot be right."""
        try:
            pose_44 = self._frame(index, self.name).pose_44
        except CuesError:  # it is named when the frame is read
            return None
        return pose_44 if pose_44 is not None and (np.abs(pose_44) < _FARTHEST).all() else None

    def _problem(self, frame: Frame, size: tuple[int, int]) -> str | None:
        """Why the intrinsics of a frame do not belong to its image of a size, or None."""
        if frame.intrinsics is None:
            return (
                "no intrinsics are known; give --intrinsics 'fx fy cx cy' or a file (--source names a known data set)"
            )
        try:
            matrix_33 = frame.intrinsics.at(size)
        except SpatialBoostError as error:
            return str(error)
        return intrinsics_problem(matrix_33, size, frame.intrinsics.size is not None, frame.intrinsics.origin)

    def _intrinsics_of(self, frame: Frame, size: tuple[int, int], source: str) -> np.ndarray:
        problem = self._problem(frame, size)
        if problem or frame.intrinsics is None:
            raise CuesError(f"{source}: {problem}")
        if frame.intrinsics.size not in (None, size):
            height, width = frame.intrinsics.size or size
            self._say(
                f"{frame.intrinsics.origin} is for images of {width}x{height} pixels; it is rescaled to the images of "
                f"{size[1]}x{size[0]}",
                once=f"intrinsics {frame.intrinsics.size} {size}",
            )
        return frame.intrinsics.at(size)

    def _read_depth(self, frame: Frame, source: str) -> np.ndarray:
        if isinstance(frame.depth, np.ndarray):
            usable_HW = (frame.depth >= 0) & (frame.depth <= self.depth_format.high)
            return np.where(usable_HW, frame.depth, 0).astype(np.float32)
        return read_depth(frame.depth or Path(), source, self.depth_format)

    def _fit(self, frame: Frame, image: tuple[int, int], intrinsics_33: np.ndarray, source: str) -> Measured:
        """Depth map and intrinsics at the size of the view."""
        depth_HW = self._read_depth(frame, source)
        size = self._fitted_size(image, depth_HW.shape, frame, source)
        target_33 = rescale_intrinsics(intrinsics_33, image, size)
        if frame.depth_intrinsics is not None:
            own = replace(frame, intrinsics=frame.depth_intrinsics)
            depth_33 = self._intrinsics_of(own, depth_HW.shape, source)
        elif depth_HW.shape == size:
            return Measured(depth_HW, target_33)
        else:
            depth_33 = rescale_intrinsics(intrinsics_33, image, depth_HW.shape)
        return Measured(_sample_depth(depth_HW, depth_33, size, target_33), target_33)

    def _fitted_size(
        self, image: tuple[int, int], depth: tuple[int, int], frame: Frame, source: str
    ) -> tuple[int, int]:
        """The size that image and depth map get."""
        if image == depth:
            return image
        if frame.depth_intrinsics is None and not same_shape(image, depth):
            raise CuesError(
                f"{source}: depth map is {depth} but the image is {image}, which is another aspect ratio; cut the "
                "larger one to what both show"
            )
        sizes: dict[Fit, tuple[int, int]] = {"image": image, "depth": depth, "smaller": min(image, depth)}
        size = sizes[self.options.fit]
        what, other = ("images", "depth maps") if size == depth else ("depth maps", "images")
        self._say(
            f"images of {image[1]}x{image[0]} and depth maps of {depth[1]}x{depth[0]} pixels: the {what} get the size "
            f"of the {other} (--fit changes this)",
            once=f"fit {image} {depth}",
        )
        return size

    def _objects(self, index: int, size: tuple[int, int], source: str) -> Any:
        if self._annotations is not None:
            return self._annotations.objects(self.names[index], size, source)
        try:
            return self.recording.objects(index, size)
        except CuesError:
            raise
        except SpatialBoostError as error:
            raise CuesError(f"{source}: {error}") from error

    def _measure(self, index: int) -> Measured | None:
        """Depth and intrinsics of a frame at the size of its view, for `check`; None if they cannot be read."""
        source = f"{self.name}/{self.names[index]}"
        try:
            frame = self._frame(index, source)
            image = frame.image.shape[:2] if isinstance(frame.image, np.ndarray) else image_size(frame.image)
            if frame.depth is None or frame.intrinsics is None:
                return None
            image = image or self._read_depth(frame, source).shape
            return self._fit(frame, image, frame.intrinsics.at(image), source)
        except SpatialBoostError:  # it is named when the frame is read
            return None

    def _without_depth(self, index: int, frame: Frame, image_HW3: np.ndarray, source: str) -> PartialCues:
        old = image_HW3.shape[:2]
        intrinsics_33 = None if frame.intrinsics is None else self._intrinsics_of(frame, old, source)
        size = _target_size(old, self.size)
        return PartialCues(
            image_HW3=resize_image(image_HW3, size),
            source=source,
            intrinsics_33=None if intrinsics_33 is None else rescale_intrinsics(intrinsics_33, old, size),
            objects=self._objects(index, size, source),
            pose_44=frame.pose_44,
            up_3=frame.up_3,
        )

    def _say(self, message: str | None, once: str) -> None:
        """Log a warning about the folder, once."""
        if message and once not in self._said:
            self._said.add(once)
            log.warning("%s: %s", self.path, message)


def _target_size(size: tuple[int, int], wanted: int | tuple[int, int] | None) -> tuple[int, int]:
    if wanted is None:
        return size
    if isinstance(wanted, int):
        wanted = round(size[0] * wanted / min(size)), round(size[1] * wanted / min(size))
    validate_size(wanted)
    return wanted


def _sample_depth(
    depth_HW: np.ndarray, depth_33: np.ndarray, size: tuple[int, int], target_33: np.ndarray
) -> np.ndarray:
    """The depth map as another camera at the same place sees it, by nearest neighbour; 0 where it does not reach."""
    (fx, _, cx), (_, fy, cy) = target_33[:2]
    (depth_fx, _, depth_cx), (_, depth_fy, depth_cy) = depth_33[:2]
    # Rounding is up at .5, where a pixel of the view is between two of the depth map, as in `resize_cues`
    columns = np.floor((np.arange(size[1]) - cx) * (depth_fx / fx) + depth_cx + 0.5 + 1e-9).astype(int)
    rows = np.floor((np.arange(size[0]) - cy) * (depth_fy / fy) + depth_cy + 0.5 + 1e-9).astype(int)
    height, width = depth_HW.shape
    inside = np.ix_((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
    sampled_HW = np.zeros(size, np.float32)
    sampled_HW[inside] = depth_HW[
        np.ix_(rows[(rows >= 0) & (rows < height)], columns[(columns >= 0) & (columns < width)])
    ]
    return sampled_HW

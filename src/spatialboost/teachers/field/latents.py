"""The latents of a trained field, as a vision-language model reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.scene import Scene
from spatialboost.teachers.field.teacher import FieldTeacher
from spatialboost.teachers.field.views import Views, scene_cameras, stack_sequences

# Shape legend: S samples, V frames of a sample, L latents, W width of the field.

Frames = Sequence[np.ndarray]  # of one sample, each uint8 (height, width, 3)
FrameCameras = Callable[[Frames], tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]


class FieldLatents:
    """Scene latents from a trained field: what Spa3-VLM reads.

    Example:
        >>> from spatialboost.training.run import open_teacher  # doctest: +SKIP
        >>> latents = FieldLatents(open_teacher("runs/spa3r"))  # doctest: +SKIP
        >>> latents([frames, frames[:2]]).shape  # doctest: +SKIP
        torch.Size([2, 256, 768])

    It is a `spatialboost.multimodal.SceneEncoder`. All frames of a sample are context views. A field on VGGT finds
    their cameras itself; a field on the geometry that the rows know has to be told them.

    Args:
        teacher: The teacher of a finished run, as `spatialboost.training.run.open_teacher` opens it.
        cameras: For known geometry: a function from the frames of a sample to their poses (camera to world, 4 x 4, any
            world, OpenCV axes) and intrinsics (3 x 3, in pixels of these frames).

    Raises:
        SpatialBoostError: The teacher is not a field, or the cameras are missing, or nobody needs them.

    Source: Spa3R (arXiv 2602.21186).
    """

    def __init__(self, teacher: FieldTeacher, cameras: FrameCameras | None = None) -> None:
        if not isinstance(teacher, FieldTeacher):
            raise SpatialBoostError(f"the teacher is a {type(teacher).__name__}; expected the FieldTeacher of a run")
        kind = teacher.options.geometry.kind
        if kind == "known" and cameras is None:
            raise SpatialBoostError(
                "this field was trained on known cameras, which images alone do not tell: give `cameras`, a function "
                "from the frames of a sample to their poses and intrinsics, or train with geometry.kind: vggt"
            )
        if kind != "known" and cameras is not None:
            raise SpatialBoostError(f"a field on {kind} finds the cameras itself: leave out `cameras`")
        self.objective, self.width = teacher.objective.eval(), teacher.options.width
        self.cameras = cameras
        self._views = Views(teacher.images, teacher.options, self.objective.geometry.grid)

    @torch.no_grad()
    def __call__(self, samples: Sequence[Frames], /) -> Tensor:
        """The latents ``(S, L, W)``.

        Raises:
            SpatialBoostError: A sample has no frame, or not one rigid pose and 3 x 3 intrinsics for each frame, or VGGT
                finds no camera in its frames.
        """
        if not samples or any(not len(frames) for frames in samples):
            raise SpatialBoostError("a sample without frames has no scene latents: give at least one frame")
        batch = stack_sequences([self._example(frames) for frames in samples])
        device = next(self.objective.field.parameters()).device
        latents = self.objective.encode({name: value.to(device) for name, value in batch.items()})
        if bad := [i for i, finite in enumerate(latents.isfinite().flatten(1).all(1).tolist()) if not finite]:
            raise SpatialBoostError(
                f"the latents of sample {bad[0]} are not finite: the geometry model finds no camera in its frames"
            )
        return latents

    def _example(self, frames: Frames) -> dict[str, Tensor]:
        example = self._views.of_images(frames, len(frames))
        if self.cameras is None:
            return example
        poses, intrinsics = self.cameras(frames)
        if not len(poses) == len(intrinsics) == len(frames):
            raise SpatialBoostError(
                f"`cameras` gave {len(poses)} poses and {len(intrinsics)} intrinsics for {len(frames)} frames; "
                "expected one of each for a frame"
            )
        views = [
            Cues(
                frame,
                np.ones(frame.shape[:2], np.float32),
                np.asarray(camera),
                f"frame {number}",
                pose_44=np.asarray(pose),
            )
            for number, (frame, camera, pose) in enumerate(zip(frames, intrinsics, poses, strict=True))
        ]  # their depths are not read: only views that are rendered have depths
        rows, columns = self.objective.geometry.grid
        return {**example, **scene_cameras(Scene(views)), "depths": torch.zeros(len(frames), rows * columns)}

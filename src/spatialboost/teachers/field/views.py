"""From the views of a row to the tensors of a sequence: which views are context, which are targets, their cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import to_normalised, to_pixels
from spatialboost.scenes.dataset.reader import open_image
from spatialboost.scenes.scene import Scene
from spatialboost.teachers.correspondence.config import CorrespondenceOptions
from spatialboost.teachers.correspondence.sequences import COLUMNS, cell_centres, follow, open_scene
from spatialboost.teachers.field.config import FieldOptions
from spatialboost.teachers.pixel.targets import patch_log_depth
from spatialboost.teachers.protocol import Example, Row, row_images
from spatialboost.training.data import RowImages

# Shape legend: V views of a sequence, N patches, H and W pixels.

OVERLAP = CorrespondenceOptions()  # how views are checked: do they overlap, do depths and poses agree
CHECKED = (12, 12)  # points of the first view that are followed for this


class Views:
    """Makes the tensors of a row for the field. It can be pickled and contains no model.

    The example has the chosen views, context views first and of these the row's first one first: ``pixel_values``
    ``(V, 3, H, W)``, ``frames``, how many these are, and ``contexts``, how many of them are context. With known
    geometry also ``poses`` ``(V, 4, 4)`` from the first view's camera to each camera, ``intrinsics`` ``(V, 4)`` as in
    `Cameras`, and ``depths`` ``(V, N)``, 0 where unknown. For VGGT also ``geometry_images`` ``(V, 3, H, W)``, uint8, in
    its own size.

    The same row and seed always give the same example.

    Args:
        images: Turns images into the encoder's input.
        options: The options of the teacher.
        grid: Rows and columns of patches at which depths are needed.
        seed: Random seed.
    """

    def __init__(self, images: RowImages, options: FieldOptions, grid: tuple[int, int], *, seed: int = 0) -> None:
        self.images, self.options, self.grid, self.seed = images, options, grid, seed

    def __call__(self, number: int, row: Row) -> Example:
        """The example of a row.

        Raises:
            SpatialBoostError: The row has one view, no overlap between its views, or poses that cannot be right.
        """
        known = self.options.geometry.kind == "known"
        count = count_views(row, COLUMNS[1:] if known else ())
        chosen, contexts = choose_views(np.random.default_rng([self.seed, number]), count, self.options)
        if known:
            return self.of_scene(open_scene(row, chosen), contexts)
        images = row_images(row)
        return self.of_images([np.asarray(open_image(images[i])) for i in chosen], contexts)

    def of_scene(self, scene: Scene, contexts: int) -> Example:
        """The example of posed views with depth, context views first.

        Raises:
            SpatialBoostError: The first view sees nothing that another one sees, or poses cannot be right.
        """
        follow(scene, to_pixels(cell_centres(CHECKED), scene.views[0].size), OVERLAP)
        example = self.of_images([view.image_HW3 for view in scene.views], contexts)
        example |= scene_cameras(scene)
        depths = [
            torch.from_numpy(np.where(view.valid_HW, view.depth_HW, 0).astype(np.float32)) for view in scene.views
        ]
        patches = [patch_log_depth(depth_HW[None], None, self.grid) for depth_HW in depths]
        example["depths"] = torch.cat([torch.where(known, log.exp(), 0.0) for log, known in patches])
        return example

    def of_images(self, images: Sequence[np.ndarray], contexts: int) -> Example:
        """The example of images of any sizes, context views first, without what is known of their geometry."""
        example = {"pixel_values": self.images({"images": images}), "contexts": torch.tensor(contexts)}
        example["frames"] = torch.tensor(len(images))
        if self.options.geometry.kind == "vggt":
            own = self.images.preparation
            example["geometry_images"] = replace(own, patch=1).resize(images, self.options.geometry.image_size)
        return example


def count_views(row: Row, columns: Sequence[str]) -> int:
    """The number of views of a row, of which each column has one entry.

    Raises:
        SpatialBoostError: It is one, or a column has another number.
    """
    count = len(row_images(row))
    if count < 2:
        raise SpatialBoostError(
            f"it has {count} view; a field needs at least two of one place: build the data with --views 4 or another "
            "number"
        )
    for name in columns:
        found = row.get(name)
        if not isinstance(found, (list, tuple)) or len(found) != count:
            raise SpatialBoostError(
                f"`{name}` is {found!r:.80}; expected a list with one entry for each of {count} images"
            )
    return count


def choose_views(rng: np.random.Generator, count: int, options: FieldOptions) -> tuple[list[int], int]:
    """The numbers of the views of a sequence, context views first, and how many these are.

    Example:
        >>> choose_views(np.random.default_rng(0), 6, FieldOptions(frames=(4, 4)))
        ([2, 3, 4, 5], 2)

    The first view in the order of the row is always context: its camera is the world.
    """
    low, high = options.frames
    wanted = min(int(rng.integers(low, high + 1)), count)
    first, *others = np.sort(rng.permutation(count)[:wanted]).tolist()
    contexts = max(1, int(wanted * (1 - options.target_share)))
    more = sorted(rng.permutation(others)[: contexts - 1].tolist())
    return [first, *more, *(each for each in others if each not in more)], contexts


def scene_cameras(scene: Scene) -> dict[str, torch.Tensor]:
    """``poses`` and ``intrinsics`` of the views of a scene, as in `Cameras`; the world is the first view's camera."""
    return {
        "poses": torch.from_numpy(np.stack(scene.poses)).inverse().float(),
        "intrinsics": torch.stack([normalised_intrinsics(v.intrinsics_33, v.size) for v in scene.views]),
    }


def normalised_intrinsics(intrinsics_33: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Focal lengths and principal point as shares of the image, see `Cameras`.

    Example:
        >>> normalised_intrinsics(np.array([[50.0, 0, 49.5], [0, 40.0, 39.5], [0, 0, 1]]), (80, 100)).tolist()
        [0.5, 0.5, 0.0, 0.0]

    Skew is left out.
    """
    height, width = size
    x, y = to_normalised(np.array([intrinsics_33[0, 2], intrinsics_33[1, 2]]), size) - 0.5
    return torch.tensor([intrinsics_33[0, 0] / width, intrinsics_33[1, 1] / height, x, y], dtype=torch.float32)


def stack_sequences(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """A batch: the views of all sequences one after another, and how many each has."""
    counts = ("frames", "contexts")
    batch = {name: torch.cat([each[name] for each in examples]) for name in examples[0] if name not in counts}
    return batch | {name: torch.stack([each[name] for each in examples]) for name in counts}

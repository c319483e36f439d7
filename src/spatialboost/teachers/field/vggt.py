"""VGGT as the frozen geometry model: cameras, depths and features from images alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.field.cameras import Cameras
from spatialboost.teachers.field.geometry import Geometry
from spatialboost.weights.hub import HubOptions, fetch_file, repo_id_of

# Shape legend: V views of one sequence, P tokens of a view with its special ones, N patches, I views of all sequences.

PATCH = 14
UNUSED = ("track_head.", "point_head.")  # parts of the checkpoint that the field does not read


def open_vggt(name: str) -> nn.Module:
    """VGGT with its weights, loaded strictly.

    Args:
        name: A Hub id such as ``facebook/VGGT-1B``, or a folder with ``model.safetensors``; a ``config.json`` beside it
            has arguments of the class.

    Raises:
        SpatialBoostError: The package is not installed, there is no such file, or the weights are not all of VGGT's.
    """
    try:
        vggt = import_module("vggt.models.vggt").VGGT  # not imported by name: PyPI has no package that we could declare
    except ImportError as error:
        raise SpatialBoostError(
            f"geometry.kind: vggt needs the package vggt ({error}): pip install "
            "git+https://github.com/facebookresearch/vggt"
        ) from None
    weights, config = (_file(name, each) for each in ("model.safetensors", "config.json"))
    if weights is None:
        raise SpatialBoostError(
            f"{name} has no model.safetensors; expected a Hub id such as facebook/VGGT-1B, or a folder with that file"
        )
    known = ("img_size", "patch_size", "embed_dim")
    given = {} if config is None else json.loads(config.read_text(encoding="utf-8"))
    model = vggt(**{k: v for k, v in given.items() if k in known}, enable_point=False, enable_track=False)
    from safetensors.torch import load_file

    state = {key: value for key, value in load_file(weights).items() if not key.startswith(UNUSED)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise SpatialBoostError(f"{weights} does not fit VGGT: {' '.join(str(error).split())[:300]}") from None
    return model


def _file(name: str, file: str) -> Path | None:
    folder = Path(name)
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    options = HubOptions()
    return fetch_file(repo_id_of(name, options, "a folder with model.safetensors"), file, options, optional=True)


class VGGTGeometry(nn.Module):
    """Cameras, depths and features of views by a frozen VGGT.

    Its own attention is kept, with its norms and positions; only a mask is added. The features are the output of the
    last frame block beside that of the last global block, of the patches only.

    Args:
        model: A ``vggt.models.vggt.VGGT``.
        image_size: (height, width) of the images that it gets, multiples of 14.
        aggregation: ``masked``: the global attention of context views does not see target views. ``two passes``: one
            pass over the context views, one over all views.
        bf16: Compute its blocks in bfloat16.

    Source: Spa3R (arXiv 2602.21186); VGGT (arXiv 2503.11651).
    """

    columns: tuple[str, ...] = ("images",)

    def __init__(
        self,
        model: nn.Module,
        image_size: tuple[int, int],
        *,
        aggregation: Literal["masked", "two passes"] = "masked",
        bf16: bool = False,
    ) -> None:
        super().__init__()
        if missing := [each for each in ("aggregator", "camera_head", "depth_head") if not hasattr(model, each)]:
            raise SpatialBoostError(f"{type(model).__name__} has no {missing[0]}; expected a VGGT")
        self.model = model.eval().requires_grad_(False)
        self.image_size, self.aggregation, self.bf16 = image_size, aggregation, bf16
        self.grid = (image_size[0] // PATCH, image_size[1] // PATCH)
        aggregator: Any = model.aggregator
        self.width = 2 * aggregator.camera_token.shape[-1]

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Geometry:
        """The geometry of the views ``geometry_images`` ``(I, 3, H, W)``, uint8, of all sequences."""
        parts = []
        sizes, contexts = batch["frames"].tolist(), batch["contexts"].tolist()
        for images, count in zip(batch["geometry_images"].split(sizes), contexts, strict=True):
            parts.append(self._sequence(images.float() / 255, count))
        poses, intrinsics, depths, features, context = (torch.cat(each) for each in zip(*parts, strict=True))
        return Geometry(Cameras(poses, intrinsics, self.grid), depths, features, depths > 0, context)

    def aggregate(self, images: Tensor, count: int | None = None) -> tuple[list[Tensor], int]:
        """The tokens after VGGT's blocks, and the place of the first patch; views from `count` on are hidden.

        Args:
            images: ``(V, 3, H, W)`` from 0 to 1.
            count: The first so many views are context: they do not see the others. None: all see all.
        """
        model: Any = self.model
        allowed = None
        if count is not None and count < len(images):
            views = torch.arange(len(images), device=images.device)
            allowed = (views[:, None] >= count) | (views < count)  # query view, key view
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16), masked(model.aggregator, allowed):
            return model.aggregator(images[None])

    def _sequence(self, images: Tensor, count: int) -> tuple[Tensor, ...]:
        model: Any = self.model
        if self.aggregation == "masked":
            layers, first = self.aggregate(images, count)
            context = layers[-1][0, :, first:].float()
        else:
            layers, first = self.aggregate(images)
            context = torch.zeros_like(layers[-1][0, :, first:], dtype=torch.float32)
            context[:count] = self.aggregate(images[:count])[0][-1][0, :, first:]
        layers = [each.float() if isinstance(each, Tensor) else each for each in layers]
        encoding = model.camera_head(layers)[-1][0]
        depths, _ = model.depth_head(layers, images=images[None], patch_start_idx=first)
        depths = nn.functional.interpolate(depths[0, ..., 0][:, None], self.grid, mode="nearest")[:, 0].flatten(1)
        poses, intrinsics = read_pose_encoding(encoding)
        return in_first_frame(poses), intrinsics, depths, layers[-1][0, :, first:], context


@contextmanager
def masked(aggregator: Any, allowed_VV: Tensor | None) -> Iterator[None]:
    """Within this context the global attention of a VGGT aggregator sees only what is allowed.

    Args:
        aggregator: VGGT's aggregator.
        allowed_VV: Whether tokens of view i see tokens of view j; None changes nothing.

    Raises:
        SpatialBoostError: A global block does not call torch's attention exactly once, so that the mask had no effect.
    """
    if allowed_VV is None:
        yield
        return
    mode, handles = _AddMask(allowed_VV), []

    def enter(*_: Any) -> None:
        mode.calls = 0
        mode.__enter__()

    def leave(*_: Any) -> None:
        mode.__exit__(None, None, None)
        if mode.calls != 1:
            raise SpatialBoostError(
                f"a global block of {type(aggregator).__name__} called torch's attention {mode.calls} times; expected "
                "one call, which gets the mask: set geometry.aggregation: two passes"
            )

    try:
        for block in aggregator.global_blocks:
            handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
        yield
    finally:
        for handle in handles:
            handle.remove()


class _AddMask(TorchFunctionMode):
    """Adds the mask to calls of torch's attention."""

    def __init__(self, allowed_VV: Tensor) -> None:
        super().__init__()
        self.allowed_VV, self.calls = allowed_VV, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is nn.functional.scaled_dot_product_attention:
            self.calls += 1
            per_view = args[0].shape[-2] // len(self.allowed_VV)
            mask = self.allowed_VV.repeat_interleave(per_view, 0).repeat_interleave(per_view, 1)
            kwargs["attn_mask"] = mask
        return func(*args, **kwargs)


def read_pose_encoding(encoding: Tensor) -> tuple[Tensor, Tensor]:
    """World to camera ``(V, 4, 4)`` and intrinsics as in `Cameras` ``(V, 4)`` from VGGT's encoding ``(V, 9)``.

    Example:
        >>> poses, intrinsics = read_pose_encoding(torch.tensor([[1.0, 2, 3, 0, 0, 0, 1, torch.pi / 2, torch.pi / 2]]))
        >>> poses[0, :3, 3].tolist(), intrinsics.round(decimals=3).tolist()
        ([1.0, 2.0, 3.0], [[0.5, 0.5, 0.0, 0.0]])

    It holds the translation, a quaternion (x, y, z, w), and the vertical and horizontal angle of view.
    """
    shift, turn, angles = encoding.float().split([3, 4, 2], -1)
    x, y, z, w = nn.functional.normalize(turn, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    poses = torch.eye(4, device=encoding.device).repeat(len(encoding), 1, 1)
    poses[:, :3, :3] = torch.stack([torch.stack(row, -1) for row in rows], -2)
    poses[:, :3, 3] = shift
    focal_y, focal_x = (0.5 / (angles / 2).tan()).unbind(-1)
    return poses, torch.stack([focal_x, focal_y, torch.zeros_like(focal_x), torch.zeros_like(focal_x)], -1)


def in_first_frame(poses: Tensor) -> Tensor:
    """World to camera with the first view's camera as the world: it is only nearly so in what VGGT predicts."""
    return poses @ torch.linalg.inv(poses[:1])

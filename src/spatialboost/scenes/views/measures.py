"""How much two frames differ: by the points that both of them see, or by how their images look (LPIPS)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.scenes.camera import project, unproject
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.sizes import resize_image

# Shape legend: H, W = height and width of a reduced frame; P = points.

View = Cues | PartialCues

_EDGE = 96  # pixels, shorter edge of a reduced depth map
_STEP = 3  # every third row and column of it gives a point
_AGREE = 0.05  # two depths of one point differ by at most this fraction, plus twice the noise of both
_FEWEST = 0.05  # of the points of a frame that can be compared with another frame
_LPIPS_EDGE = 224  # pixels, shorter edge of an image for LPIPS


class ViewMeasure(Protocol):
    """How much two frames differ: 0 = they are the same, and more = they have less in common."""

    name: str  # in the settings of a data set, with the options that change the choice
    nearest: float  # smallest difference of the first and the last view of a scene
    farthest: float  # largest difference of any two views of a scene
    same: float  # frames that differ by less are taken for the same picture

    def reduce(self, view: View) -> Any:
        """What the measure needs of a frame. It is kept in memory for many frames.

        Raises:
            CuesError: the frame lacks something.
        """

    def difference(self, a: Any, b: Any) -> float:
        """How much two reduced frames differ."""


@dataclass(frozen=True)
class _Reduced:
    points_P3: np.ndarray  # world, metres
    depth_HW: np.ndarray  # 0 = no reading
    intrinsics_33: np.ndarray
    world_to_camera_44: np.ndarray
    noise: float


class Overlap:
    """One minus the share of points that two frames both see. It needs depth and poses, and no network.

    Example:
        >>> from spatialboost.scenes.rooms.render import render_scenes
        >>> first, second = render_scenes([2], views=2, size=64)[0].views
        >>> overlap = Overlap()
        >>> overlap.difference(overlap.reduce(first), overlap.reduce(first))
        0.0
        >>> 0 < overlap.difference(overlap.reduce(first), overlap.reduce(second)) < 0.7
        True

    A point of one frame is seen by the other if it falls into its image and has the depth that is measured there,
    within 5 % and twice the noise. Points that fall on a pixel without a reading do not count. The share is computed in
    both directions, and the smaller one is taken. If too few points can be compared, it is 0.

    Args:
        low: smallest share that two views of a scene have in common.
        high: largest share that the first and the last view have in common.

    Raises:
        SpatialBoostError: not 0 < low < high <= 1.
    """

    def __init__(self, low: float = 0.3, high: float = 0.8) -> None:
        if not 0 < low < high <= 1:
            raise SpatialBoostError(f"the shares are {low} to {high}; expected 0 < low < high <= 1")
        self.nearest, self.farthest, self.same = 1 - high, 1 - low, min(0.03, 1 - high)
        self.name = f"overlap {low:g} to {high:g}"

    def reduce(self, view: View) -> _Reduced:
        """Points in the world, and a small depth map."""
        if view.pose_44 is None or view.depth_HW is None or view.intrinsics_33 is None:
            lacks = "pose" if view.pose_44 is None else "depth" if view.depth_HW is None else "intrinsics"
            raise CuesError(
                f"{view.source}: it has no {lacks}, so its overlap with other frames is not known; choose the views by "
                "LPIPS, or give a fixed stride"
            )
        size = view.depth_HW.shape
        step = max(1, min(size) // _EDGE)
        rows, columns = np.arange(step // 2, size[0], step), np.arange(step // 2, size[1], step)
        depth_HW = np.nan_to_num(view.depth_HW[np.ix_(rows, columns)], posinf=0.0).astype(np.float32)
        if view.valid_HW is not None:
            depth_HW = np.where(view.valid_HW[np.ix_(rows, columns)], depth_HW, np.float32(0))
        scaled = np.asarray(view.intrinsics_33, np.float64) / step
        scaled[:2, 2] -= step // 2 / step
        scaled[2] = 0, 0, 1
        pose_44 = np.asarray(view.pose_44, np.float64)
        points_HW3 = unproject(depth_HW, scaled)[::_STEP, ::_STEP]
        points_P3 = points_HW3[depth_HW[::_STEP, ::_STEP] > 0]
        world_P3 = points_P3 @ pose_44[:3, :3].T + pose_44[:3, 3]
        return _Reduced(world_P3.astype(np.float32), depth_HW, scaled, np.linalg.inv(pose_44), view.depth_noise)

    def difference(self, a: _Reduced, b: _Reduced) -> float:
        """One minus the smaller of the two shares."""
        return 1.0 - min(_share_seen(a, b), _share_seen(b, a))


def _share_seen(a: _Reduced, b: _Reduced) -> float:
    """The share of a's points that b sees."""
    points_P3 = a.points_P3 @ b.world_to_camera_44[:3, :3].T + b.world_to_camera_44[:3, 3]
    with np.errstate(invalid="ignore"):
        pixels_P2 = np.floor(project(points_P3, b.intrinsics_33) + 0.5)
        inside_P = ((pixels_P2 >= 0) & (pixels_P2 < b.depth_HW.shape[::-1])).all(-1)
    column, row = pixels_P2[inside_P].astype(int).T
    depth, z = b.depth_HW[row, column], points_P3[inside_P, 2]
    known = depth > 0
    comparable = len(points_P3) - len(z) + int(known.sum())
    if comparable < max(1.0, _FEWEST * len(points_P3)):
        return 0.0
    margin = (_AGREE + 2 * (a.noise + b.noise)) * z
    return float((known & (np.abs(depth - z) <= margin)).sum() / comparable)


class PerceptualDistance:
    """LPIPS of two images: the distance of their features in a network, as people judge it. It needs no poses.

    Example::

        by_look = PerceptualDistance(weights="vgg16.safetensors")
        scenes = ChosenViews(frames, measure=by_look)

    The network is the one of the package ``lpips`` (its layers on top come with that package). The weights of the
    backbone are those of torchvision, in a safetensors file: no pickle is opened. For ``vgg`` they are fetched from the
    Hub (``timm/vgg16.tv_in1k``, the same weights) if no file is given. A file is made once, where torchvision may
    download::

        import torchvision
        from safetensors.torch import save_file

        save_file(torchvision.models.alexnet(weights="DEFAULT").state_dict(), "alexnet.safetensors")

    Args:
        net: backbone: ``vgg``, ``alex`` or ``squeeze``. The paper does not say which one it takes.
        weights: safetensors file with the backbone's weights under torchvision's names.
        device: device of the network.
        low: smallest distance of the first and the last view of a scene.
        high: largest distance of two views of a scene.

    Raises:
        SpatialBoostError: the weights cannot be used, or the limits are wrong.

    Source: the paper's appendix (pairs with LPIPS between 0.35 and 0.65).
    """

    def __init__(
        self,
        net: str = "vgg",
        weights: str | Path | None = None,
        device: str = "cpu",
        low: float = 0.35,
        high: float = 0.65,
    ) -> None:
        if not 0 < low < high:
            raise SpatialBoostError(f"the distances are {low} to {high}; expected 0 < low < high")
        if net not in _BACKBONES:
            raise unknown("LPIPS backbone", net, _BACKBONES)
        self.nearest, self.farthest, self.same = low, high, min(0.05, low)
        self.name = f"LPIPS {net} {low:g} to {high:g}"
        self.net, self.weights, self.device = net, weights, device
        self._model: Any = None
        self._state = _read_backbone(net, weights) if weights is not None else None

    def reduce(self, view: View) -> np.ndarray:
        """The image with a shorter edge of 224 pixels, uint8 ``(H, W, 3)``."""
        height, width = view.image_HW3.shape[:2]
        scale = _LPIPS_EDGE / min(height, width)
        return resize_image(view.image_HW3, (round(height * scale), round(width * scale)))

    def difference(self, a: np.ndarray, b: np.ndarray) -> float:
        """LPIPS of the two images; an image of another size is resized to the first one."""
        import torch

        b = resize_image(b, a.shape[:2])
        if self._model is None:
            self._model = _make_lpips(self.net, self._state).to(self.device)
        images = [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(self.device) for image in (a, b)]
        with torch.inference_mode():
            return float(self._model(*(image.float() / 127.5 - 1 for image in images)))


_BACKBONES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}  # torchvision's names


def _read_backbone(net: str, weights: str | Path) -> dict[str, Any]:
    """The weights of a safetensors file.

    Raises:
        SpatialBoostError: it is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, name = user_path(weights), _BACKBONES[net]
    how = (
        f"expected a safetensors file, made by: import torchvision; from safetensors.torch import save_file; "
        f'save_file(torchvision.models.{name}(weights="DEFAULT").state_dict(), "{name}.safetensors")'
    )
    if path.suffix != ".safetensors":
        raise SpatialBoostError(f"{path} is not a safetensors file, and a pickle is never opened; {how}")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SpatialBoostError(f"{path} cannot be read ({error}); {how}") from error


def _make_lpips(net: str, state: dict[str, Any] | None) -> Any:
    """The network of the package ``lpips`` with the weights of the backbone.

    The package's own constructor would fetch the backbone as a pickle, so it makes a random one here.
    """
    import warnings

    import lpips

    if state is None:
        state = _fetch_backbone(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision with an argument of an older version
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    own = model.net.state_dict()
    names = {key: f"features.{key.partition('.')[2]}" for key in own}  # slice2.5.weight -> features.5.weight
    missing = [name for key, name in names.items() if name not in state or state[name].shape != own[key].shape]
    if missing:
        raise SpatialBoostError(
            f"the weights have no {missing[0]} of the shape that torchvision's {_BACKBONES[net]} has; expected its "
            "state_dict"
        )
    model.net.load_state_dict({key: state[name] for key, name in names.items()})
    return model.eval()


def _fetch_backbone(net: str) -> dict[str, Any]:
    from spatialboost.encoders.foreign import load_timm
    from spatialboost.weights.hub import HubOptions

    if net != "vgg":
        raise SpatialBoostError(
            f"no repository has the weights of {_BACKBONES[net]} as safetensors; give a file (weights=FILE), or take "
            "net=vgg"
        )
    return load_timm("vgg16.tv_in1k", HubOptions(), pretrained=True, kwargs={}).state_dict()


MEASURES: dict[str, Any] = {"overlap": Overlap, "lpips": PerceptualDistance}

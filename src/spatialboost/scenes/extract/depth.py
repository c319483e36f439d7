"""Metric depth and focal length of photographs, by the depth estimators of transformers."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.networks import Network, run_in_groups
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.focal import FocalLength, make_intrinsics

log = logging.getLogger(__name__)

# Shape legend: B = views, H, W = image height and width in pixels, h, w = size of the network's input.

RESTRICTED = ("-nc", "amlr", "research", "non-commercial", "noncommercial")  # parts of names of licences

_FAR = 65.0  # metres; data sets store depth up to 65.5 m, and networks say such numbers of the sky
_SATURATED = 0.98  # of the largest depth that a network can say: it means "farther than that"


class DepthEstimator:
    """The extractor of depth with one network; see `DepthPro`, `DepthAnything` and `ZoeDepth`.

    It sets depth in metres along the optical axis, the intrinsics, and ``facts["focal"]``, which says where the focal
    length is from:

    - ``"given"``: the option ``focal``;
    - ``"source"``: the view had intrinsics, such as a frame of an RGB-D camera;
    - ``"exif"``: the EXIF of the photograph;
    - ``"model"``: the network has estimated it;
    - ``"assumed"``: none of these; it is that of the cameras of the network's training images.

    A network that does not estimate the focal length has learnt metres for the cameras of its training images. Where it
    was trained with one camera and the focal length of the view is known, depth is multiplied by the ratio of the two
    focal lengths, in pixels of the network's input (Metric3D, arXiv 2307.10984).

    A pixel has no reading where depth is above 65 m, or the largest that the network can say.

    Args:
        model: a folder, or a name on the Hub. None takes the default of the class.
        revision, device, dtype: see `Network`.
        focal: the focal length of all views: ``"1200px"``, ``"60deg"`` (horizontal field of view) or ``"26mm"`` (35 mm
            equivalent). None takes that of each view.
        noise: standard deviation of the depth divided by the depth. None takes the default of the class.

    Raises:
        SpatialBoostError: the model does not exist, is of another kind or has no metric depth, or an option is wrong.
    """

    kind = "depth"
    short: str  # name of the extractor
    model_type: str  # in the config of transformers
    default_model: str
    default_noise: float
    at_once = 8  # images of one size in one forward pass

    def __init__(
        self,
        *,
        model: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        focal: str | None = None,
        noise: float | str | None = None,
    ) -> None:
        self.focal = None if focal is None else FocalLength.parse(focal)
        self.noise = self.default_noise if noise is None else _read_noise(noise)
        self.network = Network(
            "AutoModelForDepthEstimation", model or self.default_model, revision=revision, device=device, dtype=dtype
        )
        self.model, self.provenance = self.network.name, self.network.provenance
        self.check_config(self.network.config)
        options = [*([f"focal {self.focal}"] if self.focal else []), f"noise {self.noise:g}"]
        self.name = f"{self.short} ({self.network.label} {' '.join(options)})"
        if any(part in self.provenance["licence"].lower() for part in RESTRICTED):
            log.warning(
                "the licence of %s (%s) does not allow commercial use of its weights; read it before you publish a "
                "data set that is made with it, or use depth-anything with its default model",
                *(self.provenance["model"], self.provenance["licence"]),
            )

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raise unless a model with this config gives metric depth."""
        found = config.get("model_type")
        if found != self.model_type:
            raise SpatialBoostError(
                f"{self.model} is a {found} model; {self.short} needs one of the type {self.model_type}"
            )

    def trained_focal(self) -> tuple[float, bool]:
        """Focal length of the cameras of the training images in shorter sides, and whether all of them had this one."""
        raise NotImplementedError

    def largest(self) -> float:
        """The largest depth that counts as a reading, in metres."""
        return _FAR

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        """Depth, intrinsics, noise and ``facts["focal"]`` of each view; see `Extractor`."""
        processor = self.network.processor
        found: dict[int, Addition] = {}
        inputs: list[tuple[int, Any]] = []  # number of the view, and the input of the network
        for number, view in enumerate(views):
            try:
                made = processor(images=view.image_HW3.copy(), input_data_format="channels_last", return_tensors="pt")
                inputs.append((number, made["pixel_values"]))
            except (ValueError, RuntimeError) as error:  # an image that it cannot resize or pad
                found[number] = CuesError(f"{view.source}: the network cannot take this image ({error})")

        def run(part: list[tuple[int, Any]]) -> list[Addition]:
            return self._run([views[number] for number, _ in part], [pixels for _, pixels in part])

        additions = run_in_groups(inputs, lambda each: tuple(each[1].shape), run, self.at_once)
        found |= {number: addition for (number, _), addition in zip(inputs, additions, strict=True)}
        return [found[number] for number in range(len(views))]

    def _run(self, views: Sequence[PartialCues], pixels: Sequence[Any]) -> list[Addition]:
        """One forward pass for images that have the same size as input of the network."""
        import torch

        processor, device = self.network.processor, self.network.device
        sizes = [view.image_HW3.shape[:2] for view in views]
        with self.network.running():
            pixels_B3hw = torch.cat(list(pixels)).to(device, self.network.model.dtype)
            outputs = self.network.model(pixel_values=pixels_B3hw)
            outputs["predicted_depth"] = outputs.predicted_depth.float()
            angles = getattr(outputs, "field_of_view", None)
            known = [None] * len(views) if angles is None else [float(angle) for angle in angles]
            # pixels of the network's input for each pixel of the view
            scales = [min(pixels_B3hw.shape[2:]) / min(size) for size in sizes]
            focals = [self._focal(*each) for each in zip(views, known, scales, strict=True)]
            if hasattr(outputs, "field_of_view"):  # Depth Pro makes metres of it, so it gets the best that is known
                widths = np.array([size[1] for size in sizes])
                lengths = np.array([focal for focal, _ in focals])
                outputs["field_of_view"] = torch.tensor(
                    np.degrees(2 * np.arctan(widths / (2 * lengths))), dtype=torch.float32, device=device
                )
            wants = inspect.signature(processor.post_process_depth_estimation).parameters
            more = {"source_sizes": sizes} if "source_sizes" in wants else {}
            results = processor.post_process_depth_estimation(outputs, target_sizes=sizes, **more)
            depths = [result["predicted_depth"].float().cpu().numpy() for result in results]
        return [self._addition(*each) for each in zip(views, depths, focals, scales, strict=True)]

    def _focal(self, view: PartialCues, angle: float | None, scale: float) -> tuple[float, str]:
        """The focal length of a view in pixels, and where it is from."""
        size = view.image_HW3.shape[:2]
        if self.focal is not None:
            return self.focal.pixels(size), "given"
        if view.intrinsics_33 is not None:
            return float(view.intrinsics_33[0, 0]), str(view.facts.get("focal", "source"))
        if angle is not None:
            return (FocalLength(angle, "deg").pixels(size) if 0 < angle < 180 else math.nan), "model"
        return self._trained_pixels() / scale, "assumed"

    def _trained_pixels(self) -> float:
        """Focal length of the training images in pixels of the network's input."""
        size = self.network.processor.size
        return self.trained_focal()[0] * min(size["height"], size["width"])

    def _addition(
        self, view: PartialCues, depth_HW: np.ndarray, focal: tuple[float, str], scale: float
    ) -> dict[str, Any] | CuesError:
        length, origin = focal
        if not length > 0:
            return CuesError(
                f"{view.source}: the field of view that {self.short} estimates is not between 0 and 180 degrees"
            )
        readings_HW = np.isfinite(depth_HW) & (depth_HW > 0) & (depth_HW <= self.largest())
        if self.trained_focal()[1] and origin != "assumed":
            depth_HW = depth_HW * np.float32(length * scale / self._trained_pixels())
            readings_HW &= depth_HW <= _FAR
        if not readings_HW.any():
            finite = depth_HW[np.isfinite(depth_HW)]
            said = f"{finite.min():.3g} to {finite.max():.3g} m" if finite.size else "not a number"
            return CuesError(
                f"{view.source}: the depth that {self.short} gives is {said}; expected 0 to {self.largest():g} m"
            )
        size = view.image_HW3.shape[:2]
        keeps = view.intrinsics_33 is not None and origin != "given"
        return {
            "depth_HW": np.where(readings_HW, depth_HW, 0).astype(np.float32),
            "intrinsics_33": view.intrinsics_33 if keeps else make_intrinsics(length, size),
            "depth_noise": self.noise,
            "facts": {**view.facts, "focal": origin},
        }


class DepthPro(DepthEstimator):
    """Depth Pro (arXiv 2410.02073): metric depth and focal length. See `DepthEstimator` for the options.

    Example::

        extractor = open_extractor("depth-pro", device="cuda", dtype="float16")

    The weights have Apple's research licence (apple-amlr): not for commercial use.
    """

    short, model_type = "depth-pro", "depth_pro"
    default_model = "apple/DepthPro-hf"
    default_noise = 0.1
    at_once = 1  # it cuts one image into 35

    def trained_focal(self) -> tuple[float, bool]:
        """Only for models without a head for the field of view."""
        return 1.15, False


class DepthAnything(DepthEstimator):
    """Depth Anything V2, the models for metric depth (arXiv 2406.09414). See `DepthEstimator` for the options.

    Example::

        extractor = open_extractor("depth-anything", model="my_folder", focal="60deg")

    The default is the small model for rooms. ``...-Metric-Outdoor-Small-hf`` is for streets. The larger models have a
    licence without commercial use.
    """

    short, model_type = "depth-anything", "depth_anything"
    default_model = "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
    default_noise = 0.15

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Also raise for the models of relative depth, whose numbers have no unit."""
        super().check_config(config)
        if config.get("depth_estimation_type") != "metric":
            raise SpatialBoostError(
                f"{self.model} gives relative depth, which has no unit; expected a metric model such as "
                f"{self.default_model}"
            )

    def trained_focal(self) -> tuple[float, bool]:
        """Hypersim: 60 degrees for 1024x768 pixels. Virtual KITTI 2: 725 pixels for 1242x375."""
        return (1.155 if self.largest() < 40 else 1.933), True

    def largest(self) -> float:
        """Its head ends in a sigmoid times 20 m (rooms) or 80 m (streets)."""
        return min(_FAR, _SATURATED * float(self.network.config.get("max_depth") or 1))


class ZoeDepth(DepthEstimator):
    """ZoeDepth (arXiv 2302.12288): metric depth in rooms and on roads. See `DepthEstimator` for the options.

    Example::

        extractor = open_extractor("zoedepth", device="cuda")

    The licence of the weights is MIT.
    """

    short, model_type = "zoedepth", "zoedepth"
    default_model = "Intel/zoedepth-nyu-kitti"
    default_noise = 0.12

    def trained_focal(self) -> tuple[float, bool]:
        """NYU Depth v2: 519 pixels for 640x480. KITTI, its other training set, has another camera."""
        return 1.081, False


def _read_noise(noise: float | str) -> float:
    try:
        found = float(noise)
    except ValueError:
        found = math.nan
    if not 0 <= found < 1:
        raise SpatialBoostError(f"noise is {noise}; expected a fraction of the depth such as 0.1")
    return found

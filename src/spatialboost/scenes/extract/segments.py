"""Class-agnostic object proposals in RGB-D views: things that stand out in depth, shape and colour.

Large planes with nothing behind them (floor, walls, ceiling) are taken away; the rest is cut into superpixels, which
are merged where the surface goes on: no step in depth, no concave crease (locally convex parts make an object:
Stein et al., "Object Partitioning using Local Convexity", CVPR 2014), no change of colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.colours import main_colour
from spatialboost.scenes.cues import Cues, SceneObject

# Shape legend: H, W = image height and width in pixels at working size; S = superpixels; E = pairs of neighbours.

WORKING_EDGE = 240  # pixels; proposals need no more, and the walk over superpixels is then the same for all cameras
SUPERPIXELS = 500
COMPACTNESS = 0.06  # low: superpixels follow edges
MERGE_BELOW = 0.75  # of the boundary strength, in which 1 is a clear edge


def propose_objects(cues: Cues, *, max_objects: int = 8) -> Cues:
    """The same view with things in it that nobody has named, described by colour, size and place.

    Example::

        frames = RGBDFolder("office")
        for thing in propose_objects(frames[0]).objects:
            print(thing.description, thing.mask_HW.sum())  # "large beige object" 9120

    The same view always gives the same proposals. A place ("on the left") is part of a description only where colour
    and size are not enough to tell a thing from the others, since it would give away answers about the layout.

    Args:
        cues: a view with depth; objects that it has are replaced.
        max_objects: keep this many, those that stand out most.

    Returns:
        A copy of ``cues``; without objects where nothing stands out.
    """
    if max_objects < 1:
        raise SpatialBoostError(f"max_objects is {max_objects}, expected at least 1")
    view = _shrink(cues)
    background_HW = _background(view)
    labels_HW = _merge(view, _superpixels(view), background_HW)
    candidates = _drop_patterns([region for region in _regions(view, labels_HW, background_HW) if region.is_thing()])
    candidates.sort(key=lambda region: (-region.score, region.label))
    named = _describe(candidates[:max_objects])
    objects = [SceneObject(name, _enlarge(region.mask_HW, cues.size)) for name, region in named]
    return replace(cues, objects=tuple(objects))


@dataclass(frozen=True)
class _View:
    """A view at working size, its holes filled for looking at neighbours, never for measuring."""

    rgb_HW3: np.ndarray  # [0, 1]
    lab_HW3: np.ndarray
    points_HW3: np.ndarray  # metres; holes filled from the nearest reading
    normals_HW3: np.ndarray  # unit, towards the camera
    valid_HW: np.ndarray
    noise: float


def _shrink(cues: Cues) -> _View:
    from scipy import ndimage
    from skimage.color import rgb2lab

    from spatialboost.scenes.sources import resize_cues

    scale = min(1.0, WORKING_EDGE / max(cues.size))
    cues = resize_cues(cues, (max(1, round(cues.size[0] * scale)), max(1, round(cues.size[1] * scale))))
    valid_HW = cues.valid_HW
    rows, columns = ndimage.distance_transform_edt(~valid_HW, return_distances=False, return_indices=True)
    depth_HW = ndimage.median_filter(np.where(valid_HW, cues.depth_HW, 0.0)[rows, columns], 3)
    points_HW3 = unproject(depth_HW.astype(np.float64), cues.intrinsics_33)
    smooth_HW3 = ndimage.gaussian_filter(points_HW3, (1.5, 1.5, 0))
    across_HW3 = np.gradient(smooth_HW3, axis=1) if valid_HW.shape[1] > 1 else np.zeros_like(smooth_HW3)
    down_HW3 = np.gradient(smooth_HW3, axis=0) if valid_HW.shape[0] > 1 else np.zeros_like(smooth_HW3)
    normals_HW3 = np.cross(down_HW3, across_HW3)
    normals_HW3 /= np.linalg.norm(normals_HW3, axis=-1, keepdims=True) + 1e-12
    rgb_HW3 = cues.image_HW3 / 255.0
    return _View(
        rgb_HW3=rgb_HW3,
        lab_HW3=ndimage.gaussian_filter(rgb2lab(rgb_HW3), (0.7, 0.7, 0)),
        points_HW3=points_HW3,
        normals_HW3=normals_HW3,
        valid_HW=valid_HW,
        noise=cues.depth_noise,
    )


def _enlarge(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = (np.arange(size[0]) + 0.5) * mask_HW.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * mask_HW.shape[1] / size[1]
    return mask_HW[np.ix_(rows.astype(int), columns.astype(int))]


# ----------------------------------------------------------------------------------------------------------------------
# Planes
# ----------------------------------------------------------------------------------------------------------------------


def _background(view: _View, most: int = 5) -> np.ndarray:
    """Pixels on large planes that have (nearly) nothing behind them: floor, walls, ceiling; not table tops."""
    from scipy import ndimage

    points, normals = view.points_HW3[view.valid_HW], view.normals_HW3[view.valid_HW]
    sample = np.linspace(0, len(points) - 1, min(len(points), 4000)).astype(int)
    points, normals = points[sample], normals[sample]
    background_HW = np.zeros(view.valid_HW.shape, bool)
    rng = np.random.default_rng(0)
    free = np.ones(len(points), bool)
    for _ in range(most):
        if free.sum() < 0.08 * len(points):
            break
        # A point and its normal make a plane: one guess each, instead of three points that have to agree.
        guesses = rng.choice(np.flatnonzero(free), min(300, int(free.sum())), replace=False)
        offsets = np.abs((points[free] - points[guesses][:, None]) @ normals[guesses][:, :, None])[..., 0]
        near = (offsets < _tolerance(view, points[free])) & (normals[guesses] @ normals[free].T > 0.8)
        best = int(near.sum(1).argmax())
        members = np.flatnonzero(free)[near[best]]
        if len(members) < 0.08 * len(points):
            break
        normal, middle = _fit_plane(points[members])
        free[members] = False
        behind = (points - middle) @ normal < -4 * _tolerance(view, points)
        if behind.mean() < 0.07:
            heights = (view.points_HW3 - middle) @ normal
            aligned = view.normals_HW3 @ normal > 0.5
            background_HW |= (np.abs(heights) < 1.5 * _tolerance(view, view.points_HW3)) & aligned
            free &= np.abs((points - middle) @ normal) > 1.5 * _tolerance(view, points)
    return ndimage.binary_opening(ndimage.binary_closing(background_HW, iterations=2), iterations=1)


def _tolerance(view: _View, points: np.ndarray) -> np.ndarray:
    return 0.012 + (0.004 + view.noise) * points[..., 2]


def _fit_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normal towards the camera, and the middle of the points."""
    middle = points.mean(0)
    normal = np.linalg.eigh((points - middle).T @ (points - middle))[1][:, 0]
    return (normal if normal @ middle < 0 else -normal), middle


# ----------------------------------------------------------------------------------------------------------------------
# Regions
# ----------------------------------------------------------------------------------------------------------------------


def _superpixels(view: _View) -> np.ndarray:
    """Labels from 1 on, small pieces that follow edges of colour, depth and surface orientation."""
    from skimage.segmentation import slic

    features = np.concatenate(
        [view.lab_HW3 * (0.6, 1.0, 1.0), 60 * np.log(view.points_HW3[..., 2:]), 12 * view.normals_HW3], -1
    )
    return slic(features, SUPERPIXELS, compactness=COMPACTNESS, channel_axis=-1, convert2lab=False, start_label=1)


def _merge(view: _View, labels_HW: np.ndarray, background_HW: np.ndarray) -> np.ndarray:
    """Join neighbours, weakest boundary first; a joint boundary is as strong as the mean of its parts."""
    from skimage import graph

    rag = graph.RAG()
    rag.add_nodes_from((label, {"labels": [label]}) for label in range(1, int(labels_HW.max()) + 1))
    for (one, other), strength, count in _boundaries(view, labels_HW, background_HW):
        rag.add_edge(one, other, weight=strength, count=count)

    def joint(rag: Any, source: int, target: int, neighbour: int) -> dict[str, float]:
        parts = [rag[node].get(neighbour, {"weight": 0.0, "count": 0}) for node in (source, target)]
        count = sum(part["count"] for part in parts)
        return {"weight": sum(part["weight"] * part["count"] for part in parts) / count, "count": count}

    return 1 + graph.merge_hierarchical(
        labels_HW,
        rag,
        thresh=MERGE_BELOW,
        rag_copy=False,
        in_place_merge=True,
        merge_func=lambda rag, source, target: None,
        weight_func=joint,
    )


def _boundaries(
    view: _View, labels_HW: np.ndarray, background_HW: np.ndarray
) -> Iterable[tuple[tuple[int, int], float, int]]:
    """Pairs of touching superpixels, how strong the boundary between them is, and how long."""
    num = int(labels_HW.max()) + 1
    flat = labels_HW.ravel()
    sizes = np.maximum(np.bincount(flat, minlength=num), 1)

    def mean(values_HW3: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(flat, values_HW3[..., k].ravel(), num) for k in range(3)], -1) / sizes[:, None]

    colour_S3, middle_S3, normal_S3 = (
        mean(view.lab_HW3 * (0.5, 1.0, 1.0)),
        mean(view.points_HW3),
        mean(view.normals_HW3),
    )
    normal_S3 /= np.linalg.norm(normal_S3, axis=-1, keepdims=True) + 1e-12
    pairs, steps = [], []
    for axis in (0, 1):
        here, there = (np.take(labels_HW, range(k, labels_HW.shape[axis] - 1 + k), axis).ravel() for k in (0, 1))
        z = view.points_HW3[..., 2]
        z_here, z_there = (np.take(z, range(k, z.shape[axis] - 1 + k), axis).ravel() for k in (0, 1))
        cut = here != there
        pairs.append(np.sort(np.stack([here[cut], there[cut]], -1), -1))
        steps.append(np.abs(z_here - z_there)[cut] / np.minimum(z_here, z_there)[cut])
    edges_E2, which, counts_E = np.unique(np.concatenate(pairs), axis=0, return_inverse=True, return_counts=True)
    step_E = np.bincount(which.ravel(), np.minimum(np.concatenate(steps), 0.2), len(edges_E2)) / counts_E
    one, other = edges_E2.T
    colour_E = np.linalg.norm(colour_S3[one] - colour_S3[other], axis=-1)
    towards_E3 = middle_S3[one] - middle_S3[other]
    towards_E3 /= np.linalg.norm(towards_E3, axis=-1, keepdims=True) + 1e-9
    concave_E = np.maximum(0.0, -((normal_S3[one] - normal_S3[other]) * towards_E3).sum(-1))
    flat_S = np.bincount(flat, background_HW.ravel(), num) / sizes > 0.5
    strength_E = colour_E / 25.0 + np.minimum(step_E / (0.03 + 2 * view.noise), 2.0)
    strength_E += np.where(flat_S[one] != flat_S[other], 0.6, np.maximum(concave_E - 0.15, 0.0))
    for edge, strength, count in zip(edges_E2.tolist(), strength_E.tolist(), counts_E.tolist(), strict=True):
        yield (edge[0], edge[1]), strength, count


@dataclass(frozen=True)
class _Region:
    """A merged region and what decides whether it is a thing."""

    label: int
    mask_HW: np.ndarray
    flat: bool  # lies in a plane of the room: a picture, a bag against a sofa's back, or part of the floor
    lab: np.ndarray
    share: float  # of the image
    valid: float  # share of its pixels with a reading
    solidity: float  # share of its convex hull
    border: float  # share of its outline on the image's border
    fill: float  # share of its bounding box
    contrast: float  # towards what is around it
    colour: str
    extent: float  # metres, its longest side
    aspect: float  # height over width in the picture
    middle: tuple[float, float]  # x, y in [0, 1]

    def is_thing(self) -> bool:
        """Neither a scrap nor a wall, seen mostly whole, in one piece, with depth to measure."""
        return (
            0.005 < self.share < 0.3
            and self.valid > 0.45
            and self.solidity > 0.66
            and self.fill > 0.25
            and self.border < 0.3
            and self.contrast > (0.8 if self.flat else 0.5)
            and not (self.flat and (self.share > 0.12 or self.border > 0.2))
        )

    @property
    def score(self) -> float:
        """How much it stands out."""
        return self.contrast * self.solidity * self.valid * min(self.share, 0.04) ** 0.25 * (1 - self.border)


def _regions(view: _View, labels_HW: np.ndarray, background_HW: np.ndarray) -> list[_Region]:
    from scipy import ndimage
    from skimage.measure import label, regionprops

    height, width = labels_HW.shape
    # Opened and taken apart again: thin bridges and threads are not part of a thing.
    pieces_HW = np.zeros_like(labels_HW)
    for part in regionprops(labels_HW):
        mask_HW = ndimage.binary_opening(np.pad(labels_HW == part.label, 2, mode="edge"), iterations=1)[2:-2, 2:-2]
        connected = label(mask_HW, connectivity=1)
        if connected.max():
            largest = np.bincount(connected.ravel())[1:].argmax() + 1
            pieces_HW[connected == largest] = part.label
    regions = []
    for part in regionprops(pieces_HW):
        mask_HW = ndimage.binary_fill_holes(pieces_HW == part.label)
        area = int(mask_HW.sum())
        valid_HW = mask_HW & view.valid_HW
        if area < 0.004 * mask_HW.size or valid_HW.sum() < 12:
            continue
        inner = mask_HW & ~ndimage.binary_erosion(mask_HW)
        frame = np.zeros_like(mask_HW)
        frame[[0, -1]] = frame[:, [0, -1]] = True
        ring = ndimage.binary_dilation(mask_HW, iterations=4) & ~ndimage.binary_dilation(mask_HW, iterations=1)
        colour = np.median(view.lab_HW3[mask_HW], 0)
        points = view.points_HW3[valid_HW]
        low, high = np.percentile(points, (3, 97), axis=0)
        rows, columns = np.nonzero(mask_HW)
        tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        regions.append(
            _Region(
                label=part.label,
                flat=bool(background_HW[mask_HW].mean() > 0.6 or _goes_on(view, mask_HW, ring) > 0.6),
                lab=colour,
                mask_HW=mask_HW,
                share=area / mask_HW.size,
                valid=float(valid_HW.sum() / area),
                solidity=float(area / max(part.area_convex, area)),
                border=float((inner & frame).sum() / max(inner.sum(), 1)),
                fill=float(area / (tall * wide)),
                contrast=_contrast(view, colour, float(np.median(points[:, 2])), ring),
                colour=main_colour(view.rgb_HW3[mask_HW]),
                extent=float((high - low).max()),
                aspect=float(tall / wide),
                middle=(float((columns.mean() + 0.5) / width), float((rows.mean() + 0.5) / height)),
            )
        )
    return regions


def _goes_on(view: _View, mask_HW: np.ndarray, ring_HW: np.ndarray) -> float:
    """Share of the pixels around a region that lie in the plane through it."""
    if not ring_HW.any():
        return 1.0
    normal, middle = _fit_plane(view.points_HW3[mask_HW])
    around = view.points_HW3[ring_HW]
    return float((np.abs((around - middle) @ normal) < 1.5 * _tolerance(view, around)).mean())


def _drop_patterns(regions: list[_Region]) -> list[_Region]:
    """Flat regions of one colour and about one size are tiles or stripes, not things."""

    def alike(one: _Region, other: _Region) -> bool:
        return bool(0.4 < one.share / other.share < 2.5 and np.linalg.norm(one.lab - other.lab) < 12)

    return [r for r in regions if not (r.flat and any(o is not r and o.flat and alike(r, o) for o in regions))]


def _contrast(view: _View, colour: np.ndarray, depth: float, ring_HW: np.ndarray) -> float:
    """Mean difference of colour and depth to the pixels around, each pixel counting at most as a clear edge."""
    if not ring_HW.any():
        return 0.0
    colours = np.linalg.norm((view.lab_HW3[ring_HW] - colour) * (0.5, 1.0, 1.0), axis=-1) / 25.0
    steps = np.abs(view.points_HW3[ring_HW][:, 2] - depth) / depth / (0.06 + 2 * view.noise)
    return float(np.minimum(colours + np.minimum(steps, 0.6), 1.5).mean())


# ----------------------------------------------------------------------------------------------------------------------
# Descriptions
# ----------------------------------------------------------------------------------------------------------------------


def _describe(regions: Sequence[_Region]) -> list[tuple[str, _Region]]:
    """Colour, then as much of size and place as it takes; what is still not unique is left out, the fainter first."""
    traits = [{"colour": region.colour, "size": _size_word(region), "place": _place_word(region)} for region in regions]
    named: list[tuple[str, _Region]] = []
    kept: list[dict[str, str]] = []
    for region, own in zip(regions, traits, strict=True):
        if own not in kept:
            kept.append(own)
            named.append(("", region))
    for number, own in enumerate(kept):
        used = ["colour"]
        for extra in ("size", "place"):
            if sum(all(other[key] == own[key] for key in used) for other in kept) == 1:
                break
            used.append(extra)
        words = [
            own["size"] if "size" in used else "",
            own["colour"],
            "object",
            own["place"] if "place" in used else "",
        ]
        named[number] = (" ".join(word for word in words if word), named[number][1])
    return named


def _size_word(region: _Region) -> str:
    if region.aspect > 2.0:
        return "tall"
    if region.aspect < 0.4:
        return "wide"
    return "small" if region.extent < 0.35 else "large" if region.extent > 0.8 else "medium-sized"


def _place_word(region: _Region) -> str:
    x, y = region.middle
    across = "left" if x < 0.38 else "right" if x > 0.62 else ""
    down = "top" if y < 0.33 else "bottom" if y > 0.67 else ""
    if across and down:
        return f"at the {down} {across}"
    if across:
        return f"on the {across}"
    return f"at the {down}" if down else "in the middle"

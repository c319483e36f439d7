"""How right the cues of real views are: masks, poses, gravity; and how many frames give a conversation.

The commands of benchmarks/data.py call these functions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from spatialboost.photographs import open_photograph
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import BAD_ITEM, Cues
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.reconstruction import MatchedPoses
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.rgbd import RGBDFolder


def masks(photos: Path, model: Path, num: int) -> None:
    """For each polygon of coco128, the best IoU of a mask of MobileSAM; all masks count, not only the largest ones."""
    extractor, best, shares, images = open_extractor("mobile-sam", model=str(model), max_objects=200), [], [], 0
    paths = sorted((photos / "images").glob("*.jpg"))
    for path in paths[:: max(1, len(paths) // num)][:num]:
        labels = photos / "labels" / f"{path.stem}.txt"
        image = open_photograph(path)
        truths = polygons(labels, image.shape[1::-1]) if labels.exists() else []
        (addition,) = extractor([PartialCues(image, path.name)])
        if isinstance(addition, Exception) or not truths:
            continue
        images += 1
        found = [thing.mask_HW for thing in addition["objects"]]
        best += [max(((truth & mask).sum() / (truth | mask).sum() for mask in found), default=0.0) for truth in truths]
        shares += [truth.mean() for truth in truths]
    large = np.array(shares) >= 0.01
    print(f"{images} photographs, {len(best)} polygons: mean of the best IoU {np.mean(best):.3f}")
    print(f"of the {large.sum()} with at least 1 % of the image: {np.array(best)[large].mean():.3f}")


def polygons(labels: Path, size: tuple[int, int]) -> list[np.ndarray]:
    found = []
    for line in labels.read_text().splitlines():
        xy = np.array(line.split()[1:], float).reshape(-1, 2) * size
        drawing = Image.new("1", size)
        ImageDraw.Draw(drawing).polygon([tuple(point) for point in xy], fill=1)
        if np.asarray(drawing).any():
            found.append(np.asarray(drawing))
    return found


def poses(folder: Path, apart: int, num: int) -> None:
    """Poses of `matched-poses` from the measured depth, against those of the camera's own tracking."""
    frames, extractor = RGBDFolder(folder), MatchedPoses()
    degrees, metres, left_out = [], [], 0
    starts = range(0, len(frames) - apart, max(1, (len(frames) - apart) // num))
    for start in starts[:num]:
        try:
            pair = [frames[start], frames[start + apart]]
            additions = extractor([replace(PartialCues.of(view), pose_44=None) for view in pair])
        except BAD_ITEM:
            left_out += 1
            continue
        true = np.linalg.inv(pair[0].pose_44) @ pair[1].pose_44
        found = np.linalg.inv(additions[0]["pose_44"]) @ additions[1]["pose_44"]
        cosine = (np.trace(found[:3, :3].T @ true[:3, :3]) - 1) / 2
        degrees.append(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))))
        metres.append(float(np.linalg.norm((found - true)[:3, 3])))
    print(f"pairs {apart} frames apart: {len(degrees)} with poses, {left_out} left out")
    for name, values, unit in (("rotation", degrees, "degrees"), ("position", [100 * m for m in metres], "cm")):
        middle, most, worst = np.percentile(values, [50, 90, 100])
        print(f"{name}: median {middle:.2f}, 90 % below {most:.2f}, largest {worst:.2f} {unit}")


def frames(folder: Path, size: int) -> None:
    """How many frames give a conversation, and how many turns."""
    source = Extracted(RGBDFolder(folder, size=size), [open_extractor("superpixels")])
    turns, skipped = [], Counter[str]()
    for item in range(len(source)):
        try:
            turns.append(len(build_conversation(source[item], seed=item).meta["turns"]))
        except BAD_ITEM as error:
            skipped[str(error)] += 1
    print(f"{len(turns)} of {len(source)} frames give a conversation, with {np.mean(turns):.1f} turns: {dict(skipped)}")


def gravity(folder: Path, size: int, up: tuple[float, float, float] | None, options: ReaderOptions) -> None:
    """Above/below answers that contradict the heights of the objects in the world of the poses.

    Args:
        folder: RGB-D frames with poses.
        size: shorter edge, pixels.
        up: the true direction up in the world of the poses; None takes the one that the walk's floor gives.
        options: of the reader. Its own ``up`` stays unknown, so that it is found.
    """
    source = Extracted(RGBDFolder(folder, size=size, options=options), [open_extractor("superpixels")])
    plan = TurnPlan({"above_below": 2}, least=1)
    counts = {"along the camera's own vertical": [0, 0], "along the gravity that was found": [0, 0]}
    for item in range(len(source)):
        try:
            view = source[item]
        except BAD_ITEM:
            continue
        own = replace(view, up_3=np.array([0.0, -1.0, 0.0]))
        for count, seen in zip(counts.values(), (own, view), strict=True):
            try:
                talk = build_conversation(seen, seed=item, plan=plan)
            except BAD_ITEM:
                continue
            true = view.pose_44[:3, :3] @ view.up_3 if up is None else np.array(up)
            heights = true_heights(view, true)
            names = [thing["description"] for thing in talk.meta["objects"]]
            for turn in talk.meta["turns"]:
                a, b = (heights[names[number]] for number in turn["objects"])
                count[0] += 1
                count[1] += (a > b) != (turn["holds"] == "above")
    for name, (asked, wrong) in counts.items():
        print(f"{name}: {wrong} of {asked} answers contradict the true heights")


def true_heights(view: Cues, up_3: np.ndarray) -> dict[str, float]:
    """The middle of each object between its lowest and its highest point, in metres."""
    assert view.pose_44 is not None
    height_HW = unproject(view.depth_HW, view.intrinsics_33) @ view.pose_44[:3, :3].T @ up_3
    return {
        thing.description: float(np.percentile(height_HW[thing.mask_HW & view.valid_HW], [2, 98]).mean())
        for thing in view.objects
    }

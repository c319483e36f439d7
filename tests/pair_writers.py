"""Lists of pairs in the forms in which ScanNet's test pairs and NAVI's pairs are handed out, with their frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from rendered_walk import matrix, pose, shot
from set_writers import quaternion, save, stored, words

COLOUR, SENSOR = matrix(146.0, 146.3, 80.2, 60.4), matrix(71.4, 71.4, 39.6, 29.7)
SIZES = (121, 162), (60, 80)


def write_superglue(folder: Path, pairs: list[tuple[int, int]], *, depth: bool = True, turn: int = 0) -> Path:
    """Frames as SensReader writes them, and the list with intrinsics and poses; returns the list."""
    sens = folder / "scans_test" / "scene0707_00" / "sens"
    lines = []
    for index in {index for pair in pairs for index in pair}:
        save(sens / f"frame-{index:06d}.color.jpg", shot(index, COLOUR, SIZES[0])[0])
        if depth:
            save(sens / f"frame-{index:06d}.depth.png", stored(shot(index, SENSOR, SIZES[1])[1], 1000))
    for pair in pairs:
        names = [f"scans_test/scene0707_00/sens/frame-{index:06d}.color.jpg" for index in pair]
        motion = np.linalg.inv(pose(pair[1])) @ pose(pair[0])
        lines.append(f"{names[0]} {names[1]} {turn} 0 {words(COLOUR)} {words(COLOUR)} {words(motion)}")
    file = folder / "scannet_test_pairs_with_gt.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def write_scannet_1500(folder: Path, pairs: list[tuple[int, int]], *, intrinsics: bool = True) -> Path:
    """Exported frames and the two `.npz` files of LoFTR; returns `test.npz`."""
    scan = folder / "scene0707_00"
    for index in {index for pair in pairs for index in pair}:
        save(scan / "color" / f"{index}.jpg", shot(index, SENSOR, SIZES[1])[0])
        save(scan / "depth" / f"{index}.png", stored(shot(index, SENSOR, SIZES[1])[1], 1000))
        (scan / "pose").mkdir(exist_ok=True)
        (scan / "pose" / f"{index}.txt").write_text("\n".join(map(words, pose(index))) + "\n")
    np.savez(folder / "test.npz", name=np.array([(707, 0, *pair) for pair in pairs], np.int64))
    if intrinsics:
        full = SENSOR.copy()  # for images of 640x480, eight times as large
        full[:2] *= 8
        full[:2, 2] += 3.5
        np.savez(folder / "intrinsics.npz", scene0707_00=full)
    else:
        (scan / "intrinsic").mkdir()
        (scan / "intrinsic" / "intrinsic_color.txt").write_text("\n".join(map(words, SENSOR)))
    return folder / "test.npz"


def write_navi(folder: Path, pairs: list[tuple[int, int]]) -> Path:
    """Photographs of one object, disparities, and annotations with the camera of each; returns the list."""
    scene = folder / "3d_dollhouse_sink" / "multiview-00-pixel_5"
    centred = matrix(71.4, 71.4, 39.5, 29.5)
    entries = []
    for index in {index for pair in pairs for index in pair}:
        image, depth = shot(index, centred, SIZES[1])
        save(scene / "images" / f"{index:03d}.jpg", image)
        near = np.where(depth > 0, 655350 / (1000 * np.maximum(depth, 1e-3)), 0)
        near[:3] = 0  # the background has none
        (scene / "depth").mkdir(exist_ok=True)
        Image.fromarray(np.rint(near).astype(np.uint16)).save(scene / "depth" / f"{index:03d}.png")
        inverse = np.linalg.inv(pose(index))
        x, y, z, w = quaternion(inverse[:3, :3])
        camera = {"q": [w, x, y, z], "t": (1000 * inverse[:3, 3]).tolist(), "focal_length": 71.4}
        entries.append({"filename": f"{index:03d}.jpg", "image_size": list(SIZES[1]), "camera": camera})
    (scene / "annotations.json").write_text(json.dumps(entries))
    lists = folder / "custom_splits" / "pairwise_pixel_correspondences"
    lists.mkdir(parents=True)
    where = scene.relative_to(folder) / "images"
    lines = [f"{where}/{one:03d}.jpg {where}/{other:03d}.jpg 17.25" for one, other in pairs]
    (lists / "pairs-multiview.txt").write_text("\n".join(lines) + "\n")
    return lists / "pairs-multiview.txt"

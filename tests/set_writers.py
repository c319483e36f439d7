"""A rendered walk, written in the layout of each public set."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from rendered_walk import (
    NUM,
    matrix,
    pose,
    shot,
    thing_masks,
    views,
)
from spatialboost.scenes.camera import rescale_intrinsics

FULL, SMALL = (480, 640), (60, 80)


def save(file: Path, values: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file)
    return file


def stored(depth_HW: np.ndarray, scale: float) -> np.ndarray:
    return np.rint(depth_HW * scale).astype(np.uint16)


def small(full_33: np.ndarray) -> np.ndarray:
    """The matrix of 480x640 for the size in which the tests write."""
    return rescale_intrinsics(full_33, FULL, SMALL)


def quaternion(turn_33: np.ndarray) -> list[float]:
    """x, y, z, w; the rotations here are far from a half turn."""
    w = np.sqrt(1 + np.trace(turn_33)) / 2
    x, y, z = turn_33[2, 1] - turn_33[1, 2], turn_33[0, 2] - turn_33[2, 0], turn_33[1, 0] - turn_33[0, 1]
    return [x / (4 * w), y / (4 * w), z / (4 * w), w]


def words(values) -> str:
    return " ".join(f"{value:.9f}" for value in np.ravel(values))


# --- the layouts


def write_tum(folder: Path) -> None:
    """Images at 30 Hz, depth maps 4 ms later, poses at 100 Hz; an image without depth, depth without an image."""
    walk = folder / "rgbd_dataset_freiburg1_room"
    matrix_33 = small(matrix(517.3, 516.5, 318.6, 255.3))
    start = 1305031102.175304
    lists = {"rgb": ["# color images", "# file: 'x.bag'", "# timestamp filename"], "depth": ["# depth maps"]}
    poses = ["# ground truth trajectory", "# timestamp tx ty tz qx qy qz qw"]
    for index in range(NUM):
        image, depth = shot(index, matrix_33, SMALL)
        time = start + index / 30
        save(walk / "rgb" / f"{time:.6f}.png", image)
        lists["rgb"].append(f"{time:.6f} rgb/{time:.6f}.png")
        if index != 2:
            save(walk / "depth" / f"{time + 0.004:.6f}.png", stored(depth, 5000))
            lists["depth"].append(f"{time + 0.004:.6f} depth/{time + 0.004:.6f}.png")
        truth = pose(index)
        poses.append(f"{time - 0.003:.4f} {words(truth[:3, 3])} {words(quaternion(truth[:3, :3]))}")
        other = pose((index + 1) % NUM)  # between two images
        poses.append(f"{time + 0.015:.4f} {words(other[:3, 3])} {words(quaternion(other[:3, :3]))}")
    lists["depth"].append(f"{start + 5:.6f} depth/{start + 5:.6f}.png")
    for kind, lines in lists.items():
        (walk / f"{kind}.txt").write_text("\n".join(lines) + "\n")
    (walk / "groundtruth.txt").write_text("\n".join(poses) + "\n")


def write_7scenes(folder: Path) -> None:
    colour, sensor = small(matrix(525, 525, 320, 240)), small(matrix(585, 585, 320, 240))
    for index in range(NUM):
        start = folder / "chess" / f"seq-0{1 + index // 3}" / f"frame-{index % 3:06d}"
        save(start.with_suffix(".color.png"), shot(index, colour, SMALL)[0])
        depth = stored(shot(index, sensor, SMALL)[1], 1000)
        depth[:2] = 65535
        save(start.with_suffix(".depth.png"), depth)
        lines = ["\t".join(f"{value: .7e}" for value in row) + "\t" for row in pose(index)]
        start.with_suffix(".pose.txt").write_text("\r\n".join(lines))
    (folder / "chess" / "TrainSplit.txt").write_text("sequence1\nsequence2\n")


def write_scannet(folder: Path) -> None:
    """Colour 1.3 times as wide as depth, with another focal length; names and masks of instances."""
    scan = folder / "scans" / "scene0011_00"
    colour, sensor = matrix(146.0, 146.3, 80.2, 60.4), matrix(71.4, 71.4, 39.6, 29.7)
    names: dict[str, int] = {}
    for index in range(NUM):
        save(scan / "color" / f"{index * 10}.jpg", shot(index, colour, (121, 162))[0])
        save(scan / "depth" / f"{index * 10}.png", stored(shot(index, sensor, SMALL)[1], 1000))
        (scan / "pose").mkdir(exist_ok=True)
        (scan / "pose" / f"{index * 10}.txt").write_text("\n".join(map(words, pose(index))) + "\n")
        labels = np.zeros((121, 162), np.uint8)
        for name, mask in thing_masks(index, colour, (121, 162)).items():
            labels[mask] = names.setdefault(name, len(names)) + 1
        save(scan / "instance-filt" / f"{index * 10}.png", labels)
    (scan / "intrinsic").mkdir()
    for name, matrix_33 in (("color", colour), ("depth", sensor)):
        full = np.eye(4)
        full[:3, :3] = matrix_33
        (scan / "intrinsic" / f"intrinsic_{name}.txt").write_text("\n".join(map(words, full)))
        (scan / "intrinsic" / f"extrinsic_{name}.txt").write_text("\n".join(map(words, np.eye(4))))
    groups = [{"id": number, "objectId": number, "segments": [], "label": name} for name, number in names.items()]
    (scan / "scene0011_00.aggregation.json").write_text(json.dumps({"sceneId": "scene0011_00", "segGroups": groups}))
    (scan / "scene0011_00.txt").write_text("axisAlignment = " + words(np.eye(4)))


def write_scannetpp(folder: Path) -> None:
    scan = folder / "data" / "02455b3d20" / "iphone"
    full = matrix(1430.0, 1430.0, 962.0, 721.0)
    entries = {}
    for index in range(NUM):
        name = f"frame_{index * 10:06d}"
        matrix_33 = rescale_intrinsics(full, (1440, 1920), (96, 128))
        save(scan / "rgb" / f"{name}.jpg", shot(index, matrix_33, (96, 128))[0])
        sensor = rescale_intrinsics(full, (1440, 1920), (48, 64))
        save(scan / "depth" / f"{name}.png", stored(shot(index, sensor, (48, 64))[1], 1000))
        entries[name] = {
            "timestamp": index / 60,
            "pose": np.eye(4).tolist(),
            "intrinsic": full.tolist(),
            "aligned_pose": pose(index).tolist(),
        }
    save(scan / "rgb" / "frame_000999.jpg", shot(0, matrix_33, (96, 128))[0])  # without an entry
    (scan / "pose_intrinsic_imu.json").write_text(json.dumps(entries))


def write_arkitscenes(folder: Path) -> None:
    video = folder / "Training" / "47333462" / "47333462_frames"
    matrix_33 = matrix(66.0, 66.1, 39.8, 29.6)
    lines = []
    for index in range(NUM):
        time = 6845.287 + index / 10
        image, depth = shot(index, matrix_33, SMALL)
        save(video / "lowres_wide" / f"47333462_{time:.3f}.png", image)
        save(video / "lowres_depth" / f"47333462_{time:.3f}.png", stored(depth, 1000))
        save(video / "confidence" / f"47333462_{time:.3f}.png", np.full(SMALL, 2, np.uint8))
        camera = video / "lowres_wide_intrinsics" / f"47333462_{time + 0.001:.3f}.pincam"
        camera.parent.mkdir(exist_ok=True)
        camera.write_text("80 60 66.0 66.1 39.8 29.6")
        inverse = np.linalg.inv(pose(index))
        x, y, z, w = quaternion(inverse[:3, :3])
        axis = np.array([x, y, z]) * 2 * np.arctan2(np.linalg.norm([x, y, z]), w) / np.linalg.norm([x, y, z])
        lines.append(f"{time + 0.0004:.6f} {words(axis)} {words(inverse[:3, 3])}")
    (video / "lowres_wide.traj").write_text("\n".join(lines) + "\n")


def write_nyu(folder: Path) -> None:
    matrix_33 = small(matrix(518.85790117, 519.46961112, 325.58244941, 253.73616633))
    for index in range(NUM):
        scene = folder / "train" / ("basement_0001a" if index < 3 else "bathroom_0001")
        image, depth = shot(index, matrix_33, SMALL)
        save(scene / f"rgb_{index:05d}.jpg", image)
        save(scene / f"sync_depth_{index:05d}.png", stored(depth, 1000))


def write_labeled(folder: Path) -> Path:
    """The labelled file, with columns before rows, and names as numbers of their characters behind references."""
    import h5py

    matrix_33 = small(matrix(518.85790117, 519.46961112, 325.58244941, 253.73616633))
    shots = [shot(index, matrix_33, SMALL) for index in range(NUM)]
    names = ["wall", *sorted({name for index in range(NUM) for name in thing_masks(index, matrix_33, SMALL)})]
    labels = np.ones((NUM, *SMALL), np.uint16)
    instances = np.ones((NUM, *SMALL), np.uint8)
    for index in range(NUM):
        for name, mask in thing_masks(index, matrix_33, SMALL).items():
            labels[index][mask] = names.index(name) + 1
    raw = np.stack([depth for _, depth in shots]).astype(np.float32)
    raw[:, :3] = 0
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        file["images"] = np.stack([image for image, _ in shots]).transpose(0, 3, 2, 1)
        file["depths"] = np.full_like(raw, 9.0).transpose(0, 2, 1)
        file["rawDepths"] = raw.transpose(0, 2, 1)
        file["labels"] = labels.transpose(0, 2, 1)
        file["instances"] = instances.transpose(0, 2, 1)
        texts = [
            file.create_dataset(f"#refs#/{n}", data=np.array([[ord(c)] for c in name], np.uint16))
            for n, name in enumerate(names)
        ]
        file.create_dataset(
            "names", data=np.array([[text.ref for text in texts]], h5py.ref_dtype), dtype=h5py.ref_dtype
        )
    return folder / "nyu_depth_v2_labeled.mat"


def write_sunrgbd(folder: Path) -> None:
    matrix_33 = matrix(66.0, 66.0, 40.2, 29.1)
    for index in range(NUM):
        frame = folder / "SUNRGBD" / "kv1" / "b3dodata" / f"img_{index:04d}"
        image, depth = shot(index, matrix_33, SMALL)
        save(frame / "image" / f"img_{index:04d}.jpg", image)
        millimetres = stored(depth, 1000)
        save(frame / "depth" / f"img_{index:04d}_abs.png", ((millimetres << 3) | (millimetres >> 13)).astype(np.uint16))
        (frame / "intrinsics.txt").write_text(words(matrix_33))
        (frame / "extrinsics").mkdir()
        # From the camera to a frame with y down along gravity; turning it about y changes nothing
        turn = views()[index].pose_44[:3, :3]
        (frame / "extrinsics" / "20150118235401.txt").write_text("\n".join(words([*row, 0]) for row in turn))
        things = thing_masks(index, matrix_33, SMALL)
        polygons = []
        for number, mask in enumerate(things.values()):
            (top, left), (bottom, right) = np.argwhere(mask).min(0), np.argwhere(mask).max(0)
            x, y = [left, right, right, left], [top, top, bottom, bottom]
            polygons.append({"object": number, "x": [int(v) for v in x], "y": [int(v) for v in y]})
        index_file = frame / "annotation2Dfinal" / "index.json"
        index_file.parent.mkdir()
        content = {"frames": [{"polygon": polygons}], "objects": [{"name": name} for name in things]}
        index_file.write_text(json.dumps(content))


def write_kitti(folder: Path) -> None:
    """Raw drives, and the depth benchmark's archive in train/; one pixel of five has a reading."""
    day, drive = folder / "2011_09_26", "2011_09_26_drive_0002_sync"
    size, matrix_33 = (38, 122), matrix(70.0, 70.0, 59.5, 18.1)
    sparse = np.random.default_rng(0).random(size) < 0.21
    for index in range(NUM):
        image, depth = shot(index, matrix_33, size)
        save(day / drive / "image_02" / "data" / f"{index:010d}.png", image)
        if index >= 1:  # the benchmark leaves out a drive's first frames
            values = np.where(sparse, stored(depth, 256), 0).astype(np.uint16)
            save(folder / "train" / drive / "proj_depth" / "groundtruth" / "image_02" / f"{index:010d}.png", values)
    rectified = np.zeros((3, 4))
    rectified[:, :3], rectified[0, 3] = matrix_33, 44.857
    lines = ["calib_time: 09-Jan-2012 13:57:47", "S_02: 1.392e+03 5.12e+02", f"P_rect_02: {words(rectified)}"]
    (day / "calib_cam_to_cam.txt").write_text("\n".join(lines))


def colmap_pose(index: int) -> tuple[list[float], np.ndarray]:
    """Rotation (w, x, y, z) and translation from world to camera, in units of half a metre."""
    inverse = np.linalg.inv(pose(index))
    x, y, z, w = quaternion(inverse[:3, :3])
    return [w, x, y, z], inverse[:3, 3] * 2


def write_mvimgnet(folder: Path) -> None:
    """A binary model with a little radial distortion, in which images are not in order."""
    scan = folder / "mvi_00" / "7" / "0001a2b3"
    cameras = struct.pack("<QiiQQ4d", 1, 1, 2, 80, 60, 66.0, 40.3, 30.1, 0.004)
    images = struct.pack("<Q", NUM)
    for index in reversed(range(NUM)):
        name = f"{index:03d}.jpg"
        save(scan / "images" / name, shot(index, matrix(66.0, 66.0, 39.8, 29.6), SMALL)[0])
        rotation, translation = colmap_pose(index)
        images += struct.pack("<i7di", index + 1, *rotation, *translation, 1) + name.encode() + b"\0"
        images += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1.5, 2.5, 7, 3.0, 4.0, -1)
    (scan / "sparse" / "0").mkdir(parents=True)
    (scan / "sparse" / "0" / "cameras.bin").write_bytes(cameras)
    (scan / "sparse" / "0" / "images.bin").write_bytes(images)


def write_colmap(folder: Path) -> None:
    """A text model of two cameras, images in folders, and metric depth beside it as `.npy`."""
    lines = ["# Image list with two lines of data per image:"]
    matrix_33 = matrix(66.0, 67.0, 39.8, 29.6)
    for index in range(NUM):
        name = f"left side/{index:03d}.jpg"
        image, depth = shot(index, matrix_33, SMALL)
        save(folder / "images" / name, image)
        (folder / "depth").mkdir(exist_ok=True)
        np.save(folder / "depth" / f"{index:03d}.npy", depth.astype(np.float32))
        rotation, translation = colmap_pose(index)
        points = "1.5 2.5 7 3.0 4.0 -1" if index % 2 else ""  # a line without points is empty
        lines += [f"{index + 1} {words(rotation)} {words(translation)} 3 {name}", points]
    (folder / "sparse").mkdir()
    (folder / "sparse" / "images.txt").write_text("\n".join(lines) + "\n")
    cameras = "# Camera list\n3 PINHOLE 80 60 66.0 67.0 40.3 30.1\n4 SIMPLE_PINHOLE 8 6 9 4 3\n"
    (folder / "sparse" / "cameras.txt").write_text(cameras)


def write_dl3dv(folder: Path, name: str = "0a1b7c20", *, scale: float = 2.0) -> None:
    """Small copies of images, with the camera of four times as large ones; poses in units of half a metre."""
    frames = []
    for index in reversed(range(NUM)):
        file = f"frame_{index + 1:05d}.png"
        save(folder / name / "images_4" / file, shot(index, matrix(66.0, 66.0, 39.8, 29.6), SMALL)[0])
        matrix_44 = pose(index) @ np.diag([1.0, -1.0, -1.0, 1.0])  # y up and z backward
        matrix_44[:3, 3] *= scale
        frames.append({"file_path": f"images/{file}", "transform_matrix": matrix_44.tolist(), "colmap_im_id": index})
    camera = {"w": 320, "h": 240, "fl_x": 264.0, "fl_y": 264.0, "cx": 161.2, "cy": 120.4}
    distortion = {"k1": 0.001, "k2": 0.0, "p1": 0.0, "p2": 0.0, "camera_model": "OPENCV"}
    (folder / name / "transforms.json").write_text(json.dumps({**camera, **distortion, "frames": frames}))


def write_ego4d(folder: Path) -> None:
    for index in range(NUM):
        video = folder / "frames" / ("0a1b" if index < 4 else "2c3d")
        save(video / f"frame_{index:07d}.jpg", shot(index, matrix(66.0, 66.0, 39.5, 29.5), SMALL)[0])
        save(video / "._frame_0000000.jpg", np.zeros((4, 4, 3), np.uint8))


WRITERS: dict[str, Callable[[Path], None]] = {
    name.removeprefix("write_"): value
    for name, value in globals().items()
    if name.startswith("write_") and name != "write_labeled"
}

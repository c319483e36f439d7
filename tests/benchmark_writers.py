"""Tiny benchmarks of spatial questions in the layouts in which the true ones are handed out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = 28


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (grey,) * 3).save(file, "PNG")
    return file.getvalue()


def picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(grey))


def video(path: Path, frames: int = 6) -> None:
    """A true video file, each frame a little brighter."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        for number in range(frames):
            image = Image.new("RGB", (32, 32), (40 * number,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def parquet(path: Path, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(path)


def words(*names: str) -> dict[str, Any]:
    import datasets

    return {name: datasets.Value("string") for name in names}


VSI = [
    ("object_counting", "How many chair(s) are in this room?", "4", None),
    ("object_abs_distance", "What is the distance between the bed and the desk (in meters)?", "2.5", None),
    ("object_size_estimation", "What is the length of the longest dimension of the bed, in centimeters?", "204", None),
    ("room_size_estimation", "What is the size of this room (in square meters)?", "24.1", None),
    ("object_rel_distance", "Which is the closest to the bed?", "C", ["A. chair", "B. lamp", "C. desk", "D. door"]),
    ("object_rel_direction_easy", "Is the desk to my left or right?", "B", ["A. left", "B. right"]),
    ("object_rel_direction_medium", "Is it left, right or back?", "A", ["A. left", "B. right", "C. back"]),
    ("object_rel_direction_hard", "Which quarter?", "D", ["A. front-left", "B. back-left", "C. front", "D. back"]),
    ("route_planning", "Fill in: turn ...", "A", ["A. Turn Left", "B. Turn Right", "C. Turn Back"]),
    ("obj_appearance_order", "What appears first?", "B", ["A. bed, desk", "B. desk, bed"]),
]


def write_vsi_bench(folder: Path, *, videos: bool = True) -> list[dict[str, Any]]:
    import datasets

    rows = [
        {
            "id": number,
            "dataset": ("scannet", "arkitscenes")[number % 2],
            "scene_name": f"scene{number % 4}",
            "question_type": kind,
            "question": question,
            "ground_truth": truth,
            "options": options,
        }
        for number, (kind, question, truth, options) in enumerate(VSI * 2)
    ]
    rows[10]["ground_truth"], rows[11]["ground_truth"] = "2", "1.7"
    features = {"id": datasets.Value("int64"), "options": datasets.List(datasets.Value("string"))}
    others = ("dataset", "scene_name", "question_type", "question", "ground_truth")
    parquet(folder / "test-00000-of-00001.parquet", rows, {**features, **words(*others)})
    for row in rows if videos else ():
        path = folder / row["dataset"] / f"{row['scene_name']}.mp4"
        if not path.exists():
            video(path)
    return rows


def write_blink(folder: Path) -> list[dict[str, Any]]:
    import datasets

    found = []
    for task in ("Multi-view_Reasoning", "Relative_Depth", "Spatial_Relation"):
        rows = []
        for number in range(4):
            images = [png(60 * number), png(200)] if task.startswith("Multi") else [png(60 * number)]
            choices = ["left", "right"] if number % 2 else ["left", "right", "up"]
            listed = "\n".join(f"({letter}) {text}" for letter, text in zip("ABC", choices, strict=False))
            rows.append(
                {
                    "idx": f"val_{task}_{number + 1}",
                    "sub_task": task,
                    "question": "Which way?",
                    "prompt": f"Which way?\nSelect from the following choices.\n{listed}",
                    "choices": choices,
                    "answer": f"({'AB'[number % 2]})",
                    **{
                        f"image_{i + 1}": {"bytes": images[i], "path": None} if i < len(images) else None
                        for i in range(4)
                    },
                }
            )
        features = words("idx", "sub_task", "question", "prompt", "answer")
        features |= {"choices": datasets.List(datasets.Value("string"))}
        features |= {f"image_{i}": datasets.Image() for i in range(1, 5)}
        parquet(folder / task / "val-00000-of-00001.parquet", rows, features)
        found += rows
    return found


def write_cv_bench(folder: Path) -> list[dict[str, Any]]:
    import datasets

    found = []
    kinds = {"2D": [("Count", "ADE20K"), ("Count", "COCO"), ("Relation", "COCO"), ("Relation", "ADE20K")]}
    kinds["3D"] = [("Depth", "Omni3D"), ("Distance", "Omni3D")]
    number = 0
    for dimension, tasks in kinds.items():
        rows = []
        for task, source in tasks * 2:
            choices = ["3", "4", "5", "1"] if task == "Count" else ["bed", "desk"]
            listed = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCD", choices, strict=False))
            rows.append(
                {
                    "idx": number,
                    "type": dimension,
                    "task": task,
                    "source": source,
                    "question": "Which?",
                    "prompt": f"Which? Select from the following choices.\n{listed}",
                    "choices": choices,
                    "answer": f"({'AB'[number % 3 == 0]})",
                    "filename": f"img/{dimension}/{number}.png",
                    "image": {"bytes": png(20 * number), "path": None},
                }
            )
            number += 1
        features = words("type", "task", "source", "question", "prompt", "answer", "filename")
        features |= {"idx": datasets.Value("int64"), "choices": datasets.List(datasets.Value("string"))}
        parquet(folder / f"test_{dimension.lower()}.parquet", rows, {**features, "image": datasets.Image()})
        found += rows
    return found


SPAR = {
    "depth_prediction_oc": ("How deep is the bed, in meters?", "2.4"),
    "distance_prediction_oo_mv": ("How far is the bed from the desk, in meters?", "1.8"),
    "view_change_infer": (
        "How did the camera move?",
        "move_right:0.3,move_up:0.1,move_forward:1.2,rotate_left:20,rotate_down:5",
    ),
    "position_matching": ("Where is the bed?\nA. [1, 2]\nB. [3, 4]\nC. [5, 6]\nD. [7, 8]", "B"),
    "camera_motion_infer": ("Where was the camera?\nA. [1, 2]\nB. [3, 4]\nC. [5, 6]\nD. [7, 8]", "C"),
    "obj_spatial_relation_oo": ("Where is the desk?\nA. left\nB. right\nC. above\nD. below", "D"),
    "spatial_imagination_oc_mv": ("And from there?\nA. left\nB. right\nC. above\nD. below", "A"),
}


def write_spar_bench(folder: Path) -> list[dict[str, Any]]:
    import datasets

    rows = []
    for number, (task, (question, answer)) in enumerate(list(SPAR.items()) * 2):
        images = [png(90), png(10 * number)] if task.endswith("_mv") or task in ("view_change_infer",) else [png(90)]
        values = {"id": f"{task}_{number}", "question": question, "answer": answer, "task": task}
        values |= {"format_type": "select", "img_type": "multi_view", "source": "scannet"}
        rows.append({**values, "image": [{"bytes": image, "path": None} for image in images]})
    features = words("id", "question", "answer", "task", "format_type", "img_type", "source")
    parquet(
        folder / "data" / "test-00000-of-00001.parquet", rows, {**features, "image": datasets.List(datasets.Image())}
    )
    return rows


VIEWS = (
    "Camera perspective - Relative Direction",
    "Camera perspective - Object View Orientation",
    "Person perspective - Relative Direction",
    "Person perspective - Object View Orientation",
    "Person perspective - Scene Simulation Relative Direction",
)


def write_view_spatial(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for number in range(10):
        name = f"scannetv2_val/scene{number % 3:04}_00/original_images/{number}.jpg"
        choices = ["right", "front-up", "back-left", "front"]
        rows.append(
            {
                "question_type": VIEWS[number % 5],
                "image_path": [f"ViewSpatial-Bench/{name}"],
                "question": "Could you tell me the location of the counter in comparison to the refrigerator?",
                "answer": f"{'ABCD'[number % 4]}. {choices[number % 4]}",
                "choices": "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", choices, strict=True)),
            }
        )
        picture(folder / name, 25 * number)
    (folder / "ViewSpatial-Bench.json").write_text(json.dumps(rows))
    return rows


def write_all_angles(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for number in range(8):
        scene = f"{number % 3:04}_fencing"
        names = [f"egohumans/{scene}/cam{view:02}.png" for view in range(2 + number % 2)]
        rows.append(
            {
                "index": number,
                "folder": scene,
                "category": ("relative_direction", "counting", "camera_pose_estimation")[number % 3],
                "pair_idx": number ^ 1,
                "image_path": names,
                "question": "From View 1 to View 2, where did the fencer go?",
                "A": "left",
                "B": "right",
                "C": "nowhere",
                "answer": "ABC"[number % 3],
                "sourced_dataset": "EgoHumans",
            }
        )
        for view, name in enumerate(names):
            picture(folder / name, 30 * number + view)
    (folder / "data.json").write_text(json.dumps(rows))
    return rows


WRITERS = {
    "all-angles": write_all_angles,
    "blink": write_blink,
    "cv-bench": write_cv_bench,
    "spar-bench": write_spar_bench,
    "view-spatial": write_view_spatial,
    "vsi-bench": write_vsi_bench,
}

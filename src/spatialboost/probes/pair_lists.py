"""Pairs of views from the lists that public sets hand out: ScanNet's 1,500 test pairs in two forms, and NAVI's."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph
from spatialboost.scenes.cues import BAD_ITEM, Cues, CuesError
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.readers.decode import DepthFormat, read_depth, read_image
from spatialboost.scenes.readers.intrinsics import Intrinsics, read_intrinsics
from spatialboost.scenes.readers.poses import quaternion_to_matrix, read_pose
from spatialboost.scenes.readers.text import read_json, read_words
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import resize_cues

EXPECTED = (
    "expected lines of SuperGlue's scannet_test_pairs_with_gt.txt (38 words), lines of NAVI's pairs-wild_set.txt or "
    "pairs-multiview.txt (two images and an angle), or ScanNet-1500's test.npz"
)
NAVI_EDGE = 480  # pixels of the shorter edge to which NAVI's photographs are made smaller
_SCANNET = re.compile(r"(scene\d{4}_\d{2})/(?:sens/frame-0*|color/)(\d+)(?:\.color)?\.jpg$")


class ListedPairs(Sequence[Scene]):
    """The pairs of a list, in its order; a pair is a scene of two views.

    Views without a depth map have no depth: `pose` can be measured on them, `matches` cannot.

    Args:
        folder: folder of the images that the list names.
        file: the list. SuperGlue's ``scannet_test_pairs_with_gt.txt`` has intrinsics and poses itself; ``test.npz`` of
            ScanNet-1500 (as LoFTR hands it out) has numbers of scans and frames, and ``intrinsics.npz`` lies beside it;
            NAVI's lists name images, and ``annotations.json`` in the folder of each scene has the cameras.

    Raises:
        SpatialBoostError: the folder or the list is missing, or the list has another form.
    """

    def __init__(self, folder: str | Path, file: str | Path) -> None:
        self.folder, file = user_path(folder), user_path(file)
        if not self.folder.is_dir():
            raise SpatialBoostError(f"{self.folder} is not a folder; expected that of the images that {file} names")
        self._list = _open_list(self.folder, file)
        self.names = self._list.names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any, /) -> Any:
        return Scene(self._list.views(range(len(self))[index]))  # type: ignore[arg-type]  # some have no depth

    @cached_property
    def has_depth(self) -> bool:
        """Whether the first pair that can be read has depth."""
        for index in range(len(self)):
            try:
                return all(isinstance(view, Cues) for view in self[index].views)
            except BAD_ITEM:
                continue
        return True


class _List(ABC):
    names: Sequence[str]

    @abstractmethod
    def views(self, index: int) -> list[Cues | PartialCues]:
        """The two views of a pair.

        Raises:
            CuesError: a file is missing or broken.
        """


def _open_list(folder: Path, file: Path) -> _List:
    if not file.is_file():
        raise SpatialBoostError(f"{file} is not a file; {EXPECTED}")
    if file.suffix == ".npz":
        return _Numbers(folder, file)
    lines = read_words(file, EXPECTED)
    words = {len(line) for _, line in lines}
    if words == {38}:
        return _WithPoses(folder, file, lines)
    if words == {3}:
        return _Navi(folder, lines)
    number = next((number for number, line in lines if len(line) not in (3, 38)), 1)
    raise SpatialBoostError(f"{file} has lines of {sorted(words)} words, the first such line is {number}; {EXPECTED}")


class _WithPoses(_List):
    """SuperGlue's lines: two images, two turns by EXIF, two 3x3 matrices, and the 4x4 from the first camera to the
    second."""

    def __init__(self, folder: Path, file: Path, lines: Sequence[tuple[int, list[str]]]) -> None:
        self.folder, self.names, self.entries = folder, [], []
        for number, words in lines:
            try:
                values = np.array([float(word) for word in words[2:]])
                turns = [int(word) for word in words[2:4]]
                second_44 = np.linalg.inv(values[20:].reshape(4, 4))
            except (ValueError, np.linalg.LinAlgError) as error:
                raise SpatialBoostError(f"{file}, line {number}: {error}; {EXPECTED}") from None
            self.names.append(f"{words[0]} {words[1]}")
            matrices = values[2:11].reshape(3, 3), values[11:20].reshape(3, 3)
            self.entries.append((words[:2], turns, matrices, (np.eye(4), second_44)))

    def views(self, index: int) -> list[Cues | PartialCues]:
        """The two images; their depth maps if they are there."""
        paths, turns, matrices, poses = self.entries[index]
        if any(turns):
            raise CuesError(
                f"{self.names[index]}: images are to be turned by EXIF {turns}; expected pairs without turns"
            )
        return [
            _view(_find_scannet(self.folder, path), path, Intrinsics(matrix_33, None, path), pose_44)
            for path, matrix_33, pose_44 in zip(paths, matrices, poses, strict=True)
        ]


class _Numbers(_List):
    """ScanNet-1500: numbers of place, scan and the two frames, as LoFTR hands them out."""

    def __init__(self, folder: Path, file: Path) -> None:
        expected = "expected an array name with lines of place, scan and two frames"
        try:
            with np.load(file, allow_pickle=False) as found:
                rows = np.asarray(found["name"]).astype(int)
        except Exception as error:  # a broken zip raises many kinds of errors
            raise SpatialBoostError(f"{file} cannot be read ({type(error).__name__}: {error}); {expected}") from None
        if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
            raise SpatialBoostError(f"{file}: name is {rows.shape}; {expected}")
        self.folder = folder
        self.entries = [(f"scene{place:04d}_{scan:02d}", (one, other)) for place, scan, one, other in rows.tolist()]
        self.names = [f"{scan}/{one} {other}" for scan, (one, other) in self.entries]
        self.matrices = self._read_matrices(file.parent / "intrinsics.npz")

    @staticmethod
    def _read_matrices(file: Path) -> Mapping[str, np.ndarray]:
        """The matrix of each scan, of images of 640x480; empty without the file."""
        if not file.is_file():
            return {}
        try:
            with np.load(file, allow_pickle=False) as found:
                return {name: np.asarray(found[name], np.float64).reshape(3, 3) for name in found.files}
        except Exception as error:
            raise SpatialBoostError(f"{file} cannot be read ({error}); expected a 3x3 matrix for each scan") from None

    def views(self, index: int) -> list[Cues | PartialCues]:
        """The two frames, as ScanNet's SensReader exports them."""
        scan, frames = self.entries[index]
        folder = self.folder / scan
        if scan in self.matrices:
            intrinsics = Intrinsics(self.matrices[scan], (480, 640), f"intrinsics.npz of {scan}")
        else:
            intrinsics = _checked(lambda: read_intrinsics(folder / "intrinsic" / "intrinsic_color.txt"))
        return [
            _view(
                folder / "color" / f"{frame}.jpg",
                f"{scan}/{frame}",
                intrinsics,
                read_pose(folder / "pose" / f"{frame}.txt", f"{scan}/{frame}"),
            )
            for frame in frames
        ]


class _Navi(_List):
    """NAVI: photographs of objects, with the camera of each in the object's frame."""

    def __init__(self, folder: Path, lines: Sequence[tuple[int, list[str]]]) -> None:
        self.folder = folder
        self.entries = [words[:2] for _, words in lines]
        self.names = [" ".join(words) for words in self.entries]
        self._cameras: dict[Path, Mapping[str, Any]] = {}

    def views(self, index: int) -> list[Cues | PartialCues]:
        """The two photographs, made smaller."""
        return [self._view(path) for path in self.entries[index]]

    def _view(self, path: str) -> Cues | PartialCues:
        image = self.folder / path
        if image.parent.name != "images":  # some lists leave the folder out
            image = image.parent / "images" / image.name
        image_HW3 = _checked(lambda: open_photograph(image))
        height, width = image_HW3.shape[:2]
        pose_44, focal = self._camera(image, (height, width))
        intrinsics_33 = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        depth = image.parents[1] / "depth" / f"{image.stem}.png"
        if not depth.is_file():
            return PartialCues(image_HW3, path, intrinsics_33=intrinsics_33, pose_44=pose_44)
        stored_HW = read_depth(depth, path, DepthFormat(scale=1.0))  # how near: 655,350 divided by the millimetres
        with np.errstate(divide="ignore"):
            depth_HW = np.where(stored_HW > 0, 655.35 / stored_HW, np.nan).astype(np.float32)
        view = Cues(image_HW3, depth_HW, intrinsics_33, path, pose_44=pose_44)
        return resize_cues(view, NAVI_EDGE) if min(view.size) > NAVI_EDGE else view

    def _camera(self, image: Path, size: tuple[int, int]) -> tuple[np.ndarray, float]:
        """Camera to object in metres, and the focal length in pixels of an image of this size."""
        file = image.parents[1] / "annotations.json"
        expected = "expected a list with filename, image_size, and a camera with q, t and focal_length, as NAVI has it"
        if file not in self._cameras:
            entries = _checked(lambda: read_json(file, expected))
            try:
                self._cameras[file] = {str(entry["filename"]): entry for entry in entries}
            except (KeyError, TypeError) as error:
                raise CuesError(f"{file} has another form ({error}); {expected}") from None
        try:
            entry = self._cameras[file][image.name]
            w, x, y, z = (float(number) for number in entry["camera"]["q"])
            object_to_camera_44 = np.eye(4)
            object_to_camera_44[:3, :3] = quaternion_to_matrix(x, y, z, w)
            object_to_camera_44[:3, 3] = np.array(entry["camera"]["t"], np.float64) / 1000
            scale = size[0] / float(entry["image_size"][0])
            return np.linalg.inv(object_to_camera_44), float(entry["camera"]["focal_length"]) * scale
        except (KeyError, TypeError, ValueError, ZeroDivisionError, np.linalg.LinAlgError) as error:
            raise CuesError(f"{file} has no camera for {image.name} ({type(error).__name__}: {error})") from None


def _find_scannet(folder: Path, path: str) -> Path:
    """An image of ScanNet, as the list names it or as SensReader exports it (``scene0707_00/color/15.jpg``)."""
    found = _SCANNET.search(path)
    places = [folder / path]
    if found:
        exported = Path(found[1]) / "color" / f"{int(found[2])}.jpg"
        places += [folder / exported, folder / "scans_test" / exported, folder / "scans" / exported]
    return next((place for place in places if place.is_file()), places[0])


def _view(image: Path, source: str, intrinsics: Intrinsics, pose_44: np.ndarray) -> Cues | PartialCues:
    """A frame of ScanNet. If it has depth, the image gets the size of the depth map."""
    image_HW3 = read_image(image, source)
    size = image_HW3.shape[0], image_HW3.shape[1]
    matrix_33 = _checked(lambda: intrinsics.at(size))
    depth = _depth_of(image)
    if depth is None:
        return PartialCues(image_HW3, source, intrinsics_33=matrix_33, pose_44=pose_44)
    depth_HW = read_depth(depth, source, DepthFormat())
    small = depth_HW.shape[0], depth_HW.shape[1]
    resized_HW3 = np.asarray(Image.fromarray(image_HW3).resize(small[::-1], Image.Resampling.BILINEAR))
    matrix_33 = _checked(lambda: Intrinsics(matrix_33, size, source).at(small))
    return Cues(resized_HW3 if small != size else image_HW3, depth_HW, matrix_33, source, pose_44=pose_44)


def _depth_of(image: Path) -> Path | None:
    if image.parent.name == "color":
        places = [image.parents[1] / "depth" / f"{image.stem}.png"]
    else:
        start = image.name.removesuffix(".jpg").removesuffix(".color")
        places = [image.with_name(f"{start}.depth.{ending}") for ending in ("png", "pgm")]
    return next((place for place in places if place.is_file()), None)


def _checked(read: Any) -> Any:
    """The result of a function; its error is that of one pair only."""
    try:
        return read()
    except CuesError:
        raise
    except SpatialBoostError as error:
        raise CuesError(str(error)) from error

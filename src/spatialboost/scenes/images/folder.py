"""Photographs in a folder, as files or in tar shards, as a source of views without depth."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError, plain
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.images.listing import PACKED, SUFFIXES, TAR, list_images
from spatialboost.scenes.images.photograph import describe_size, view_photograph
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.sizes import validate_size
from spatialboost.scenes.source_registry import SourceOptions
from spatialboost.scenes.sources import Mapped, Source, evenly_spaced
from spatialboost.scenes.views.choosing import name_of_choice, open_measure, take_views
from spatialboost.scenes.views.mix import ViewMix

log = logging.getLogger(__name__)

# Shape legend: N = images.

_PROBE = 4096  # bytes that are compared before whole files


class Photographs:
    """The photographs of a folder and its subfolders. A photograph is read when it is indexed.

    Example::

        views = Photographs("holidays", num=1000)
        print(len(views), views.names[0])
        view = views[0]  # a `PartialCues`: the image, and its intrinsics if its EXIF has the focal length

    Also images inside of ``.tar`` files (the shards of webdataset) are found; they are read in place. Images are in
    natural order. When the folder is opened, only names and sizes of files, and the headers of tar files, are read.

    Of several images with the same bytes, only the first is used. An image is only compared with those of the same size
    before it, when it is indexed, so the result does not depend on the order of reading.

    Args:
        path: a folder, or a tar file.
        num: take so many images, evenly spaced. None takes all.
        size: shorter edge, or ``(height, width)``, in pixels. None makes the shorter edge 480 pixels if it is longer.

    Raises:
        SpatialBoostError: there is no folder, or no image in it.
        CuesError: from ``[i]``, the image cannot be used, or has the same bytes as an earlier one.
    """

    def __init__(self, path: str | Path, *, num: int | None = None, size: int | tuple[int, int] | None = None) -> None:
        if size is not None:
            validate_size(size)
        if num is not None and num < 1:
            raise SpatialBoostError(f"num is {num}; expected at least one image")
        self.path, self.size = user_path(path), size
        is_tar = self.path.is_file() and self.path.name.lower().endswith(TAR)
        if not (self.path.is_dir() or is_tar):
            raise SpatialBoostError(_why_no_folder(self.path))
        listing = list_images(self.path)
        if not listing.names:
            raise SpatialBoostError(
                f"{self.path} has no image, but {listing.others} other files; expected files that end in "
                f"{', '.join(sorted(SUFFIXES))}, or {TAR} files with such"
            )
        folder = self.path.parent if is_tar else self.path
        chosen_N, files = np.arange(len(listing.names)), listing.names
        if num is not None and num < len(files):
            chosen_N = np.linspace(0, len(files) - 1, num).round().astype(np.int64)
            files = [files[number] for number in chosen_N.tolist()]
        self._folder, self._files, self._tars = str(folder), files, list(listing.tars)
        self._sizes_N, self._starts_N = listing.sizes_N[chosen_N], listing.starts_N[chosen_N]
        self._tars_N = listing.tars_N[chosen_N]
        self._by_size_N = np.argsort(self._sizes_N, kind="stable")  # of one size in their own order
        self.names = [name if name.isprintable() else _one_line(name) for name in files]
        self.name = f"images {_one_line(self.path.resolve().name)} {describe_size(size)}"
        log.info("%s: %d images, %d other files", self.path, len(listing.names), listing.others)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int, /) -> PartialCues:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)} in {self.path}")
        index %= len(self)
        try:
            content = self._read(index)
        except OSError as error:
            raise CuesError(f"{self.names[index]}: it cannot be read ({error.strerror or error})") from error
        twin = self._twin(index, content)
        if twin is not None:
            raise CuesError(f"{self.names[index]} (a copy of {self.names[twin]}): the same bytes; the first is used")
        return view_photograph(content, self.names[index], self.size)

    def _read(self, index: int, start: int = 0, num: int = -1) -> bytes:
        """Bytes of an image; all of them by default."""
        if self._tars_N[index] < 0:
            with open(f"{self._folder}/{self._files[index]}", "rb") as file:
                file.seek(start)
                return file.read(num)
        size = int(self._sizes_N[index])
        with open(f"{self._folder}/{self._tars[self._tars_N[index]]}", "rb") as file:
            file.seek(int(self._starts_N[index]) + start)
            return file.read(size - start if num < 0 else min(num, size - start))

    def _twin(self, index: int, content: bytes) -> int | None:
        """The first image before this one that has the same bytes."""
        if not content:
            return None  # it is broken, which is the better reason
        size = self._sizes_N[index]
        start, stop = (np.searchsorted(self._sizes_N, size, side, sorter=self._by_size_N) for side in ("left", "right"))
        middle = len(content) // 2
        probe = content[middle : middle + _PROBE]
        for other in self._by_size_N[start:stop].tolist():
            if other >= index:
                return None
            try:
                if self._read(other, middle, _PROBE) == probe and self._read(other) == content:
                    return other
            except OSError:  # it is named when it is its turn
                continue
        return None


def open_images(options: SourceOptions) -> Source:
    """Open a folder of photographs with the options of the command line.

    Several views of an item are images that follow each other in the folder, such as the frames of a video. They have
    no poses, so they are chosen by LPIPS, and an extractor such as ``matched-poses`` has to find the poses.

    Raises:
        SpatialBoostError: see `Photographs`; or there is no path.
    """
    if options.path is None:
        raise SpatialBoostError(
            "source images needs a path: a folder of photographs, or of .tar files with photographs"
        )
    if ViewMix.of(options.views).counts == (1,):
        return Photographs(options.path, num=options.num, size=options.size)
    return choose_views(Photographs(options.path, size=options.size), options)


def choose_views(images: Any, options: SourceOptions) -> Source:
    """Scenes of images that follow each other; evenly spaced ones if a number of items is given."""
    measure = options.measure or (open_measure("lpips") if options.stride is None else None)
    scenes = take_views(images, options.views, options.stride, measure)
    scenes = scenes if options.num is None else evenly_spaced(scenes, options.num)
    return Mapped(scenes, name=images.name + name_of_choice(options.views, options.stride, measure))


def _one_line(name: str) -> str:
    """A name that can be printed and stored: names of files may have newlines and bytes that are no text."""
    return plain(name).replace("\n", "\\n")


def _why_no_folder(path: Path) -> str:
    if path.name.lower().endswith(PACKED):
        return f"{path} is compressed, so single images cannot be read from it; unpack it to a {TAR} file"
    found = "is a file" if path.exists() else "does not exist"
    return f"{path} {found}; expected a folder of photographs, or a {TAR} file"

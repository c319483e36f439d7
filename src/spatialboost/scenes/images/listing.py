"""Find the images of a folder and of the tar files in it, without reading any of them."""

from __future__ import annotations

import logging
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialboost.scenes.paths import is_hidden_name, natural_order

log = logging.getLogger(__name__)

# Formats that people keep photographs in. Files that PIL cannot read (HEIC without its plugin) are listed as well, so
# that they are skipped with a reason and not passed over.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
        *(".jp2", ".avif", ".heic", ".heif", ".jxl", ".tga"),
    )
)
TAR = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # no random access: one would have to unpack all before

_BLOCK = 512  # bytes of a tar file
_TARS_AT_ONCE = 8  # only headers are read, so most of the time is spent waiting for the disk


@dataclass
class Listing:
    """Images in natural order. N = number of images."""

    # path relative to the folder; for an image in a tar file, the path of the tar file comes first
    names: Sequence[str]
    sizes_N: np.ndarray  # bytes; -1 if that is not known, such as for a link to a missing file
    starts_N: np.ndarray  # where the image begins in its tar file, in bytes
    tars_N: np.ndarray  # number of its tar file in tars; -1 for a file of its own
    tars: Sequence[str] = ()  # paths of the tar files, relative to the folder
    others: int = 0  # number of files that are no images


def list_images(path: Path) -> Listing:
    """List the images of a folder, its subfolders and the tar files in it; or those of one tar file.

    Hidden files and those of systems (``._photo.jpg``, ``.ipynb_checkpoints``, ``__MACOSX``) are passed over. Links to
    folders are followed, each folder is read once. Numbers in names count by value: ``2.jpg`` comes before ``10.jpg``.
    """
    walk = _Walk(path)
    if path.is_dir():
        walk.read("")
    else:
        walk.names, walk.sizes = [path.name], array("q", [0])
    tars = [number for number, name in enumerate(walk.names) if name.lower().endswith(TAR)]
    num = len(walk.names)
    if not tars:
        sizes_N = np.array(walk.sizes, np.int64)
        return Listing(walk.names, sizes_N, np.zeros(num, np.int64), np.full(num, -1, np.int32), (), walk.others)
    folder = path if path.is_dir() else path.parent
    with ThreadPoolExecutor(_TARS_AT_ONCE) as pool:
        members = list(pool.map(lambda number: _members(folder / walk.names[number]), tars))
    names: list[str] = []
    sizes, starts, numbers = array("q"), array("q"), array("i")
    before = 0
    for number, (tar, found) in enumerate(zip([*tars, num], [*members, None], strict=True)):
        names += walk.names[before:tar]
        sizes.extend(walk.sizes[before:tar])
        starts.extend([0] * (tar - before))
        numbers.extend([-1] * (tar - before))
        before = tar + 1
        if found is None:
            break
        names += [f"{walk.names[tar]}/{name}" for name in found.names]
        sizes.extend(found.sizes)
        starts.extend(found.starts)
        numbers.extend([number] * len(found.names))
    others = walk.others + sum(found.others for found in members)
    arrays = np.array(sizes, np.int64), np.array(starts, np.int64), np.array(numbers, np.int32)
    return Listing(names, *arrays, [walk.names[tar] for tar in tars], others)


class _Walk:
    """The images and tar files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names, self.sizes, self.others = str(folder), list[str](), array("q"), 0
        self._seen: set[tuple[int, int]] = set()

    def read(self, below: str) -> None:
        """Add the files of a subfolder, whose path ends with a slash."""
        try:
            place = os.stat(os.path.join(self.folder, below))
            if (place.st_dev, place.st_ino) in self._seen:
                return
            self._seen.add((place.st_dev, place.st_ino))
            with os.scandir(os.path.join(self.folder, below)) as found:
                entries = [entry for entry in found if not is_hidden_name(entry.name)]
        except OSError as error:
            log.warning("%s cannot be read (%s); its images are left out", below or self.folder, error.strerror)
            return
        for entry in sorted(entries, key=lambda entry: natural_order(entry.name)):
            lower = entry.name.lower()
            if os.path.splitext(lower)[1] in SUFFIXES or lower.endswith(TAR):
                self._add(entry, below)
            elif entry.is_dir():
                self.read(f"{below}{entry.name}/")
            else:
                self.others += 1
                if lower.endswith(PACKED):
                    log.warning("%s%s is not read: unpack it to a .tar file first", below, entry.name)

    def _add(self, entry: os.DirEntry[str], below: str) -> None:
        try:
            size = entry.stat().st_size
            if entry.is_dir():
                self.read(f"{below}{entry.name}/")
                return
        except OSError:  # a link to a missing file: it is named when it is read
            size = -1
        self.names.append(f"{below}{entry.name}")
        self.sizes.append(size)


class _Members:
    """The images in a tar file."""

    def __init__(self) -> None:
        self.names, self.sizes, self.starts, self.others = list[str](), array("q"), array("q"), 0


def _members(file: Path) -> _Members:
    """The images of a tar file in natural order. If the file is damaged, those before the damage."""
    found = _Members()
    try:
        for name, size, start in _headers(file):
            if any(map(is_hidden_name, name.removeprefix("./").split("/"))):
                continue
            if os.path.splitext(name.lower())[1] not in SUFFIXES:
                found.others += 1
                continue
            found.names.append(name.removeprefix("./"))
            found.sizes.append(size)
            found.starts.append(start)
    except (OSError, tarfile.TarError, ValueError) as error:
        log.warning("%s is damaged (%s); %d images before the damage are used", file.name, error, len(found.names))
    order = sorted(range(len(found.names)), key=lambda number: natural_order(found.names[number]))
    found.names = [found.names[number] for number in order]
    found.sizes = array("q", [found.sizes[number] for number in order])
    found.starts = array("q", [found.starts[number] for number in order])
    return found


def _headers(file: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and start of each regular file in a tar file.

    `tarfile` takes 40 microseconds for a header, which is minutes for millions of images. So the headers of regular
    files with short names are read here, and all others (long names, links, large files) by `tarfile`.
    """
    with open(file, "rb", buffering=0) as raw:
        end, place = os.fstat(raw.fileno()).st_size, 0
        while True:
            raw.seek(place)
            header = raw.read(_BLOCK)
            size_field = header[124:136].strip(b" \0")
            if header[257:262] == b"ustar" and header[156:157] in (b"0", b"\0") and size_field.isdigit():
                name, size = header[:100].partition(b"\0")[0], int(size_field, 8)
                if header[262:263] == b"\0" and header[345:346] != b"\0":  # GNU's format has other fields there
                    name = header[345:500].partition(b"\0")[0] + b"/" + name
                if place + _BLOCK + size > end:
                    raise tarfile.ReadError(f"it ends after {end} bytes, inside of {os.fsdecode(name)}")
                yield os.fsdecode(name), size, place + _BLOCK
                place += _BLOCK + -(-size // _BLOCK) * _BLOCK
                continue
            raw.seek(place)
            with tarfile.open(fileobj=raw, mode="r:") as tar:  # begins where the file is
                member, place = tar.next(), tar.offset
            if member is None:
                return
            if member.isreg() and not member.issparse():
                yield member.name, member.size, member.offset_data

"""Read the files of a model: out of an archive, an archive inside it, or a folder. Never outside of it."""

from __future__ import annotations

import functools
import io
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_BYTES = 2**28  # of one file, unpacked


@dataclass(frozen=True)
class ArchiveFiles:
    """Reads files of a zip by a path relative to one of its folders."""

    archive: Path  # the zip
    folder: str  # path inside it, without a slash at its ends

    def __call__(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            ValueError: the path leaves the archive, or the file is too large.
            FileNotFoundError: there is no such file.
        """
        return unpack(_open(self.archive, os.getpid()), inside(f"{self.folder}/{name}"))


@dataclass(frozen=True)
class FolderFiles:
    """Reads files of a folder by a path relative to one of its subfolders."""

    root: Path  # the folder that no path may leave
    folder: str  # path inside it, without a slash at its ends

    def __call__(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            ValueError: the path leaves the folder, or the file is too large.
            FileNotFoundError: there is no such file.
        """
        target = (self.root / inside(f"{self.folder}/{name}")).resolve()
        if not target.is_relative_to(self.root.resolve()):  # through a symbolic link
            raise ValueError(f"the path {name!r} leaves its folder")
        if target.stat().st_size > MAX_BYTES:
            raise ValueError(f"{name!r} has {target.stat().st_size} bytes; expected at most {MAX_BYTES}")
        return target.read_bytes()


@dataclass(frozen=True)
class InnerFiles:
    """Reads files of a zip that is kept in memory, such as a zip inside an archive."""

    content: bytes
    folder: str

    def __call__(self, name: str) -> bytes:
        """The bytes of a file; raises as `ArchiveFiles` does."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            return unpack(archive, inside(f"{self.folder}/{name}"))

    def names(self) -> list[str]:
        """Paths of its files."""
        with zipfile.ZipFile(io.BytesIO(self.content)) as archive:
            return archive.namelist()


@functools.lru_cache(maxsize=16)
def _open(path: Path, process: int) -> zipfile.ZipFile:
    """An open archive. Each process opens its own: two processes that share a file also share its position."""
    return zipfile.ZipFile(path)


def unpack(archive: zipfile.ZipFile, path: str) -> bytes:
    """The bytes of a file in an archive.

    Raises:
        ValueError: it is too large.
        FileNotFoundError: there is no such file.
    """
    try:
        info = archive.getinfo(path)
    except KeyError:
        raise FileNotFoundError(f"{path!r} is not in {archive.filename or 'the archive'}") from None
    if info.file_size > MAX_BYTES:
        raise ValueError(f"{path!r} has {info.file_size} bytes unpacked; expected at most {MAX_BYTES}")
    return archive.read(info)


def inside(path: str) -> str:
    """The path without ``.`` and ``..``.

    Example:
        >>> inside("chairs/../tables/a.obj")
        'tables/a.obj'

    Raises:
        ValueError: it leaves the archive or folder to which it is relative.
    """
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if (part == ".." and not parts) or re.match(r"[A-Za-z]:", part):
            raise ValueError(f"the path {path!r} leaves its archive or folder")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def parent(path: str) -> str:
    """The folder of a path; empty at the top.

    Example:
        >>> parent("chairs/a.obj"), parent("a.obj")
        ('chairs', '')
    """
    folder = str(PurePosixPath(path).parent)
    return "" if folder == "." else folder

"""A layout in which a data set is handed out, as a source that the command line can open by name."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.paths import is_hidden, natural_order, user_path
from spatialboost.scenes.readers.frames import Frames
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.recording import Recording
from spatialboost.scenes.source_registry import SourceOptions
from spatialboost.scenes.sources import Mapped, Source, evenly_spaced
from spatialboost.scenes.views.choosing import name_of_choice, take_views

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How a data set is handed out. A line in ``SOURCES`` of `source_registry` gives it a name for ``--source``."""

    name: str  # its name for --source
    recording: type[Recording]  # reads one recording
    expected: str  # what a folder of it has, for messages
    levels: int = 3  # how many folders down from the user's folder the recordings may be
    depth_noise: float = 0.01  # standard deviation of a reading divided by the depth

    def __call__(self, options: SourceOptions) -> Source:
        """Open the frames of a folder, or of all recordings in it: all, or some, evenly spaced.

        Raises:
            SpatialBoostError: no folder is given, or it has no recording in this layout.
        """
        if options.path is None:
            raise SpatialBoostError(f"--source {self.name} needs --path FOLDER, with {self.expected}")
        root, reader = user_path(options.path), options.reader
        for name in ("images", "depths", "associations"):
            if getattr(reader, name) is not None and name not in self.recording.file_options:
                raise SpatialBoostError(
                    f"--{name} is not for --source {self.name}, whose files have fixed names; leave it out, or use "
                    "--source rgbd"
                )
        found = self.find(root, reader)
        said: set[str] = set()
        recordings: list[Any] = [self._open(folder, root, options, said, check=len(found) == 1) for folder in found]
        first = next((item for item in recordings if not isinstance(item, Unusable)), None)
        if first is None:
            raise SpatialBoostError(
                f"none of the {len(found)} recordings in {root} can be used: {recordings[0].reason}"
            )
        places = [folder.relative_to(root).as_posix() for folder in found]
        source: Any = first if found == [root] else Joined(dict(zip(places, recordings, strict=True)))
        frames: Frames = getattr(first, "frames", first)
        scale = frames.depth_scale
        opened = evenly_spaced(source, options.num) if options.num is not None else source
        return Named(opened, self._describe(root, options, scale), frames)

    def find(self, root: Path, options: ReaderOptions) -> Sequence[Path]:
        """The folders of the recordings in a folder, in natural order; the folder itself if it is one.

        Raises:
            SpatialBoostError: there is none.
        """
        if not root.is_dir() and not self.recording.matches(root, options):
            raise SpatialBoostError(f"{root} is not a folder; expected a folder with {self.expected}")
        found = _find(root, self.recording, options, self.levels)
        if not found:
            raise SpatialBoostError(
                f"{root} and the folders in it have no recording of --source {self.name}; expected a folder with "
                f"{self.expected}"
            )
        return found

    def _open(self, folder: Path, root: Path, options: SourceOptions, said: set[str], *, check: bool) -> Any:
        """The frames of a recording, or scenes of them. One of many recordings that is broken costs no other."""
        name = folder.relative_to(root).as_posix() if folder != root else None
        try:
            recording = self.recording(folder, options.reader, root)
            frames = Frames(
                recording,
                options.reader,
                size=options.size,
                depth_noise=self.depth_noise,
                name=name if name is None else f"{root.resolve().name}/{name}",
                check_late=not check,
                said=said,
            )
            return take_views(frames, options.views, options.stride, options.measure)
        except SpatialBoostError as error:
            if check:
                raise
            log.warning("%s cannot be used: %s", folder, error)
            return Unusable(name or folder.name, str(error))

    def _describe(self, root: Path, options: SourceOptions, scale: float | None) -> str:
        """The name of the source in the settings of a data set, with the options that change the views."""
        size = options.size
        words = [root.resolve().name, "full size" if size is None else _format_size(size)]
        if self.name != "rgbd":
            words.insert(0, self.name)
        if scale is not None and scale != self.recording.depth_format.scale and scale != 1000:
            words.append(f"{scale:g} per metre")
        if given := options.reader.describe():
            words.append(given)
        return " ".join(words) + name_of_choice(options.views, options.stride, options.measure)


class Joined:
    """Sources one after the other, as one source.

    Example:
        >>> joined = Joined({"a": [1, 2], "b": [], "c": [3]})
        >>> len(joined), joined[2], list(joined.names)
        (3, 3, ['a/0', 'a/1', 'c/0'])
    """

    def __init__(self, sources: Mapping[str, Any]) -> None:
        self.places, self.sources = list(sources), list(sources.values())
        self._ends = list(accumulate(len(source) for source in self.sources))
        self.names = _JoinedNames(self)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int, /) -> Any:
        place, inside = self.find(index)
        return self.sources[place][inside]

    @property
    def parts(self) -> list[range]:
        """The indices of the items of each source."""
        return [range(start, end) for start, end in pairwise([0, *self._ends])]

    def find(self, index: int) -> tuple[int, int]:
        """The source that has an item, and the item's index in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        place = bisect_right(self._ends, index)
        return place, index - self._ends[place] + len(self.sources[place])


class _JoinedNames(Sequence[str]):
    """A name for each item of joined sources, made when it is asked for: there may be millions."""

    def __init__(self, joined: Joined) -> None:
        self.joined = joined

    def __len__(self) -> int:
        return len(self.joined)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        place, inside = self.joined.find(range(len(self))[index])
        names = getattr(self.joined.sources[place], "names", None)
        return f"{self.joined.places[place]}/{inside if names is None else names[inside]}"


class Unusable:
    """A recording that cannot be used, as a source with one item that says why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.names, self.reason = name, ["all frames"], reason

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int, /) -> Any:
        raise CuesError(f"{self.name}: {self.reason}")


class Named(Mapped):
    """A source under another name, which says whether its views have objects and depth, as the first frames have."""

    def __init__(self, source: Source, name: str, first: Frames) -> None:
        super().__init__(source, name=name)
        self.has_objects, self.has_depth = first.has_objects, first.has_depth
        self.parts: list[range] = getattr(source, "parts", [range(len(source))])


def _find(folder: Path, recording: type[Recording], options: ReaderOptions, levels: int) -> list[Path]:
    if recording.matches(folder, options):
        return [folder]
    if levels == 0:
        return []
    try:
        inside = sorted((path for path in folder.iterdir() if path.is_dir() and not is_hidden(path)), key=natural_order)
    except OSError:  # a folder that may not be read
        return []
    return [found for path in inside for found in _find(path, recording, options, levels - 1)]


def _format_size(size: int | tuple[int, int]) -> str:
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"

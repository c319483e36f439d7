"""The file of a proof: which data teaches which rows, what measures them, and which claims are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.probes.protocol import PROBES
from spatialboost.training.config import YAML
from spatialboost.training.presets import fill_weights
from spatialboost.yaml_file import read_yaml

PROOFS = Path(__file__).parent / "proofs"
BASE = "base"  # the row of the encoder as it is
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ViewSource(_Strict):
    """Views with depth: procedural rooms, or a part of a recording.

    Attributes:
        rooms: Number of procedural rooms.
        first: Number of the first of them. Rooms with other numbers are other rooms.
        folder: A recording: a folder with RGB-D frames, or ``NAME:FOLDER`` for a public set, within the folder of data.
        images: Pattern of the images in the folder, if it is not ``rgb/*``.
        intrinsics: The camera of a folder that does not say it: ``"fx fy cx cy"`` in pixels.
        part: The part of the recording, from one share of its frames to another.
        views: Views of each place.
        stride: Frames of a recording from one view of a place to the next.
        shorter_side: Frames of a recording are made smaller, to this number of pixels.
    """

    rooms: int | None = Field(default=None, ge=1)
    first: int = Field(default=0, ge=0)
    folder: str | None = None
    images: str | None = None
    intrinsics: str | None = None
    part: tuple[Share, Share] = (0.0, 1.0)
    views: int = Field(default=1, ge=1)
    stride: int = Field(default=1, ge=1)
    shorter_side: int | None = Field(default=None, ge=8)

    @model_validator(mode="after")
    def _one_source(self) -> ViewSource:
        if (self.rooms is None) == (self.folder is None):
            raise ValueError("expected either rooms or folder")
        if self.part[0] >= self.part[1]:
            raise ValueError(f"part is {list(self.part)}; expected two shares, the smaller first, such as [0, 0.7]")
        return self

    def open(self, image_size: int, data: Path | None) -> Any:
        """The views.

        Args:
            image_size: Side of the images of rooms, in pixels.
            data: The folder with the recordings.
        """
        from spatialboost.scenes.rooms import Rooms
        from spatialboost.scenes.sources import Mapped, Subset, Walk, resize_cues

        if self.rooms is not None:
            return Rooms(self.rooms, first=self.first, size=image_size, views=self.views)
        source: Any = self._recording(within(self.folder or "", data))
        first, last = (round(share * len(source)) for share in self.part)
        source = Subset(source, range(first, last))
        if self.views > 1:
            source = Walk(source, views=self.views, stride=self.stride)
        if self.shorter_side is None:
            return source
        return Mapped(source, partial(resize_cues, size=self.shorter_side), name=f"{self.folder} {list(self.part)}")

    def _recording(self, folder: str) -> Any:
        from spatialboost.probes.views import open_views
        from spatialboost.scenes.readers.options import ReaderOptions
        from spatialboost.scenes.readers.rgbd import RGBDFolder

        if self.images is None and self.intrinsics is None:
            return open_views(folder, views=self.views)
        options = ReaderOptions()
        options = replace(options, images=self.images or options.images, intrinsics=self.intrinsics)
        return RGBDFolder(folder, options=options)


class Dataset(_Strict):
    """Conversations that teach.

    Attributes:
        source: The views that they are about.
        turns: Kind of question -> number of turns; None is the paper's twelve turns.
        wordings: Only the first wordings of a question; None is all.
        cells: Rows and columns of the grid whose cells are asked for by name; None is points anywhere.
        order: Order of the turns.
    """

    source: ViewSource
    turns: dict[str, int] | None = None
    wordings: int | None = None
    cells: tuple[int, int] | None = None
    order: Literal["forward", "reverse", "random"] = "forward"


class Row(_Strict):
    """One way to train the encoder.

    Attributes:
        about: One sentence for the page.
        like: Another row, from which this one differs.
        begin_at: The stages before this one are those of the row that it is like, and are not trained again.
        seeds: Number of runs, with the seeds 0, 1, ...; a seed sets new weights and the order of the data.
        datasets: The datasets that teach; without any, those of the row that it is like.
        run: Sections of a run's file: `teacher`, the stages, and `data` without `folders`.
    """

    about: str = ""
    like: str | None = None
    begin_at: str | None = None
    seeds: int = Field(default=1, ge=1, le=100)
    datasets: list[str] = []
    run: dict[str, Any] = {}


class ProbeSection(_Strict):
    """One measurement.

    Attributes:
        probe: Name of the probe.
        train: Views to fit on; None for a probe that fits nothing.
        test: Views to measure on.
        open: In place of both, the options by which the command of the probe says its data.
        options: The probe's own options.
        picture: Whether the page shows base, first row and its control side by side.
    """

    probe: str
    train: ViewSource | None = None
    test: ViewSource | None = None
    open: dict[str, Any] = {}
    options: dict[str, Any] = {}
    picture: bool = False

    @model_validator(mode="after")
    def _known(self) -> ProbeSection:
        if self.probe not in PROBES:
            raise ValueError(str(unknown("probe", self.probe, PROBES)))
        if (self.test is None) == (not self.open):
            raise ValueError("expected either test or open")
        return self


class Claim(_Strict):
    """What a paper says, and which two rows would show it here.

    Attributes:
        paper: The claim, with the paper's figures.
        rows: The row that should be better, and the other.
        why: Why the result here may differ.
    """

    paper: str
    rows: tuple[str, str]
    why: str = ""


class ProofFile(_Strict):
    """A whole proof.

    Attributes:
        title: Title of the page.
        about: A few sentences below the title.
        encoder: The encoder: ``LIBRARY:NAME``, or a section as in a run's file.
        image_size: Side of the images in pixels.
        datasets: Name -> conversations.
        common: Sections that the runs of all rows have.
        rows: Name -> how it is trained. The first is the main row, and the row `base` is always there.
        probes: Name -> measurement.
        claims: The claims of the papers.
    """

    title: str
    about: str = ""
    encoder: str | dict[str, Any]
    image_size: int = Field(ge=8, le=4096)
    datasets: dict[str, Dataset]
    common: dict[str, Any] = {}
    rows: dict[str, Row] = Field(min_length=1)
    probes: dict[str, ProbeSection] = Field(min_length=1)
    claims: list[Claim] = []

    @model_validator(mode="after")
    def _names(self) -> ProofFile:
        if BASE in self.rows:
            raise ValueError(f"a row is named {BASE!r}, which is the encoder as it is; give it another name")
        for name in (*self.rows, *self.probes, *self.datasets):
            if not name or name != name.strip() or set(name) & set("/\\:|\n"):
                raise ValueError(f"{name!r} is also the name of a folder; expected letters, digits and spaces")
        known = [BASE, *self.rows]
        for index, (name, row) in enumerate(self.rows.items()):
            earlier = list(self.rows)[:index]
            if row.like is not None and row.like not in earlier:
                raise ValueError(f"row {name!r} is like {row.like!r}; expected a row above it, of {earlier}")
            if row.begin_at is not None and row.like is None:
                raise ValueError(f"row {name!r} has begin_at; expected `like` as well: whose stages come before?")
            if missing := [each for each in row.datasets if each not in self.datasets]:
                raise ValueError(f"row {name!r} has the dataset {missing[0]!r}; there are {list(self.datasets)}")
            if not self.datasets_of(name):
                raise ValueError(f"row {name!r} has no dataset; there are {list(self.datasets)}")
        for claim in self.claims:
            if missing := [each for each in claim.rows if each not in known]:
                raise ValueError(f"a claim compares the row {missing[0]!r}; there are {known}")
        return self

    def datasets_of(self, row: str) -> list[str]:
        """The datasets that teach a row."""
        found = self.rows[row]
        return found.datasets or ([] if found.like is None else self.datasets_of(found.like))

    def run_of(self, row: str) -> dict[str, Any]:
        """The sections of the run of a row, with those of the row that it is like."""
        found = self.rows[row]
        return merged(self.common if found.like is None else self.run_of(found.like), found.run)


def read_proof(source: str | Path) -> ProofFile:
    """Read a proof: one of those that come with the library, or a YAML file.

    Example:
        >>> proof = read_proof("tiny")
        >>> list(proof.rows)[:2], proof.image_size
        (['language', 'shuffled answers'], 112)

    Raises:
        SpatialBoostError: There is no such proof, or a key of it is wrong; the message names the first such key.
    """
    text = str(source)
    path = user_path(text) if text.lower().endswith(YAML) else PROOFS / f"{text}.yaml"
    if path.parent == PROOFS and not path.is_file():
        raise unknown("proof", text, proof_names())
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise SpatialBoostError(f"{source} contains {type(content).__name__}; expected keys such as rows and probes")
    content = dict(content)
    for section in (content, *_sections(content.get("common")), *_runs(content.get("rows"))):
        fill_weights(section, path.parent)
    try:
        return ProofFile.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise SpatialBoostError(f"{source}: {key + ': ' if key else ''}{what}"[:400]) from None


def proof_names() -> list[str]:
    """The proofs that come with the library.

    Example:
        >>> "tiny" in proof_names()
        True
    """
    return sorted(file.stem for file in PROOFS.glob("*.yaml"))


def within(name: str, data: Path | None) -> str:
    """A name of data as it is opened: its folder is within the folder of data.

    Raises:
        SpatialBoostError: There is no folder of data, or it has nothing of this name.
    """
    kind, colon, rest = name.rpartition(":")
    if data is None:
        raise SpatialBoostError(f"it needs {rest}: say in which folder that is (--data FOLDER)")
    if not (data / rest).exists():
        raise SpatialBoostError(f"it needs {rest}, which is not in {data}")
    return f"{kind}{colon}{data / rest}"


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The first with the values of the second; sections are merged, key by key.

    Example:
        >>> merged({"stage3": {"steps": 5, "lr": 0.1}, "seed": 0}, {"stage3": {"steps": 9}, "stage1": None})
        {'stage3': {'steps': 9, 'lr': 0.1}, 'seed': 0, 'stage1': None}
    """
    found = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def _sections(value: Any) -> list[dict[str, Any]]:
    return [value] if isinstance(value, dict) else []


def _runs(rows: Any) -> list[dict[str, Any]]:
    return [
        run for row in (rows.values() if isinstance(rows, dict) else ()) for run in _sections((row or {}).get("run"))
    ]

"""`spatialboost probe depth | knn`: measure an encoder, base against boosted where it is boosted."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    from torch import nn

    from spatialboost.probes.result import ProbeResult
    from spatialboost.scenes.cues import Cues
    from spatialboost.scenes.sources import Source

app = typer.Typer(help="Measure frozen encoders: base against boosted in one run.", no_args_is_help=True)

Encoder = Annotated[
    str,
    typer.Option(
        help="timm:NAME, hf:ID, open_clip:MODEL/PRETRAINED, torchvision:NAME, hub:FOLDER:ENTRY, a run's FILE.yaml, or "
        "a delta (folder or Hub id)."
    ),
]
Delta = Annotated[str | None, typer.Option(help="A delta to load onto the encoder.")]
Weights = Annotated[
    Path | None, typer.Option(help="safetensors file for the encoder, instead of its library's own weights.")
]
Random = Annotated[bool, typer.Option("--random-weights", help="Take the encoder untrained, from seed 0.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the JSON and the picture.")]
ImageSize = Annotated[int, typer.Option(help="Side in pixels at which the encoder sees images.")]
Layer = Annotated[int, typer.Option(help="Block after which tokens are read; -1 is the last.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]


@app.command()
def depth(
    encoder: Encoder,
    data: Annotated[str, typer.Option(help="RGB-D folder, dataset built with depth, or rooms:NUM.")],
    test_data: Annotated[
        str | None, typer.Option(help="As --data, to measure on; else the last --test of --data.")
    ] = None,
    train: Annotated[float, typer.Option(help="Share of the views, from the first on, to fit on.")] = 0.7,
    test: Annotated[float, typer.Option(help="Share of the views, up to the last, to measure on.")] = 0.22,
    delta: Delta = None,
    weights: Weights = None,
    random_weights: Random = False,
    image_size: ImageSize = 224,
    layer: Layer = -1,
    seeds: Annotated[int, typer.Option(help="How many draws of the training views.")] = 3,
    target: Annotated[str, typer.Option(help="What is regressed: log or metres.")] = "log",
    level: Annotated[str, typer.Option(help="What is measured: pixels or patches.")] = "pixels",
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Linear depth probe: ridge regression from patch tokens to metric depth."""
    from spatialboost.probes.depth import depth_probe

    views = open_views(data)
    fit, measure = (
        split_views(views, train, test) if test_data is None else (_whole(views), _whole(open_views(test_data)))
    )
    model = open_encoder(encoder, delta=delta, weights=weights, random=random_weights, image_size=image_size)
    measured = depth_probe(
        _measured(model, device),
        fit,
        measure,
        image_size=image_size,
        layer=layer,
        seeds=range(seeds),
        target=target,  # type: ignore[arg-type]  # checked there
        level=level,  # type: ignore[arg-type]
        progress=True,
    )
    _report(measured, out)


@app.command()
def knn(
    encoder: Encoder,
    train: Annotated[Path, typer.Option(help="Folder of training images, CLASS/NAME.jpg.")],
    test: Annotated[Path, typer.Option(help="Folder of test images, CLASS/NAME.jpg.")],
    delta: Delta = None,
    weights: Weights = None,
    random_weights: Random = False,
    image_size: ImageSize = 224,
    layer: Layer = -1,
    k: Annotated[int, typer.Option(help="Neighbours that vote.")] = 20,
    device: Device = "auto",
    out: Out = None,
) -> None:
    """Classification by a vote of the nearest training images."""
    from spatialboost.probes.classification import knn_probe, read_image_folder

    images = read_image_folder(train), read_image_folder(test)  # before the encoder, which takes longer
    model = open_encoder(encoder, delta=delta, weights=weights, random=random_weights, image_size=image_size)
    _report(knn_probe(_measured(model, device), *images, image_size=image_size, layer=layer, k=k, progress=True), out)


def open_encoder(
    spec: str, *, delta: str | None = None, weights: Path | None = None, random: bool = False, image_size: int = 224
) -> nn.Module:
    """The encoder that a specification names: see `spatialboost.encoders.open_encoder`.

    Raises:
        SpatialBoostError: there is no such encoder, or its weights cannot be had.
    """
    from spatialboost.encoders import open_encoder as open_any

    library = spec.partition(":")[0]
    if weights is not None and library not in ("timm", "open_clip", "torchvision", "hub"):
        raise SpatialBoostError(
            f"--weights is for timm:NAME encoders and those of open_clip, torchvision and hub, found {spec!r}"
        )
    return open_any(spec, pretrained=not random, delta=delta, weights=weights, image_size=image_size)


def open_views(spec: str) -> Source:
    """The views that `rooms:NUM`, an RGB-D folder or the folder of a dataset built with depth holds.

    Raises:
        SpatialBoostError: it is none of these.
    """
    from spatialboost.scenes.sources import Rooms

    if spec.startswith("rooms:"):
        number = spec.removeprefix("rooms:")
        if not number.isdecimal():
            raise SpatialBoostError(f"data is {spec!r}; expected rooms:NUM, such as rooms:200")
        return Rooms(int(number))
    folder = Path(spec)
    if not folder.is_dir():
        raise SpatialBoostError(
            f"{spec} is not a folder; expected one with rgb/ and depth/, a dataset built with depth, or rooms:NUM"
        )
    if (folder / "depth").is_dir():
        from spatialboost.scenes.readers.rgbd import RGBDFolder

        return RGBDFolder(folder)
    return BuiltViews(folder)


def split_views(views: Source, train: float, test: float) -> tuple[Sequence[Cues], Sequence[Cues]]:
    """The first and the last part of the views, in order: frames of one walk must not be split at random.

    Raises:
        SpatialBoostError: the parts overlap or are empty.
    """
    num = len(views)
    first, last = (int(round(share * num, 6)) for share in (train, test))  # 0.29 * 100 is a little less than 29
    if train + test > 1 + 1e-9 or min(first, last) < 1:
        raise SpatialBoostError(
            f"train is {train} and test {test} of {num} views; expected shares above zero that add up to 1 at most"
        )
    return Part(views, range(first)), Part(views, range(num - last, num))


class Part(Sequence["Cues"]):
    """Some views of a source, read when they are asked for."""

    def __init__(self, source: Source, indices: range) -> None:
        self.source, self.indices = source, indices
        names = getattr(source, "names", None)
        self.names = [str(index) if names is None else str(names[index]) for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.source[self.indices[index]]


class BuiltViews:
    """The views of a dataset that was built with depth; several datasets of one folder follow each other.

    Raises:
        SpatialBoostError: no parquet file there, or one without depth.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        from spatialboost.scenes.dataset.writer import dataset_files

        tables = []
        for path in dataset_files(folder):
            columns = pq.ParquetFile(path).schema_arrow.names
            if "depths" not in columns:
                raise SpatialBoostError(f"{path} has no depth, only {columns}; build it with --depth")
            tables.append(pq.read_table(path, columns=["images", "depths", "meta"], memory_map=True))
        self.tables = tables
        self.rows = [(table, row) for table in range(len(tables)) for row in range(len(tables[table]))]
        self.name = str(folder)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Cues:
        import numpy as np
        from PIL import Image

        from spatialboost.scenes.cues import Cues

        table, row = self.rows[index]
        found = self.tables[table].slice(row, 1).to_pylist()[0]
        meta = json.loads(found["meta"])
        image, millimetres = (
            np.asarray(Image.open(io.BytesIO(found[key][0]["bytes"]))) for key in ("images", "depths")
        )
        return Cues(image, millimetres.astype(np.float32) / 1000, np.array(meta["intrinsics"]), meta["source"])


def _measured(model: nn.Module, device: str) -> nn.Module | Mapping[str, nn.Module]:
    import torch

    from spatialboost.boosting.channel import boosted_layers

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise SpatialBoostError(f"device is {device!r}: {str(error).splitlines()[0]}") from error
    return model if boosted_layers(model) else {"encoder": model}


def _whole(views: Source) -> Sequence[Cues]:
    return Part(views, range(len(views)))


def _report(result: ProbeResult, out: Path | None) -> None:
    from rich.console import Console

    console = Console()
    console.print(result)
    for path in [] if out is None else result.save(out):
        console.print(f"wrote {path}", markup=False)

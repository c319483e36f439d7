"""`spatialboost data build | show`: write conversations about views, and look at them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from spatialboost.errors import SpatialBoostError

app = typer.Typer(help="Views and their 3D cues to conversations on disk.", no_args_is_help=True)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder for the parquet files.")],
    source: Annotated[str, typer.Option(help="rooms (procedural) or rgbd (a folder of RGB-D frames).")] = "rooms",
    path: Annotated[
        Path | None, typer.Option(help="The RGB-D folder: rgb/, depth/, intrinsics.txt, poses.txt.")
    ] = None,
    num: Annotated[
        int | None, typer.Option(help="How many items: 1000 rooms, or all frames; fewer frames are spaced evenly.")
    ] = None,
    first_room: Annotated[int, typer.Option(help="Seed of the first room; keeps train and test rooms apart.")] = 0,
    size: Annotated[
        str | None, typer.Option(help="Pixels: 224 (shorter edge) or 240x320 (height x width). Rooms: 224.")
    ] = None,
    views: Annotated[int, typer.Option(help="Views of one place in each item.")] = 1,
    stride: Annotated[int, typer.Option(help="RGB-D frames from one view of an item to the next.")] = 10,
    extract: Annotated[
        list[str] | None,
        typer.Option(
            help="Extractors that add to the views, in this order; give it once for each. "
            "Objects of RGB-D frames: superpixels."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Picks points, pairs and phrasings.")] = 0,
    order: Annotated[
        Literal["forward", "reverse", "random"], typer.Option(help="Pixel to scene, scene to pixel, or shuffled.")
    ] = "forward",
    turn: Annotated[
        list[str] | None,
        typer.Option(help="KIND=COUNT, such as depth=3; once for each kind. The paper's twelve turns if not given."),
    ] = None,
    least: Annotated[int, typer.Option(help="Skip a view of which fewer turns than this can be asked.")] = 1,
    shard: Annotated[str, typer.Option(help="i/n: write every n-th file from the i-th on.")] = "0/1",
    rows_per_file: Annotated[int, typer.Option(help="Items a parquet file.")] = 256,
    depth: Annotated[bool, typer.Option("--depth/--no-depth", help="Also keep depth maps and object labels.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
) -> None:
    """Write conversations about rooms or RGB-D frames. The same command goes on with a build that was cut off."""
    from spatialboost.scenes.dataset.writer import build_dataset
    from spatialboost.scenes.extract.pipeline import Extracted
    from spatialboost.scenes.extract.registry import open_extractor
    from spatialboost.scenes.questions.plan import PAPER, TurnPlan
    from spatialboost.scenes.source_registry import SOURCES, SourceOptions, open_source

    plan = TurnPlan(parse_turns(turn) if turn else PAPER, least=least)
    pixels = None if size is None else parse_size(size)
    items = open_source(source, SourceOptions(path, num, first_room, pixels, views, stride))
    if extract is None and plan.needs_objects:
        extract = [*SOURCES[source].extract]
    if extract:
        items = Extracted(items, [open_extractor(name) for name in extract])
    try:
        report = build_dataset(
            items,
            out,
            seed=seed,
            order=order,
            plan=plan,
            shard=shard,
            rows_per_shard=rows_per_file,
            with_depth=depth,
            overwrite=overwrite,
        )
    except OSError as error:
        raise SpatialBoostError(f"cannot write to {error.filename or out}: {error.strerror or error}") from error
    skipped = sum(report.skipped.values())
    if not report.written and skipped:
        reason, times = report.skipped.most_common(1)[0]
        raise SpatialBoostError(f"none of the {skipped} views could be used; {times} times: {reason}")
    kept = f", {report.resumed} of them already there" if report.resumed else ""
    typer.echo(f"{out}: {report.written} conversations in {len(report.files)} files{kept}; {skipped} views skipped")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A folder that `spatialboost data build` wrote.")],
    out: Annotated[Path | None, typer.Option(help="The page; FOLDER/index.html if not given.")] = None,
    limit: Annotated[int, typer.Option(help="The most conversations to show.")] = 24,
) -> None:
    """Write one HTML page: images, depth, objects, conversations, and what the checker says of them."""
    from spatialboost.scenes.dataset.viewer import write_page

    try:
        page = write_page(folder, out or folder / "index.html", limit=limit)
    except OSError as error:
        raise SpatialBoostError(f"{error.filename or out or folder}: {error.strerror or error}") from error
    verdict = f"{page.wrong} of them with wrong answers" if page.wrong else "all answers right"
    typer.echo(f"{page.path}: {page.shown} of {page.rows} conversations, {verdict}")


def parse_size(text: str) -> int | tuple[int, int]:
    """Read "224" (shorter edge) or "240x320" (height x width).

    Example:
        >>> parse_size("224"), parse_size("240x320")
        (224, (240, 320))

    Raises:
        SpatialBoostError: anything else.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise SpatialBoostError(f"size is {text!r}; expected pixels such as 224, or height x width such as 240x320")
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def parse_turns(words: Sequence[str]) -> dict[str, int]:
    """Read "depth=3", "closer=2", ...

    Example:
        >>> parse_turns(["depth=3", "closer=2"])
        {'depth': 3, 'closer': 2}

    Raises:
        SpatialBoostError: anything else, or a kind that is given twice.
    """
    turns: dict[str, int] = {}
    for word in words:
        match = re.fullmatch(r"(\w+)=(\d+)", word)
        if not match or match[1] in turns:
            raise SpatialBoostError(f"--turn {word}: expected KIND=COUNT, once for each kind, such as depth=3")
        turns[match[1]] = int(match[2])
    return turns

"""`spatialboost data build | show`: write conversations about views, and show them on a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.sizes import validate_size
from spatialboost.scenes.views.mix import ViewMix

# Beyond these, a number is mistyped, and the build would not end or would not fit into memory
MAX_ITEMS = 10**9
MAX_SEED = 2**63 - 1
MAX_ROWS = 10**5

app = typer.Typer(help="Turn views and their 3D cues into conversations on disk.", no_args_is_help=True)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder for the parquet files.")],
    source: Annotated[str, typer.Option(help="rooms (procedural) or rgbd (a folder of RGB-D frames).")] = "rooms",
    path: Annotated[
        Path | None, typer.Option(help="The RGB-D folder: rgb/, depth/, intrinsics.txt, poses.txt, depth_scale.txt.")
    ] = None,
    num: Annotated[
        int | None,
        typer.Option(help="Number of items. Default: 1000 rooms, or all frames. Fewer frames are spaced evenly."),
    ] = None,
    first_room: Annotated[
        int, typer.Option(help="Seed of the first room. Use other seeds for test rooms than for train rooms.")
    ] = 0,
    size: Annotated[
        str | None,
        typer.Option(
            help="Image size in pixels: 224 (shorter edge) or 240x320 (height x width). Default for rooms: 224."
        ),
    ] = None,
    views: Annotated[
        str,
        typer.Option(
            help="Number of views in each item, such as 2. For the paper's mix of 2, 4 and 8 views: mix. For another "
            "mix, counts with their weights: 2:160,4:30,8:10."
        ),
    ] = "1",
    stride: Annotated[
        int | None,
        typer.Option(
            help="Number of RGB-D frames from one view of an item to the next. Default: the views are chosen by what "
            "they have in common."
        ),
    ] = None,
    choose: Annotated[
        str | None,
        typer.Option(
            help="How the views of an item are chosen from the frames of a walk: overlap (of the points that both see; "
            "the default where poses and depth are known) or lpips. With options: overlap:low=0.3,high=0.8 or "
            "lpips:net=vgg,weights=FILE,low=0.35,high=0.65."
        ),
    ] = None,
    extract: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of an extractor that adds cues to the views. Repeat the option for several; they run in this "
            "order. For objects of RGB-D frames: superpixels."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random choice of points, pairs and wordings.")] = 0,
    order: Annotated[
        Literal["forward", "reverse", "random"],
        typer.Option(help="Order of the turns: from pixel to scene, from scene to pixel, or shuffled."),
    ] = "forward",
    turn: Annotated[
        list[str] | None,
        typer.Option(help="KIND=COUNT, such as depth=3. Repeat for each kind. Default: the paper's twelve turns."),
    ] = None,
    least: Annotated[
        int, typer.Option(help="Minimum number of turns. An item that supports fewer turns is skipped.")
    ] = 1,
    shard: Annotated[
        str, typer.Option(help="i/n: write only the files i, i + n, i + 2n, ... (counted from 0).")
    ] = "0/1",
    rows_per_file: Annotated[int, typer.Option(help="Number of items in each parquet file.")] = 256,
    depth: Annotated[bool, typer.Option("--depth/--no-depth", help="Also write depth maps and object labels.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files in the folder.")] = False,
) -> None:
    """Write conversations about rooms or RGB-D frames. Run the same command again to continue an interrupted build."""
    from spatialboost.scenes.dataset.writer import build_dataset
    from spatialboost.scenes.extract.pipeline import Extracted
    from spatialboost.scenes.extract.registry import open_extractor
    from spatialboost.scenes.questions.plan import PAPER, SEVERAL, TurnPlan
    from spatialboost.scenes.source_registry import SOURCES, SourceOptions, open_source
    from spatialboost.scenes.views.choosing import open_measure

    for flag, value, (smallest, largest) in (
        ("--num", num, (1, MAX_ITEMS)),
        ("--first-room", first_room, (0, MAX_SEED)),
        ("--stride", stride, (1, MAX_ITEMS)),
        ("--seed", seed, (0, MAX_SEED)),
        ("--rows-per-file", rows_per_file, (1, MAX_ROWS)),
    ):
        if value is not None and value < smallest:
            raise SpatialBoostError(f"{flag} is {value}; expected at least {smallest}")
        if value is not None and value > largest:
            raise SpatialBoostError(f"{flag} is {value}; expected at most {largest}")
    mix = parse_views(views)
    plan = TurnPlan(parse_turns(turn) if turn else PAPER if mix.counts == (1,) else SEVERAL, least=least)
    pixels = None if size is None else parse_size(size)
    measure = None if choose is None else open_measure(choose)
    items = open_source(source, SourceOptions(path, num, first_room, pixels, mix, stride, measure))
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
        raise SpatialBoostError(
            f"none of the {skipped} items could be used; the most frequent reason ({times} times): {reason}"
        )
    kept = f", {report.resumed} of them existed before" if report.resumed else ""
    turns = ", ".join(f"{times} {kind}" for kind, times in report.left_out.most_common())
    missing = f"; {sum(report.left_out.values())} turns left out ({turns})" if turns else ""
    typer.echo(
        f"{out}: {report.written} conversations in {len(report.files)} files{kept}; {skipped} items skipped{missing}"
    )


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A folder that `spatialboost data build` wrote.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write. Default: FOLDER/index.html.")] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of conversations to show.")] = 24,
) -> None:
    """Write one HTML page: images, depth, objects, conversations, and the errors that the checker finds."""
    from spatialboost.scenes.dataset.viewer import write_page

    try:
        page = write_page(folder, out or folder / "index.html", limit=limit)
    except OSError as error:
        raise SpatialBoostError(f"{error.filename or out or folder}: {error.strerror or error}") from error
    if page.left_out:
        name, reason = next(iter(page.left_out.items()))
        typer.echo(f"{len(page.left_out)} rows cannot be shown, such as {name}: {reason}", err=True)
    verdict = f"{page.wrong} of them with wrong answers" if page.wrong else "all answers right"
    if not page.shown:
        verdict = "nothing to check"
    typer.echo(f"{page.path}: {page.shown} of {page.rows} conversations, {verdict}")


def parse_size(text: str) -> int | tuple[int, int]:
    """Read "224" (shorter edge) or "240x320" (height x width).

    Example:
        >>> parse_size("224"), parse_size("240x320")
        (224, (240, 320))

    Raises:
        SpatialBoostError: the text has another form.
    """
    match = re.fullmatch(r"([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?", text)
    if not match:
        raise SpatialBoostError(f"size is {text!r}; expected pixels such as 224, or height x width such as 240x320")
    size = int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))
    validate_size(size)
    return size


def parse_views(text: str) -> ViewMix:
    """Read the number of views of an item, or a mix of numbers.

    Example:
        >>> parse_views("2").counts, parse_views("mix").counts
        ((2,), (2, 4, 8))

    Raises:
        SpatialBoostError: the text has another form, or a number is too small or too large.
    """
    try:
        return ViewMix.parse(text)
    except SpatialBoostError as error:
        raise SpatialBoostError(f"--{error}") from None


def parse_turns(words: Sequence[str]) -> dict[str, int]:
    """Read "depth=3", "closer=2", ...

    Example:
        >>> parse_turns(["depth=3", "closer=2"])
        {'depth': 3, 'closer': 2}

    Raises:
        SpatialBoostError: a text has another form, or a kind is given twice.
    """
    turns: dict[str, int] = {}
    for word in words:
        match = re.fullmatch(r"(\w+)=(\d{1,9})", word)
        if not match:
            raise SpatialBoostError(f"--turn {word!r}: expected KIND=COUNT, such as depth=3")
        if match[1] in turns:
            raise SpatialBoostError(
                f"--turn {word!r}: {match[1]} has a count already ({turns[match[1]]}); expected once for each kind"
            )
        turns[match[1]] = int(match[2])
    return turns

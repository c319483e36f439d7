"""`spatialboost data build | balance | show | stats`: write conversations about views, show and count them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spatialboost.errors import SpatialBoostError, plain
from spatialboost.scenes.command_values import (
    parse_direction,
    parse_focal,
    parse_points,
    parse_size,
    parse_turns,
    parse_views,
)
from spatialboost.scenes.paths import user_path

# Beyond these, a number is mistyped, and the build would not end or would not fit into memory
MAX_ITEMS = 10**9
MAX_SEED = 2**63 - 1
MAX_ROWS = 10**5
MAX_PROCESSES = 4096


def reading(text: str) -> Any:
    """An option of sources that read a folder."""
    return typer.Option(help=text, rich_help_panel="Options of sources that read a folder")


app = typer.Typer(help="Turn views and their 3D cues into conversations on disk.", no_args_is_help=True)


def _use_file(context: typer.Context, file: Path | None) -> Path | None:
    """Make the values of a YAML file the defaults of the command's options."""
    if file is not None:
        from spatialboost.scenes.recipe import read_build_file

        known = [option.name for option in context.command.params if option.name and option.name != "config"]
        context.default_map = read_build_file(user_path(file), known)
    return file


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder for the parquet files.")],
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_use_file,
            help="YAML file with these options, one key for each; options on the command line count more.",
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="rooms (procedural), furnished (rooms and gardens with models of furniture), rgbd (a folder of RGB-D "
            "frames), images (a folder of photographs or tar files), "
            "dataset (parquet, a folder of `save_to_disk`, or hf:USER/NAME), or the layout of a public data set: "
            "7scenes, arkitscenes, colmap, dl3dv, ego4d, kitti, mvimgnet, nyu, nyu-labeled, scannet, scannetpp, "
            "sunrgbd, tum."
        ),
    ] = "rooms",
    path: Annotated[
        Path | None,
        typer.Option(help="The folder to read. For rgbd: rgb/, depth/, intrinsics.txt, poses.txt, depth_scale.txt."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="The column of a data set that has the images. Default: the only one.")
    ] = None,
    depth_scale: Annotated[float | None, reading("Values per metre of the depth maps, such as 1000 or 5000.")] = None,
    max_depth: Annotated[float | None, reading("Depth beyond this is no reading, in metres.")] = None,
    intrinsics: Annotated[
        str | None,
        reading("A file, or 'fx fy cx cy' in pixels, or 'fx fy cx cy WIDTH HEIGHT' for images of another size."),
    ] = None,
    poses: Annotated[str | None, reading("A file with all poses, or a folder with one file each.")] = None,
    pose_type: Annotated[
        Literal["camera-to-world", "world-to-camera", "opengl"],
        reading("What the poses are. opengl: camera to world, y up and z backward."),
    ] = "camera-to-world",
    pose_scale: Annotated[float | None, reading("Metres per unit of the poses; those of COLMAP need it.")] = None,
    up: Annotated[str | None, reading("Direction against gravity in the world of the poses: '0 0 1'.")] = None,
    fit: Annotated[
        Literal["smaller", "image", "depth"],
        reading(
            "Size of a view if its image and its depth map have different sizes: that of the smaller one, of the "
            "image, or of the depth map."
        ),
    ] = "smaller",
    associations: Annotated[str | None, reading("A file with lines IMAGE DEPTH, or TIME IMAGE TIME DEPTH.")] = None,
    images: Annotated[str | None, reading("Pattern of the images, such as 'color/*.jpg'.")] = None,
    depths: Annotated[str | None, reading("Pattern of the depth maps, such as 'depth/*.png'.")] = None,
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
            help="Extractor that adds cues to the views: NAME, or NAME:key=value,key=value with its options. Repeat "
            "the option for several; they run in this order. For objects of RGB-D frames: superpixels."
        ),
    ] = None,
    focal: Annotated[
        str | None,
        typer.Option(
            help="A number: cut or extend every view to this focal length, divided by the longer side (0.87 = 60 "
            "degrees), as if one camera had taken all. question: each view keeps its own, and questions about metres "
            "say the field of view. Default: each view keeps its own."
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for the results of extractors, so that another build does not run them again."),
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
    points: Annotated[
        str,
        typer.Option(
            help="Where points in questions lie: anywhere, or cells:4x4 for the centres of the cells of a grid (rows x "
            "columns), which a language model knows by name with teacher.prompt: named."
        ),
    ] = "anywhere",
    least: Annotated[
        int, typer.Option(help="Minimum number of turns. An item that supports fewer turns is skipped.")
    ] = 1,
    shard: Annotated[
        str, typer.Option(help="i/n: write only the files i, i + n, i + 2n, ... (counted from 0).")
    ] = "0/1",
    rows_per_file: Annotated[int, typer.Option(help="Number of items in each parquet file.")] = 256,
    processes: Annotated[int, typer.Option(help="Number of processes that write files at the same time.")] = 1,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Where files are written: on this machine, or on a Ray cluster (RAY_ADDRESS)."),
    ] = "local",
    depth: Annotated[bool, typer.Option("--depth/--no-depth", help="Also write depth maps and object labels.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files in the folder.")] = False,
) -> None:
    """Write conversations about views. Run the same command again to continue an interrupted build."""
    from spatialboost.scenes.dataset.writer import build_dataset
    from spatialboost.scenes.questions.plan import PAPER, SEVERAL, TurnPlan
    from spatialboost.scenes.readers.options import ReaderOptions
    from spatialboost.scenes.recipe import ExtractorSpec, Recipe
    from spatialboost.scenes.source_registry import SourceOptions, default_extractors, open_source
    from spatialboost.scenes.views.choosing import open_measure

    for flag, value, (smallest, largest) in (
        ("--num", num, (1, MAX_ITEMS)),
        ("--first-room", first_room, (0, MAX_SEED)),
        ("--stride", stride, (1, MAX_ITEMS)),
        ("--seed", seed, (0, MAX_SEED)),
        ("--rows-per-file", rows_per_file, (1, MAX_ROWS)),
        ("--processes", processes, (1, MAX_PROCESSES)),
    ):
        if value is not None and value < smallest:
            raise SpatialBoostError(f"{flag} is {value}; expected at least {smallest}")
        if value is not None and value > largest:
            raise SpatialBoostError(f"{flag} is {value}; expected at most {largest}")
    mix = parse_views(views)
    asked = parse_turns(turn) if turn else PAPER if mix.counts == (1,) else SEVERAL
    plan = TurnPlan(asked, least=least, field_of_view=focal == "question", cells=parse_points(points))
    pixels = None if size is None else parse_size(size)
    reader = ReaderOptions(
        depth_scale=depth_scale,
        max_depth=max_depth,
        intrinsics=intrinsics,
        poses=poses,
        pose_type=pose_type,
        pose_scale=pose_scale,
        up=None if up is None else parse_direction(up),
        fit=fit,
        associations=associations,
        images=images,
        depths=depths,
    )
    measure = None if choose is None else open_measure(choose)
    options = SourceOptions(path, num, first_room, pixels, mix, stride, measure, column, reader)
    if extract is None:
        extract = [*default_extractors(source, open_source(source, options), objects=plan.needs_objects)]
    recipe = Recipe(
        source,
        options,
        tuple(ExtractorSpec.parse(text) for text in extract),
        None if cache is None else user_path(cache),
        None if focal is None else parse_focal(focal),
    )
    try:
        report = build_dataset(
            recipe,
            out,
            seed=seed,
            order=order,
            plan=plan,
            shard=shard,
            rows_per_shard=rows_per_file,
            with_depth=depth,
            overwrite=overwrite,
            processes=processes,
            engine=engine,
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
    if report.dropped:
        reason, times = report.dropped.most_common(1)[0]
        typer.echo(f"{report.dropped.total()} generated texts dropped; most often ({times} times): {reason}")
    for spec in recipe.extract:
        if "answers" in spec.options:  # a language model that may cost something
            from spatialboost.scenes.extract.language.answers import Answers

            typer.echo(f"{spec.name}: {Answers(spec.options['answers']).usage}")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A folder that `spatialboost data build` wrote.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write. Default: FOLDER/index.html.")] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of conversations to show.")] = 24,
    kind: Annotated[str | None, typer.Option(help="Show only conversations with a turn of this kind.")] = None,
    search: Annotated[str | None, typer.Option(help="Show only conversations that contain this text.")] = None,
) -> None:
    """Write one HTML page: images, depth, objects, conversations, and the errors that the checker finds."""
    from spatialboost.scenes.dataset.viewer import write_page

    try:
        page = write_page(folder, out or folder / "index.html", limit=limit, kind=kind, search=search)
    except OSError as error:
        raise SpatialBoostError(f"{error.filename or out or folder}: {error.strerror or error}") from error
    if page.left_out:
        name, reason = next(iter(page.left_out.items()))
        typer.echo(f"{len(page.left_out)} rows cannot be shown, such as {name}: {reason}", err=True)
    verdict = f"{page.wrong} of them with wrong answers" if page.wrong else "all answers right"
    if not page.shown:
        verdict = "nothing to check"
    typer.echo(f"{page.path}: {page.shown} of {page.rows} conversations, {verdict}")


@app.command()
def balance(
    folder: Annotated[Path, typer.Argument(help="A complete data set that `spatialboost data build` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the new data set; it must not exist.")],
) -> None:
    """Write a data set without the turns whose answers can be learned from the text of the questions alone."""
    from spatialboost.scenes.dataset.balance import balance_dataset

    try:
        report = balance_dataset(folder, out)
    except OSError as error:
        raise SpatialBoostError(f"cannot write to {error.filename or out}: {error.strerror or error}") from error
    kinds = ", ".join(f"{times} of {report.turns[kind]} {kind}" for kind, times in report.left_out.most_common())
    typer.echo(
        f"{out}: {report.rows} conversations; {sum(report.left_out.values())} turns left out that the text tells"
        + (f" ({kinds})" if kinds else "")
    )


@app.command()
def stats(
    folder: Annotated[Path, typer.Argument(help="A folder that `spatialboost data build` wrote.")],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write, with a JSON file beside it. Default: FOLDER/stats.html."),
    ] = None,
) -> None:
    """Write one page with statistics: balance of the answers, lengths, turns left out, skipped items."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from spatialboost.scenes.dataset.stats import common_answers, quantiles, write_stats

    page = out or folder / "stats.html"
    found = write_stats(folder, page)
    table = Table("kind", "turns", "left out", "constant answer", "text only", "frequent answers, or metres")
    for name, kind in found.kinds.items():
        metres = quantiles(kind.lengths)
        answers = ", ".join(f"{answer[:24]} {100 * share:.1f} %" for answer, share in common_answers(kind)[:3])
        spread = ", ".join(f"{metres[point]:.2f}" for point in ("5 %", "50 %", "95 %") if metres)
        guess = found.text_only.get(name)
        rights = (None, None) if guess is None else (guess.prior, guess.text_only)
        table.add_row(
            name, str(kind.turns), str(found.left_out[name]), *map(_share, rights), escape(plain(answers or spread))
        )
    for name, guess in found.text_only.items():
        if name not in found.kinds:  # one form of a kind
            table.add_row(name, str(guess.asked), "", _share(guess.prior), _share(guess.text_only), "")
    Console().print(table)
    typer.echo(f"{page}: {found.rows} conversations, {len(found.skipped)} items skipped")


def _share(right: float | None) -> str:
    return "-" if right is None else f"{100 * right:.1f} %"

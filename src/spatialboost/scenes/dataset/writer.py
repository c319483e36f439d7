"""Write conversations about the items of a source as parquet files that ``datasets.load_dataset`` can open."""

from __future__ import annotations

import io
import json
import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.dataset.files import build_lock, remove_leftovers, replace_file
from spatialboost.scenes.dataset.row import make_row
from spatialboost.scenes.dataset.schema import (
    ROWS_PER_GROUP,
    VERSION,
    arrow_schema,
    column_names,
    dataset_facts,
    differing_settings,
    open_parquet,
    parquet_files,
    validate_file,
)
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.questions.conversation import Order, build_conversation, validate_choices
from spatialboost.scenes.questions.plan import TurnPlan, plan_settings
from spatialboost.scenes.scene import as_scene
from spatialboost.scenes.sources import Source

log = logging.getLogger(__name__)


@dataclass
class BuildReport:
    """Report of a build: what was written and what was skipped. Saved beside the data files as ``report*.json``.

    Attributes:
        written: number of rows in the files of this shard, including those of an earlier, interrupted run.
        skipped: reason -> number of skipped items (numbers in the reason are replaced by ``#``).
        names: skipped item (its name or index in the source) -> full reason.
        left_out: kind of question -> number of turns that the written conversations lack. The reasons are in the column
            ``meta``.
        dropped: reason -> number of generated texts that were dropped, such as captions that state something false.
        files: names of the parquet files of this shard.
        resumed: number of the files that existed before the run.
    """

    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    names: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    resumed: int = 0


def build_dataset(
    source: Source,
    out: Path | str,
    *,
    seed: int = 0,
    order: Order = "forward",
    plan: TurnPlan | None = None,
    shard: str = "0/1",
    rows_per_shard: int = 256,
    with_depth: bool = False,
    quality: int = 95,
    overwrite: bool = False,
    progress: bool = True,
) -> BuildReport:
    """Make a conversation about every item of a source, and write the conversations to parquet files.

    Example:
        >>> from spatialboost.scenes.dataset.writer import build_dataset
        >>> from spatialboost.scenes.rooms import Rooms
        >>> report = build_dataset(Rooms(8, size=64), "rooms", seed=0)  # doctest: +SKIP
        >>> rows = datasets.load_dataset("parquet", data_files="rooms/*.parquet")["train"]  # doctest: +SKIP

    File ``part-{k}.parquet`` has the ``rows_per_shard`` items from ``k * rows_per_shard`` on, in every process. So the
    same arguments give the same bytes, also if a build was killed and continued, or if several processes share it. A
    file appears only when it is complete: it is written under a temporary name and then renamed. Existing files are
    kept. The columns are described in ``docs/data-format.md``.

    Args:
        source: object with ``len`` and ``[i]``; ``source[i]`` is a ``Cues`` or a ``Scene``.
        out: output folder; created if missing. Characters such as ``[`` and ``*`` in its name are literal.
        seed: the seed of each item is computed from this seed and the index of the item.
        order: order of the turns, see ``build_conversation``.
        plan: number of turns of each kind; None = the paper's twelve turns.
        shard: "i/n": write only the files i, i + n, i + 2n, ... Together, the n shards have every file exactly once.
        rows_per_shard: number of items in each file.
        with_depth: add the columns ``depths`` (16-bit PNG in millimetres, 0 = no reading) and ``labels`` (8-bit PNG,
            i + 1 = ``meta["objects"][i]``, 0 = no object).
        quality: quality of the JPEG images (without chroma subsampling); 100 writes lossless PNG.
        overwrite: replace the files of this shard instead of keeping them.
        progress: show a progress bar.

    Returns:
        A report of what was written and skipped. A bad item (unreadable, or without support for enough turns) is
        skipped, and the report has its name and the reason.

    Raises:
        SpatialBoostError: an argument is not valid, or the folder has a data set that was built with other arguments. A
            build of an earlier version of this library is continued with the columns of that version.
    """
    number, count = parse_shard(shard)
    if rows_per_shard < 1:
        raise SpatialBoostError(f"rows_per_shard is {rows_per_shard}; expected at least 1")
    if not 1 <= quality <= 100:
        raise SpatialBoostError(f"quality is {quality}; expected 1 to 100")
    validate_choices(order, seed)
    out, plan = user_path(out), plan or TurnPlan()
    settings = build_settings(source, seed, order, plan, rows_per_shard, with_depth, quality)
    if not overwrite and out.is_dir():
        _find_version(out, settings)
    out.mkdir(parents=True, exist_ok=True)
    with build_lock(out, (number, count), settings):
        if overwrite:
            for path in out.glob("part-*.parquet"):
                file_number = path.stem.removeprefix("part-")
                if file_number.isdecimal() and int(file_number) % count == number:
                    path.unlink()
        else:
            settings["version"] = _find_version(out, settings)
            _remove_empty(out, settings)
        return _write_shard(source, out, (number, count), settings, order, plan, progress)


def _write_shard(
    source: Source,
    out: Path,
    shard: tuple[int, int],
    settings: dict[str, Any],
    order: Order,
    plan: TurnPlan,
    progress: bool,
) -> BuildReport:
    """Write the files of a shard that do not exist yet. A file without rows is written again."""
    number, count = shard
    size = settings["rows_per_shard"]
    numbers = range(number, -(-len(source) // size), count)
    report = BuildReport()
    num_items = size * len(numbers)
    if numbers and numbers[-1] == (len(source) - 1) // size:  # the last file may have fewer items
        num_items -= size * (numbers[-1] + 1) - len(source)
    with tqdm(total=num_items, desc="items", unit="item", disable=not progress) as bar:
        for k in numbers:
            path, items = out / f"part-{k:05d}.parquet", _items(source, size, k)
            report.files.append(path.name)
            facts = dataset_facts(path) if path.exists() else None
            if facts is not None and facts["rows"]:
                with open_parquet(path) as file:
                    validate_file(path, file, column_names(settings["version"], with_depth=settings["with_depth"]))
                written, skipped = facts["rows"], facts["skipped"]
                report.resumed += 1
                bar.update(len(items))
            else:
                remove_leftovers(path)
                written, skipped = _write_file(path, source, items, settings, order, plan, bar)
            report.written += written
            left_out, dropped = _count_missing(path, plan)
            report.left_out += left_out
            report.dropped += dropped
            for item, reason in skipped.items():
                report.names[item] = reason
                report.skipped[_group(reason)] += 1
    for reason, times in report.skipped.most_common():
        log.warning("skipped %d of %d items: %s", times, num_items, reason)
    path = out / ("report.json" if count == 1 else f"report-{number}-of-{count}.json")
    remove_leftovers(path)
    replace_file(path, _to_json(vars(report)))
    return report


def _items(source: Source, size: int, number: int) -> range:
    """The items of a file."""
    return range(number * size, min((number + 1) * size, len(source)))


def _count_missing(path: Path, plan: TurnPlan) -> tuple[Counter[str], Counter[str]]:
    """Number of turns of each kind that the conversations of a file lack, and of the texts that were dropped."""
    with open_parquet(path, "column meta") as file:
        metas = file.read(columns=["meta"]).column("meta").to_pylist()
    missing: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    try:
        for meta in map(json.loads, metas):
            asked = Counter(turn["kind"] for turn in meta["turns"])
            missing += Counter(plan.turns) - asked
            dropped += Counter(meta.get("dropped", {}))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SpatialBoostError(
            f"{path}: its column meta is not as a build writes it ({type(error).__name__}); remove the file, and run "
            "the build again"
        ) from error
    return missing, dropped


def build_settings(
    source: Source, seed: int, order: Order, plan: TurnPlan, rows_per_shard: int, with_depth: bool, quality: int
) -> dict[str, Any]:
    """The settings of a build, as stored in each file. A build can only continue a folder with the same settings.

    A new option needs a line in `spatialboost.scenes.dataset.schema` with its value before the option existed.
    """
    return {
        "version": VERSION,
        "source": getattr(source, "name", type(source).__name__),
        "items": len(source),
        "seed": seed,
        "order": order,
        "plan": plan_settings(plan),
        "rows_per_shard": rows_per_shard,
        "with_depth": with_depth,
        "quality": quality,
    }


def parse_shard(shard: str) -> tuple[int, int]:
    """Read "i/n" with 0 <= i < n.

    Example:
        >>> parse_shard("2/8")
        (2, 8)

    Raises:
        SpatialBoostError: the text has another form.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    if not match or int(match[1]) >= int(match[2]):
        raise SpatialBoostError(f"shard is {shard!r}; expected i/n with 0 <= i < n, such as 0/4")
    return int(match[1]), int(match[2])


def _write_file(
    path: Path, source: Source, items: range, settings: dict[str, Any], order: Order, plan: TurnPlan, bar: tqdm
) -> tuple[int, dict[str, str]]:
    """Write one file; return its number of rows and the skipped items with the reasons."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, skipped = [], {}
    for item in items:
        try:
            found = source[item]
            seed = int(np.random.SeedSequence([settings["seed"], item]).generate_state(1)[0])
            talk = build_conversation(found, seed=seed, order=order, plan=plan)
            rows.append(make_row(as_scene(found), talk, item, settings))
        except BAD_ITEM as error:
            reason = re.sub(r" at 0x[0-9a-f]+", "", str(error))  # an address would differ from run to run
            skipped[_item_name(source, item)] = reason or type(error).__name__
        bar.update()
    table = pa.Table.from_pylist(rows, schema=arrow_schema(settings, skipped))
    stream = io.BytesIO()
    # Images are already compressed and almost never equal, so a dictionary and statistics do not help. Both would also
    # make the footer longer, which is read when the data set is opened.
    pq.write_table(
        table,
        stream,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    replace_file(path, stream.getvalue())
    return len(rows), skipped


def _find_version(out: Path, settings: dict[str, Any]) -> int:
    """The version of the files that a build must write: that of the existing files, or the newest version.

    Raises:
        SpatialBoostError: an existing file was built with other settings.
    """
    version = VERSION
    for path in parquet_files(out):
        found = dataset_facts(path)
        if not found["rows"]:  # a build that made nothing does not reserve the folder
            continue
        wrong = differing_settings(found, settings)
        if wrong:
            raise SpatialBoostError(
                f"{path} was built with {', '.join(wrong)}; choose another folder, or use overwrite to replace "
                "the existing files"
            )
        version = min(version, found["version"])
    return version


def _remove_empty(out: Path, settings: dict[str, Any]) -> None:
    """Remove files without rows that a build with other settings left."""
    for path in parquet_files(out):
        found = dataset_facts(path)
        if not found["rows"] and differing_settings(found, settings):
            path.unlink()


def _item_name(source: Source, item: int) -> str:
    names = getattr(source, "names", None)
    return str(names[item]) if names is not None else str(item)


def _group(reason: str) -> str:
    """Group reasons that differ only in a number or in the view's name."""
    return re.sub(r"\d+(\.\d+)?", "#", reason.split(": ", 1)[-1])


def _to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()

"""Write conversations about the items of a source as parquet files that ``datasets.load_dataset`` can open."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.dataset.row import make_row
from spatialboost.scenes.dataset.schema import ROWS_PER_GROUP, VERSION, arrow_schema, dataset_facts, differing_settings
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
        files: names of the parquet files of this shard.
        resumed: number of the files that existed before the run.
    """

    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    names: dict[str, str] = field(default_factory=dict)
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
    if rows_per_shard < 1 or not 1 <= quality <= 100:
        raise SpatialBoostError(f"rows_per_shard is {rows_per_shard} and quality {quality}; expected >= 1 and 1 to 100")
    validate_choices(order, seed)
    out, plan = Path(out), plan or TurnPlan()
    settings = build_settings(source, seed, order, plan, rows_per_shard, with_depth, quality)
    if overwrite:
        for path in out.glob("part-*.parquet"):
            file_number = path.stem.removeprefix("part-")
            if file_number.isdecimal() and int(file_number) % count == number:
                path.unlink()
    else:
        settings["version"] = _find_version(out, settings)
    out.mkdir(parents=True, exist_ok=True)
    numbers = range(number, -(-len(source) // rows_per_shard), count)
    report = BuildReport(files=[f"part-{k:05d}.parquet" for k in numbers])
    ranges = [range(k * rows_per_shard, min((k + 1) * rows_per_shard, len(source))) for k in numbers]
    with tqdm(total=sum(map(len, ranges)), desc="items", unit="item", disable=not progress) as bar:
        for name, items in zip(report.files, ranges, strict=True):
            if (out / name).exists():
                facts = dataset_facts(out / name)
                written, skipped = facts["rows"], facts["skipped"]
                report.resumed += 1
                bar.update(len(items))
            else:
                written, skipped = _write_file(out / name, source, items, settings, order, plan, bar)
            report.written += written
            for item, reason in skipped.items():
                report.names[item] = reason
                report.skipped[_group(reason)] += 1
    for reason, times in report.skipped.most_common():
        log.warning("skipped %d of %d items: %s", times, sum(map(len, ranges)), reason)
    _replace(out / ("report.json" if count == 1 else f"report-{number}-of-{count}.json"), _to_json(vars(report)))
    return report


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
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
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
    )
    _replace(path, stream.getvalue())
    return len(rows), skipped


def _find_version(out: Path, settings: dict[str, Any]) -> int:
    """The version of the files that a build must write: that of the existing files, or the newest version.

    Raises:
        SpatialBoostError: an existing file was built with other settings.
    """
    version = VERSION
    for path in sorted(out.glob("*.parquet")):
        found = dataset_facts(path)
        wrong = differing_settings(found, settings)
        if wrong:
            raise SpatialBoostError(
                f"{path} was built with {', '.join(wrong)}; choose another folder, or use overwrite to replace "
                "the existing files"
            )
        version = min(version, found["version"])
    return version


def _item_name(source: Source, item: int) -> str:
    names = getattr(source, "names", None)
    return str(names[item]) if names is not None else str(item)


def _group(reason: str) -> str:
    """Group reasons that differ only in a number or in the view's name."""
    return re.sub(r"\d+(\.\d+)?", "#", reason.split(": ", 1)[-1])


def _to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that an interrupted write leaves no incomplete file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # from a process that was killed
        leftover.unlink(missing_ok=True)

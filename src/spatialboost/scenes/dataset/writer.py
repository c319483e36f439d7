"""Write conversations about a source of views as parquet shards that ``datasets.load_dataset`` opens."""

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
from spatialboost.scenes.questions.conversation import Order, build_conversation, check_choices
from spatialboost.scenes.questions.plan import TurnPlan, plan_settings
from spatialboost.scenes.scene import as_scene
from spatialboost.scenes.sources import Source

log = logging.getLogger(__name__)


@dataclass
class BuildReport:
    """What a build wrote and what it left out; kept beside the shards as ``report*.json``.

    Attributes:
        written: rows in this shard's files, those of an earlier, interrupted run included.
        skipped: how many items were left out, by reason (numbers in the reason are replaced by ``#``).
        names: the item (its name in the source, or its number) -> the full reason.
        files: names of this shard's parquet files.
        resumed: how many of the files were there already.
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
    """Ask about every item of a source, a view or a scene of several views, and write the conversations.

    Example:
        >>> from spatialboost.scenes.dataset.writer import build_dataset
        >>> from spatialboost.scenes.rooms import Rooms
        >>> report = build_dataset(Rooms(8, size=64), "rooms", seed=0)  # doctest: +SKIP
        >>> rows = datasets.load_dataset("parquet", data_files="rooms/*.parquet")["train"]  # doctest: +SKIP

    Items from ``k * rows_per_shard`` on go to file ``part-{k}.parquet``, whichever process writes it, so that the same
    arguments give the same bytes however often a build was killed and however many processes share it. A file appears
    only when it is complete (written beside, then renamed), and files that are there are kept. The columns are
    described in ``docs/data-format.md``.

    Args:
        source: has ``len`` and ``[i]``, which gives ``Cues`` or a ``Scene``.
        out: folder; created if missing. Characters such as ``[`` and ``*`` in its name mean themselves.
        seed: every item's own seed comes from this one and the item's number.
        order: of the turns, see ``build_conversation``.
        plan: which turns; None = the paper's twelve.
        shard: "i/n": write files i, i + n, i + 2n, ... only. All n together are complete and disjoint.
        rows_per_shard: items a file.
        with_depth: add the columns ``depths`` (16-bit PNG in millimetres, 0 = no reading) and ``labels`` (8-bit PNG,
            i + 1 = ``meta["objects"][i]``, 0 = none).
        quality: of the JPEG images, chroma not subsampled; 100 writes PNG, which loses nothing.
        overwrite: replace this shard's files instead of keeping them.
        progress: show a progress bar.

    Returns:
        What was written and skipped. A bad item (unreadable, or a view that cannot support the turns) is skipped,
        counted and named; nothing else is lost.

    Raises:
        SpatialBoostError: a wrong ``shard``, ``order``, ``seed`` or number, or a folder that holds a dataset built with
            other arguments. A build that an earlier version of this library began goes on, with the columns that it
            began with.
    """
    number, count = parse_shard(shard)
    if rows_per_shard < 1 or not 1 <= quality <= 100:
        raise SpatialBoostError(f"rows_per_shard is {rows_per_shard} and quality {quality}; expected >= 1 and 1 to 100")
    check_choices(order, seed)
    out, plan = Path(out), plan or TurnPlan()
    settings = build_settings(source, seed, order, plan, rows_per_shard, with_depth, quality)
    if overwrite:
        for path in out.glob("part-*.parquet"):
            part = path.stem.removeprefix("part-")
            if part.isdecimal() and int(part) % count == number:
                path.unlink()
    else:
        settings["version"] = _check_folder(out, settings)
    out.mkdir(parents=True, exist_ok=True)
    parts = range(number, -(-len(source) // rows_per_shard), count)
    report = BuildReport(files=[f"part-{part:05d}.parquet" for part in parts])
    ranges = [range(part * rows_per_shard, min((part + 1) * rows_per_shard, len(source))) for part in parts]
    with tqdm(total=sum(map(len, ranges)), desc="views", unit="view", disable=not progress) as bar:
        for name, items in zip(report.files, ranges, strict=True):
            if (out / name).exists():
                facts = dataset_facts(out / name)
                written, skipped = facts["rows"], facts["skipped"]
                report.resumed += 1
                bar.update(len(items))
            else:
                written, skipped = _write_part(out / name, source, items, settings, order, plan, bar)
            report.written += written
            for item, reason in skipped.items():
                report.names[item] = reason
                report.skipped[_group(reason)] += 1
    for reason, times in report.skipped.most_common():
        log.warning("skipped %d of %d views: %s", times, sum(map(len, ranges)), reason)
    _replace(out / ("report.json" if count == 1 else f"report-{number}-of-{count}.json"), _to_json(vars(report)))
    return report


def build_settings(
    source: Source, seed: int, order: Order, plan: TurnPlan, rows_per_shard: int, with_depth: bool, quality: int
) -> dict[str, Any]:
    """What a build is told, as each file keeps it; a folder goes on only with the same.

    A new option needs a line in `spatialboost.scenes.dataset.schema` that says what it was before there was one.
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
        SpatialBoostError: anything else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or int(match[1]) >= int(match[2]):
        raise SpatialBoostError(f"shard is {shard!r}; expected i/n with 0 <= i < n, such as 0/4")
    return int(match[1]), int(match[2])


def _write_part(
    path: Path, source: Source, items: range, settings: dict[str, Any], order: Order, plan: TurnPlan, bar: tqdm
) -> tuple[int, dict[str, str]]:
    """Write one file; returns its number of rows and what was skipped."""
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
    # Images are compressed already and hardly ever alike: neither a dictionary nor statistics of them are of use, and
    # both make the end of the file longer, which is read when the data set is opened.
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


def _check_folder(out: Path, settings: dict[str, Any]) -> int:
    """The version in which a build into a folder writes: that of the files that are there, or else the newest.

    Raises:
        SpatialBoostError: what is there was built with other settings.
    """
    version = VERSION
    for path in sorted(out.glob("*.parquet")):
        found = dataset_facts(path)
        wrong = differing_settings(found, settings)
        if wrong:
            raise SpatialBoostError(
                f"{path} was built with {', '.join(wrong)}; choose another folder, or overwrite to replace what is "
                "there"
            )
        version = min(version, found["version"])
    return version


def _item_name(source: Source, item: int) -> str:
    names = getattr(source, "names", None)
    return str(names[item]) if names is not None else str(item)


def _group(reason: str) -> str:
    """Reasons that differ only in a number or in the view's name count together."""
    return re.sub(r"\d+(\.\d+)?", "#", reason.split(": ", 1)[-1])


def _to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
        leftover.unlink(missing_ok=True)

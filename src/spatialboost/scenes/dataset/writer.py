"""Write conversations about a source of views as parquet shards that ``datasets.load_dataset`` opens."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues, CuesError
from spatialboost.scenes.questions.conversation import Order, build_conversation, check_choices
from spatialboost.scenes.questions.layout import clean_description
from spatialboost.scenes.questions.meta import META_VERSION
from spatialboost.scenes.questions.plan import TurnPlan, plan_settings, renew_settings
from spatialboost.scenes.sources import Source

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger(__name__)

# What reading a broken image, depth map or text file raises; PIL raises SyntaxError on a broken PNG.
BAD_ITEM = (
    CuesError,
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_SETTINGS_KEY = b"spatialboost"
_MAX_MILLIMETRES = 2**16 - 1


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
    """Ask about every view of a source and write the conversations.

    Example:
        >>> from spatialboost.scenes.dataset.writer import build_dataset
        >>> from spatialboost.scenes.sources import Rooms
        >>> report = build_dataset(Rooms(8, size=64), "rooms", seed=0)  # doctest: +SKIP
        >>> rows = datasets.load_dataset("parquet", data_files="rooms/*.parquet")["train"]  # doctest: +SKIP

    Items from ``k * rows_per_shard`` on go to file ``part-{k}.parquet``, whichever process writes it, so that the same
    arguments give the same bytes however often a build was killed and however many processes share it. A file appears
    only when it is complete (written beside, then renamed), and files that are there are kept. The columns are
    described in ``docs/data-format.md``.

    Args:
        source: has ``len`` and ``[i] -> Cues``.
        out: folder; created if missing.
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
            other arguments.
    """
    number, count = parse_shard(shard)
    if rows_per_shard < 1 or not 1 <= quality <= 100:
        raise SpatialBoostError(f"rows_per_shard is {rows_per_shard} and quality {quality}; expected >= 1 and 1 to 100")
    check_choices(order, seed)
    out, plan = Path(out), plan or TurnPlan()
    settings = {
        "version": META_VERSION,
        "source": getattr(source, "name", type(source).__name__),
        "items": len(source),
        "seed": seed,
        "order": order,
        "plan": plan_settings(plan),
        "rows_per_shard": rows_per_shard,
        "with_depth": with_depth,
        "quality": quality,
    }
    if overwrite:
        for path in out.glob("part-*.parquet"):
            part = path.stem.removeprefix("part-")
            if part.isdecimal() and int(part) % count == number:
                path.unlink()
    else:
        _refuse_other_dataset(out, settings)
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


def dataset_files(folder: Path | str) -> list[Path]:
    """The parquet files of a dataset folder, in order.

    Raises:
        SpatialBoostError: there is none.
    """
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise SpatialBoostError(
            f"{folder} holds no parquet file; build one with: spatialboost data build --out {folder}"
        )
    return files


def dataset_facts(path: Path) -> dict[str, Any]:
    """What a dataset's parquet file says of itself: the build's settings, ``rows``, ``skipped`` items with reasons.

    Raises:
        SpatialBoostError: no file of ours.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        return {**json.loads(metadata.schema.to_arrow_schema().metadata[_SETTINGS_KEY]), "rows": metadata.num_rows}
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise SpatialBoostError(
            f"{path} is not a file that a build wrote ({type(error).__name__}); choose another folder or remove it"
        ) from None


def _write_part(
    path: Path, source: Source, items: range, settings: dict[str, Any], order: Order, plan: TurnPlan, bar: tqdm
) -> tuple[int, dict[str, str]]:
    """Write one file; returns its number of rows and what was skipped."""
    rows, skipped = [], {}
    for item in items:
        try:
            rows.append(_make_row(source[item], item, settings, order, plan))
        except BAD_ITEM as error:
            reason = re.sub(r" at 0x[0-9a-f]+", "", str(error))  # an address would differ from run to run
            skipped[_item_name(source, item)] = reason or type(error).__name__
        bar.update()
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(settings["with_depth"])
    facts = _to_json({**settings, "skipped": skipped})
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata({**schema.metadata, _SETTINGS_KEY: facts}))
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=64)
    _replace(path, stream.getvalue())
    return len(rows), skipped


def _make_row(cues: Cues, item: int, settings: dict[str, Any], order: Order, plan: TurnPlan) -> dict[str, Any]:
    seed = int(np.random.SeedSequence([settings["seed"], item]).generate_state(1)[0])
    talk = build_conversation(cues, seed=seed, order=order, plan=plan)
    row = {
        "images": [_encoded(cues.image_HW3, settings["quality"])],
        "messages": talk.messages,
        "meta": json.dumps({**talk.meta, "item": item}),
    }
    if settings["with_depth"]:
        millimetres = np.where(cues.valid_HW, np.rint(np.nan_to_num(cues.depth_HW) * 1000), 0)
        millimetres[millimetres > _MAX_MILLIMETRES] = 0
        labels = np.zeros(cues.size, np.uint8)
        masks = {clean_description(thing.description): thing.mask_HW for thing in cues.objects}
        for label, fact in enumerate(talk.meta["objects"][:255]):
            labels[masks[fact["description"]]] = label + 1
        row["depths"] = [_encoded(millimetres.astype(np.uint16))]
        row["labels"] = [_encoded(labels)]
    return row


def _encoded(pixels: np.ndarray, quality: int = 100) -> dict[str, Any]:
    stream = io.BytesIO()
    if quality < 100:
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0)
    else:
        Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return {"bytes": stream.getvalue(), "path": None}


def _schema(with_depth: bool) -> pyarrow.Schema:
    """Arrow types with the metadata by which ``datasets`` decodes the images."""
    from datasets import Features, Value
    from datasets import Image as ImageFeature

    columns: dict[str, Any] = {
        "images": [ImageFeature()],
        "messages": [{"role": Value("string"), "content": Value("string")}],
        "meta": Value("string"),
    }
    if with_depth:
        columns |= {"depths": [ImageFeature()], "labels": [ImageFeature()]}
    return Features(columns).arrow_schema


def _refuse_other_dataset(out: Path, settings: dict[str, Any]) -> None:
    for path in sorted(out.glob("*.parquet")):
        facts = dataset_facts(path)
        asked, found = _flat(settings), _flat({**facts, "plan": renew_settings(facts["plan"])})
        wrong = [key for key, value in asked.items() if found.get(key) != value]
        if wrong:
            what = ", ".join(f"{key} {found.get(key)!r} instead of {asked[key]!r}" for key in wrong)
            raise SpatialBoostError(
                f"{path} was built with {what}; choose another folder, or overwrite to replace what is there"
            )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of the plan as keys of their own, so that an error names only what differs."""
    return {**settings, **{f"plan.{key}": value for key, value in settings["plan"].items()}, "plan": None}


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

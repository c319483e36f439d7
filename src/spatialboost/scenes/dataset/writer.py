"""Write conversations about the items of a source as parquet files that ``datasets.load_dataset`` can open."""

from __future__ import annotations

import json
import logging
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.engines import Engine, write_parts
from spatialboost.scenes.dataset.files import build_lock, remove_leftovers, replace_file
from spatialboost.scenes.dataset.part import Parts, opened
from spatialboost.scenes.dataset.schema import (
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
from spatialboost.scenes.questions.conversation import Order, validate_choices
from spatialboost.scenes.questions.plan import TurnPlan, plan_settings
from spatialboost.scenes.sources import Source

log = logging.getLogger(__name__)


@dataclass
class BuildReport:
    """Report of a build: what was written and what was skipped.

    It is saved beside the data files as ``manifest*.json``, with the settings, the versions of the software, and the
    models and data sets that the cues come from (``provenance``: name, revision, licence).

    Attributes:
        written: number of rows in the files of this shard, including those of an earlier, interrupted run.
        skipped: reason -> number of skipped items. Reasons that differ only in numbers count as the first of them.
        names: skipped item (its name or index in the source) -> full reason.
        left_out: kind of question -> number of turns that the conversations lack and that no turn of another kind
            replaces. The reasons are in the column ``meta``.
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
    source: Source | Callable[[], Source],
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
    processes: int = 1,
    engine: Engine = "local",
) -> BuildReport:
    """Make a conversation about every item of a source, and write the conversations to parquet files.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> report = build_dataset(Rooms(8, size=64), "rooms", seed=0)  # doctest: +SKIP
        >>> rows = datasets.load_dataset("parquet", data_files="rooms/*.parquet")["train"]  # doctest: +SKIP

    File ``part-{k}.parquet`` has the ``rows_per_shard`` items from ``k * rows_per_shard`` on, in every process. So the
    same arguments give the same bytes, also if a build was killed and continued, or if several processes share it. A
    file appears only when it is complete: it is written under a temporary name and then renamed. Existing files are
    kept. The columns are described in ``docs/data-format.md``.

    Args:
        source: object with ``len`` and ``[i]``; ``source[i]`` is a ``Cues`` or a ``Scene``. Or a function without
            arguments that opens one, for several processes: it is copied to each of them and called there.
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
        progress: show a progress bar, with the rate and the estimated time to the end.
        processes: number of processes that write files at the same time. They do not change the files.
        engine: "local", or "ray" to write the files on the machines of a Ray cluster (``RAY_ADDRESS`` says which; else
            on this machine). All machines must see the folder.

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
    if processes < 1:
        raise SpatialBoostError(f"processes is {processes}; expected at least 1")
    out, plan, items = user_path(out), plan or TurnPlan(), opened(source)
    settings = build_settings(items, seed, order, plan, rows_per_shard, with_depth, quality)
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
        parts = Parts(source, out, settings, order, plan, arrow_schema(settings))
        return _write_shard(parts, (number, count), items, processes, engine, progress)


def _write_shard(
    parts: Parts, shard: tuple[int, int], source: Source, processes: int, engine: Engine, progress: bool
) -> BuildReport:
    """Write the files of a shard that do not exist yet. A file without rows is written again."""
    number, count = shard
    numbers = range(number, -(-len(source) // parts.settings["rows_per_shard"]), count)
    report = BuildReport(files=[parts.path(k).name for k in numbers])
    facts: dict[int, dict[str, Any]] = {
        k: dataset_facts(parts.path(k)) if parts.path(k).exists() else {"rows": 0} for k in numbers
    }
    missing = [k for k in numbers if not facts[k]["rows"]]
    report.resumed = len(numbers) - len(missing)
    columns = column_names(parts.settings["version"], with_depth=parts.settings["with_depth"])
    num_items = sum(len(parts.items(k)) for k in numbers)
    with tqdm(
        total=num_items,
        initial=num_items - sum(len(parts.items(k)) for k in missing),
        desc="items",
        unit="item",
        disable=not progress,
    ) as bar:
        for k in numbers:
            if facts[k]["rows"]:
                with open_parquet(parts.path(k)) as file:
                    validate_file(parts.path(k), file, columns)
        write_parts(parts, missing, source=source, processes=processes, engine=engine, advance=bar.update)
    facts |= {k: dataset_facts(parts.path(k)) for k in missing}
    for k in numbers:
        report.written += facts[k]["rows"]
        left_out, dropped = _count_missing(parts.path(k), parts.plan)
        report.left_out += left_out
        report.dropped += dropped
        report.names |= facts[k]["skipped"]
    report.skipped = _by_reason(report.names.values())
    for reason, times in report.skipped.most_common():
        log.warning("skipped %d of %d items: %s", times, num_items, reason)
    path = parts.out / ("manifest.json" if count == 1 else f"manifest-{number}-of-{count}.json")
    remove_leftovers(path)
    replace_file(path, json.dumps({**vars(report), **_made_by(source), "settings": parts.settings}, indent=1).encode())
    return report


def _by_reason(reasons: Iterable[str]) -> Counter[str]:
    """Count reasons. Those that differ only in numbers or in the view's name count as one: the first of them."""
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        bare = reason.split(": ", 1)[-1]
        alike.setdefault(re.sub(r"\d+(\.\d+)?", "#", bare), []).append(bare)
    return Counter(
        {found[0] + (" (or with other numbers)" if len(set(found)) > 1 else ""): len(found) for found in alike.values()}
    )


def _made_by(source: Source) -> dict[str, Any]:
    """What made the data: versions of the software, and the models and sets with their revisions and licences."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("spatialboost", "numpy", "pillow", "scikit-image", "torch", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    found = getattr(source, "provenance", None)
    return {"versions": versions, "provenance": [found] if isinstance(found, Mapping) else list(found or [])}


def _count_missing(path: Path, plan: TurnPlan) -> tuple[Counter[str], Counter[str]]:
    """Number of turns of each kind that the conversations of a file lack, and of the texts that were dropped."""
    with open_parquet(path, "column meta") as file:
        metas = file.read(columns=["meta"]).column("meta").to_pylist()
    missing: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    try:
        for meta in map(json.loads, metas):
            asked = Counter(turn["kind"] for turn in meta["turns"])
            asked += Counter({kind: len(others) for kind, others in meta.get("replaced", {}).items()})
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

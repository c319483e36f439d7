"""Leave out turns whose answers the text of the questions tells, until the text alone tells almost nothing.

Views of one place show the same objects again and again, so a reader learns that "the black object" is left of "the
white object" and needs no image. No single row can know this; it is seen only in the complete data set.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.scenes.dataset.part import write_table
from spatialboost.scenes.dataset.schema import (
    arrow_schema,
    dataset_facts,
    dataset_files,
    open_parquet,
    read_meta,
    read_talks,
    with_facts,
)
from spatialboost.scenes.dataset.text_only import FOLDS, MAX_TURNS, Labels, ReadTurn, guess_answers, read_turns
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.questions.kinds import KINDS

# Shape legend: T = turns.

LEFT_OUT = "the text of its question tells the answer in this data set"
_MARGIN = 0.01  # the classifier may be better than the best constant answer by this
_PARTITIONS = 3  # ways to split the views into parts for training and for testing
_STEP = 0.5  # fraction of the turns in excess that is removed before the classifier is trained again
_ROUNDS = 40

Talk = tuple[Sequence[Mapping[str, str]], Mapping[str, Any]]


@dataclass
class Balanced:
    """What `balance_dataset` did."""

    path: Path  # folder of the new data set
    rows: int = 0  # number of its conversations
    turns: Counter[str] = field(default_factory=Counter)  # kind -> number of turns before
    left_out: Counter[str] = field(default_factory=Counter)  # kind -> number of turns that were left out
    # conversations of which no turn is left: name of the view -> reason
    emptied: dict[str, str] = field(default_factory=dict)


def told_turns(talks: Iterable[Talk]) -> dict[int, set[int]]:
    """Find the turns to leave out: number of the conversation -> numbers of its turns.

    Example:
        >>> question, answer = "Is the red box above the blue box?", "No, it is below. Answer: No."
        >>> messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        >>> told_turns([(messages, {"turns": [{"kind": "above_below"}]})])  # one turn teaches nothing
        {}

    The classifier is that of `measure_text_only`. While it is better than the best constant answer, the turns that it
    answers with the highest probability are removed, and it is trained again. Turns of a kind that other turns refer
    to, such as captions, stay. The same conversations always give the same turns.

    Source: adversarial filtering, AFLite (Le Bras et al., arXiv 2002.04108), with groups: views are never split.
    """
    found: dict[int, set[int]] = defaultdict(set)
    followed = {kind.follows for kind in KINDS.values()}
    for turns in read_turns(talks).values():
        if turns[0].kind in followed:
            continue
        parts = -(-len(turns) // MAX_TURNS)
        for part in range(parts):
            told = _told(turns[part::parts])
            for turn in told:
                found[turn.row].add(turn.number)
            if not told:  # a large data set of many places
                break
    return dict(found)


def _told(turns: Sequence[ReadTurn]) -> list[ReadTurn]:
    kept, told = list(turns), []
    for _ in range(_ROUNDS):
        labels = Labels.of(kept)
        judged = None if labels is None else _judge(kept, labels)
        if labels is None or judged is None:
            break
        accuracy, chances_T = judged
        excess = accuracy - labels.prior
        if excess <= _MARGIN:
            break
        # without this number of right answers, it would be as good as the constant answer
        number = max(1, round(_STEP * len(kept) * excess / max(1 - labels.prior, excess)))
        surest = _surest(chances_T, labels, number)
        told += [kept[i] for i in sorted(surest)]
        kept = [turn for i, turn in enumerate(kept) if i not in surest]
    return told


def _surest(chances_T: np.ndarray, labels: Labels, number: int) -> set[int]:
    """The turns with the highest probability, the same share of each answer, so that none becomes more frequent."""
    answer_T = labels.values_T // (labels.reach or 1)
    order = np.argsort(-chances_T, kind="stable")
    rank_T, size_T = np.empty(len(order), int), np.empty(len(order), int)
    for answer in np.unique(answer_T):
        same = order[answer_T[order] == answer]
        rank_T[same], size_T[same] = np.arange(len(same)), len(same)
    share_T = (rank_T + 0.5) / size_T  # of the turns with the same answer, those that are surer
    return set(np.argsort(share_T, kind="stable")[:number].tolist())


def _judge(turns: Sequence[ReadTurn], labels: Labels) -> tuple[float, np.ndarray] | None:
    """The highest accuracy over several partitions, and the mean probability of the true answers."""
    group_T = np.array([turn.group for turn in turns])
    accuracies, chances = [], []
    for seed in range(_PARTITIONS):
        order = (
            np.arange(group_T.max() + 1) if seed == 0 else np.random.default_rng(seed).permutation(group_T.max() + 1)
        )
        found = guess_answers(turns, labels, order[group_T] % FOLDS)
        if found is None:
            return None
        accuracies.append(float(found[0].mean()))
        chances.append(found[1])
    return max(accuracies), np.mean(chances, axis=0)


def balance_dataset(folder: Path | str, out: Path | str) -> Balanced:
    """Write a data set without the turns that `told_turns` finds. Images, depth and all other turns are the same.

    Example:
        >>> balance_dataset("data/walk", "data/walk_balanced").left_out  # doctest: +SKIP
        Counter({'left_right': 45, 'front_behind': 19})

    ``meta["left_out"]`` of a conversation names the kinds. A conversation of which nothing is left is left out, too.

    Args:
        folder: a complete data set: all shards of a build.
        out: folder of the new data set; it appears when it is complete.

    Raises:
        SpatialBoostError: there is no data set, it cannot be read, or the new folder exists.
    """
    folder, out = user_path(folder), user_path(out)
    files = dataset_files(folder)
    if out.exists():
        raise SpatialBoostError(f"{out} exists; choose another folder for the balanced data set")
    told = told_turns(
        (messages, _checked(path, messages, meta)) for path in files for messages, meta in read_talks(path)
    )
    report, row = Balanced(out), 0
    beside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    beside.mkdir(parents=True)
    try:
        for path in files:
            row += _write(path, beside / path.name, told, row, report)
        _write_manifest(folder, beside, report)
        os.rename(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return report


def _checked(path: Path, messages: Sequence[Mapping[str, str]], meta: Any) -> dict[str, Any]:
    try:
        if len(messages) == 2 * len(meta["turns"]) and all("kind" in turn for turn in meta["turns"]):
            return dict(meta)
    except (TypeError, ValueError, KeyError):
        pass
    raise SpatialBoostError(f"{path} has a row whose column meta is not as a build writes it; build the file again")


def _write(path: Path, new: Path, told: Mapping[int, set[int]], first: int, report: Balanced) -> int:
    """Write one file without these turns, and return the number of rows that it had."""
    import pyarrow as pa

    facts = dataset_facts(path)
    settings = {key: value for key, value in facts.items() if key not in ("rows", "skipped")}
    settings["source"] = f"{settings['source']} balanced"  # so that no build continues this folder
    skipped, rows = dict(facts["skipped"]), []
    with open_parquet(path) as file:
        for number, row in enumerate(row for batch in file.iter_batches(16) for row in batch.to_pylist()):
            meta, gone = _checked(path, row["messages"], read_meta(row)), told.get(first + number, set())
            report.turns.update(turn["kind"] for turn in meta["turns"])
            report.left_out.update(meta["turns"][i]["kind"] for i in gone)
            if len(gone) == len(meta["turns"]):
                name = str(meta.get("source", first + number))
                skipped[name] = report.emptied[name] = LEFT_OUT
                continue
            rows.append({**row, **_without(row["messages"], meta, gone)} if gone else row)
    stream = io.BytesIO()
    write_table(pa.Table.from_pylist(rows, schema=with_facts(arrow_schema(settings), settings, skipped)), stream)
    replace_file(new, stream.getvalue())
    report.rows += len(rows)
    return int(facts["rows"])


def _without(messages: Sequence[dict[str, str]], meta: dict[str, Any], gone: set[int]) -> dict[str, Any]:
    """The columns of a conversation without some of its turns."""
    first = messages[0]["content"]
    images = first[: len(first) - len(first.replace("<image>\n", ""))]
    pairs = [messages[2 * i : 2 * i + 2] for i in range(len(meta["turns"])) if i not in gone]
    if 0 in gone:
        pairs[0] = [{**pairs[0][0], "content": images + pairs[0][0]["content"]}, pairs[0][1]]
    left_out = {**meta.get("left_out", {}), **{meta["turns"][i]["kind"]: LEFT_OUT for i in sorted(gone)}}
    turns = [turn for i, turn in enumerate(meta["turns"]) if i not in gone]
    return {
        "messages": [message for pair in pairs for message in pair],
        "meta": json.dumps({**meta, "turns": turns, "left_out": left_out}),
    }


def _write_manifest(folder: Path, new: Path, report: Balanced) -> None:
    """The manifests of the old data set, and what was left out of it."""
    facts = {
        "balanced": {"rows": report.rows, "turns": report.turns, "left_out": report.left_out, "emptied": report.emptied}
    }
    for path in sorted(folder.glob("manifest*.json")):
        try:
            facts[path.name] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpatialBoostError(f"{path} cannot be read ({error}); build the data set again") from error
    replace_file(new / "manifest.json", json.dumps(facts, indent=1).encode())

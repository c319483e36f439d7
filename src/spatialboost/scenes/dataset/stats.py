"""Statistics of a data set: the balance of the answers, what the text alone tells, lengths, distances and skips."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.drawing import as_uri, render_page
from spatialboost.scenes.dataset.files import replace_file
from spatialboost.scenes.dataset.schema import dataset_facts, dataset_files, read_talks
from spatialboost.scenes.dataset.text_only import TextOnly, measure_text_only
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.questions.kinds import KINDS, scoring_of
from spatialboost.scenes.questions.scoring import LengthScoring, read_length, read_verdict

_MOST_ANSWERS = 6  # of a kind, in the table


@dataclass
class KindStats:
    """The turns of one kind."""

    turns: int = 0  # number of turns
    # verdict -> number of turns, for kinds whose answers are not lengths
    answers: Counter[str] = field(default_factory=Counter)
    lengths: list[float] = field(default_factory=list)  # true lengths in metres, for the others
    words: tuple[float, float] = (0.0, 0.0)  # mean number of words of question and answer


@dataclass
class Stats:
    """The statistics of a data set, made by `measure_dataset`."""

    rows: int = 0  # number of conversations
    views: Counter[int] = field(default_factory=Counter)  # number of views -> conversations with so many
    turns: Counter[int] = field(default_factory=Counter)  # number of turns -> conversations with so many
    kinds: dict[str, KindStats] = field(default_factory=dict)  # kind of question -> its turns
    # kind -> conversations in which a turn of it could not be asked
    left_out: Counter[str] = field(default_factory=Counter)
    # kind -> turns in whose place one of another kind was asked
    replaced: Counter[str] = field(default_factory=Counter)
    # kind -> how well its answers can be guessed from the text, see `measure_text_only`
    text_only: dict[str, TextOnly] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # item -> the reason why it has no conversation
    unreadable: int = 0  # number of rows whose meta is not as a build writes it

    def to_json(self) -> dict[str, Any]:
        """Plain values; lengths as quantiles."""
        kinds = {name: {**vars(kind), "lengths": quantiles(kind.lengths)} for name, kind in self.kinds.items()}
        return {
            **vars(self),
            "kinds": kinds,
            "text_only": {name: vars(found) for name, found in self.text_only.items()},
        }


def measure_dataset(folder: Path | str) -> Stats:
    """Read all conversations of a data set, without its images, and count.

    Example:
        >>> measure_dataset("data/rooms").kinds["left_right"].answers  # doctest: +SKIP
        Counter({'Yes': 512, 'No': 488})

    Raises:
        SpatialBoostError: the folder has no data set, or it cannot be read.
    """
    files = dataset_files(folder)
    stats, words, talks = Stats(), defaultdict(list), []
    for path in files:
        stats.skipped |= dataset_facts(path)["skipped"]
    for messages, meta in (talk for path in files for talk in read_talks(path)):
        stats.rows += 1
        try:
            turns = [(str(turn["kind"]), *texts) for turn, texts in zip(meta["turns"], _pairs(messages), strict=True)]
            views = int(meta["images"])
        except (KeyError, TypeError, ValueError):
            stats.unreadable += 1
            continue
        stats.views[views] += 1
        stats.turns[len(turns)] += 1
        stats.left_out.update(dict(meta.get("left_out", {})).keys())
        stats.replaced.update({kind: len(others) for kind, others in dict(meta.get("replaced", {})).items()})
        talks.append((messages, meta))
        for name, question, answer in turns:
            kind = stats.kinds.setdefault(name, KindStats())
            kind.turns += 1
            words[name].append((len(question.split()), len(answer.split())))
            if isinstance(scoring_of(name), LengthScoring):
                length = read_length(answer)
                kind.lengths += [] if length is None else [length]
            else:
                kind.answers[read_verdict(answer)] += 1
    for name, kind in stats.kinds.items():
        kind.words = tuple(np.mean(words[name], axis=0).round(1).tolist())  # type: ignore[assignment]
    stats.text_only = measure_text_only(talks)
    order = list(KINDS)
    stats.kinds = dict(sorted(stats.kinds.items(), key=lambda item: order.index(item[0]) if item[0] in order else 99))
    return stats


def quantiles(lengths: Sequence[float]) -> dict[str, float]:
    """The 5th, 25th, 50th, 75th and 95th percentile of lengths; empty without lengths.

    Example:
        >>> quantiles([1.0, 2.0, 3.0])["50 %"]
        2.0
    """
    if not lengths:
        return {}
    points = (5, 25, 50, 75, 95)
    return {f"{point} %": round(float(at), 3) for point, at in zip(points, np.percentile(lengths, points), strict=True)}


def _pairs(messages: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        yield question["content"].replace("<image>\n", ""), answer["content"]


def write_stats(folder: Path | str, html_path: Path | str) -> Stats:
    """Measure a data set, and write one page with tables and plots, and the numbers beside it as JSON.

    Raises:
        SpatialBoostError: the folder has no data set, it cannot be read, or the page has the name of a folder.
    """
    folder, html_path = user_path(folder), user_path(html_path)
    if html_path.is_dir() or html_path.suffix in (".parquet", ".json"):
        raise SpatialBoostError(f"the page cannot be written to {html_path}; expected the name of an HTML file")
    stats = measure_dataset(folder)
    reasons = Counter(reason.split(": ", 1)[-1] for reason in stats.skipped.values())
    page = render_page(
        "stats.html.j2",
        title=folder.resolve().name,
        stats=stats,
        titles={name: KINDS[name].title for name in KINDS},
        balance={name: common_answers(kind) for name, kind in stats.kinds.items() if kind.answers},
        lengths={name: quantiles(kind.lengths) for name, kind in stats.kinds.items() if kind.lengths},
        plots=[as_uri(plot) for plot in _plots(stats)],
        reasons=reasons.most_common(50),
    )
    html_path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(html_path, page.encode("utf-8", "replace"))
    replace_file(html_path.with_suffix(".json"), json.dumps(stats.to_json(), indent=1).encode())
    return stats


def common_answers(kind: KindStats) -> list[tuple[str, float]]:
    """The most frequent answers of a kind with their shares, the most frequent first.

    Example:
        >>> common_answers(KindStats(4, Counter(Yes=3, No=1)))
        [('Yes', 0.75), ('No', 0.25)]
    """
    return [(answer, times / kind.turns) for answer, times in kind.answers.most_common(_MOST_ANSWERS)]


def _plots(stats: Stats) -> Iterator[bytes]:
    """PNG files: the lengths of each kind that has them, and the number of turns and views."""
    from matplotlib.figure import Figure  # without pyplot, which would keep figures and look for a screen

    with_lengths = {name: kind.lengths for name, kind in stats.kinds.items() if kind.lengths}
    for name, lengths in with_lengths.items():
        figure = Figure((6, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.hist(np.clip(lengths, None, np.percentile(lengths, 99)), bins=40, color="#2f9bff")
        axes.set(title=KINDS[name].title if name in KINDS else name, xlabel="metres", ylabel="answers")
        yield _png(figure)
    figure = Figure((6, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, counts, label in ((left, stats.turns, "turns"), (right, stats.views, "views")):
        axes.bar(list(counts), list(counts.values()), color="#25b34b")
        axes.set(xlabel=f"{label} in a conversation", ylabel="conversations")
        axes.xaxis.get_major_locator().set_params(integer=True)
    yield _png(figure)


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()

"""The page of a proof in Markdown: what the papers say, and what was seen here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from spatialboost.experiments.proof import Proof
from spatialboost.experiments.proof_file import BASE
from spatialboost.paired import paired_test
from spatialboost.probes.measures import Metric, Spread
from spatialboost.probes.result import ProbeResult
from spatialboost.scenes.dataset.files import replace_file

NOT_MEASURED = "not measured"
Results = Mapping[str, Sequence[ProbeResult]]  # row -> the result of each seed


def write_page(proof: Proof) -> Path:
    """Write ``proof.md`` from what is finished; rows and probes without a result are marked as not measured."""
    results = proof.results()
    lines = [f"# {proof.file.title}", "", *([" ".join(proof.file.about.split()), ""] if proof.file.about else [])]
    lines += _rows(proof)
    lines += ["## All rows", "", *_summary(proof, results)]
    lines += ["## The first row against each other row", "", *_against(proof, results)]
    if proof.file.claims:
        lines += ["## What the papers say, and what was seen", "", *_claims(proof, results)]
    if pictures := [name for name in proof.file.probes if proof.picture(name).is_file()]:
        lines += [
            "## Pictures",
            "",
            "The items are evenly spaced over the test split; none was chosen by its result.",
            "",
        ]
        for name in pictures:
            lines += [f"![{name}]({quote(str(proof.picture(name).relative_to(proof.out)))})", ""]
    lines += ["## Every metric", ""]
    for name, rows in results.items():
        lines += _probe(proof, name, rows)
    lines += ["## Training", "", *_training(proof)]
    if proof.left_out:
        lines += ["## Left out", "", *(f"- {name}: {why}" for name, why in proof.left_out.items()), ""]
    file = proof.out / "proof.md"
    replace_file(file, "\n".join(lines).encode())
    return file


def compared(results: Results, row: str, other: str) -> str:
    """The first metric of one row against that of another: the means, and in how many seeds it is better.

    The rows are compared seed by seed; a row with one run is compared with every seed of the other.
    """
    if row not in results or other not in results:
        missing = row if row not in results else other
        return f"{missing}: {NOT_MEASURED}"
    key, metric = first_metric(results)
    ours, theirs = seed_means(results, row, key), seed_means(results, other, key)
    sign = 1 if metric.higher_is_better else -1
    pairs = list(zip(ours, theirs if len(theirs) > 1 else theirs * len(ours), strict=False))
    better = sum(sign * (our - their) > 0 for our, their in pairs)
    means = [Spread.of(each).mean for each in (ours, theirs)]
    change = f"{means[0] - means[1]:+.3f}" + (f", {(means[0] / means[1] - 1):+.1%}" if means[1] else "")
    seeds = f"better in {better} of {len(pairs)} seeds{_chance(results, row, other)}"
    return f"{means[0]:.3f} against {means[1]:.3f} ({change}; {seeds})"


def first_metric(results: Results) -> tuple[str, Metric]:
    """Name and metric by which the rows of a probe are compared."""
    return next(iter(next(iter(results.values()))[0].metrics.items()))


def seed_means(results: Results, row: str, metric: str) -> list[float]:
    """The metric for each seed of the training: the mean over the draws of the probe."""
    return [each.spread(row, metric).mean for each in results[row]]


def _chance(results: Results, row: str, other: str) -> str:
    """The paired test over the items, each as its mean over seeds and draws; empty if the items were not scored."""
    items = []
    for name in (row, other):
        runs = [each.per_view for result in results[name] for each in result.rows if each.name == name]
        if not runs or not runs[0] or len({len(run) for run in runs}) > 1:
            return ""
        items.append(np.array(runs, np.float64).mean(0))
    if items[0].shape != items[1].shape:
        return ""
    test = paired_test((items[0] - items[1]).tolist())
    return f"; over {test.num} items p < 0.001" if test.p < 0.001 else f"; over {test.num} items p = {test.p:.3f}"


def _rows(proof: Proof) -> Iterator[str]:
    yield from ("| row | what it is | seeds |", "|---|---|---|", f"| {BASE} | the encoder as it is | |")
    for name, row in proof.file.rows.items():
        yield f"| {name} | {row.about or (f'like {row.like}' if row.like else '')} | {row.seeds} |"
    yield ""


def _summary(proof: Proof, results: Mapping[str, Results]) -> Iterator[str]:
    """One line for each row, one column for each probe."""
    titles = []
    for name in proof.file.probes:
        if not results[name]:
            titles.append(name)
            continue
        _, metric = first_metric(results[name])
        arrow = "higher" if metric.higher_is_better else "lower"
        titles.append(f"{name}: {metric.label}{', ' + metric.unit if metric.unit else ''} ({arrow} is better)")
    yield f"| row | {' | '.join(titles)} |"
    yield "|---|" + "---|" * len(titles)
    for row in (BASE, *proof.file.rows):
        cells = (_cell(results[name], row) for name in proof.file.probes)
        yield f"| {row} | {' | '.join(cells)} |"
    yield f"| without the image | {' | '.join(_baseline(results[name]) for name in proof.file.probes)} |"
    yield ""
    yield "Mean over the seeds of the training, with their standard deviation; in brackets the change from base."
    yield ""


def _cell(results: Results, row: str) -> str:
    if row not in results:
        return NOT_MEASURED
    key, _ = first_metric(results)
    spread = Spread.of(seed_means(results, row, key))
    if row == BASE or BASE not in results:
        return str(spread)
    base = Spread.of(seed_means(results, BASE, key)).mean
    return f"{spread} ({spread.mean / base - 1:+.1%})" if base else str(spread)


def _baseline(results: Results) -> str:
    """The score without the image, which each result has as its last row."""
    if not results:
        return NOT_MEASURED
    key, _ = first_metric(results)
    result = next(iter(results.values()))[0]
    return str(result.spread(result.names[-1], key))


def _against(proof: Proof, results: Mapping[str, Results]) -> Iterator[str]:
    main, *others = proof.file.rows
    yield f"| {main} against | {' | '.join(proof.file.probes)} |"
    yield "|---|" + "---|" * len(proof.file.probes)
    for other in (BASE, *others):
        yield f"| {other} | {' | '.join(compared(results[name], main, other) for name in proof.file.probes)} |"
    yield ""


def _claims(proof: Proof, results: Mapping[str, Results]) -> Iterator[str]:
    for claim in proof.file.claims:
        row, other = claim.rows
        yield f"- **The paper:** {' '.join(claim.paper.split())}"
        yield f"  **Here**, {row} against {other}:"
        for name in proof.file.probes:
            yield f"  - {name}: {compared(results[name], row, other)}"
        if claim.why:
            yield f"  Why it may differ: {' '.join(claim.why.split())}"
    yield ""


def _probe(proof: Proof, name: str, results: Results) -> Iterator[str]:
    yield from (f"### {name}", "")
    if not results:
        yield from (f"{NOT_MEASURED}", "")
        return
    one = next(iter(results.values()))[0]
    yield f"| row | {' | '.join(metric.title for metric in one.metrics.values())} |"
    yield "|---|" + "---|" * len(one.metrics)
    for row in results:
        cells = []
        for key in one.metrics:
            has = any(key in each.metrics for each in results[row][0].rows if each.name == row)
            cells.append(str(Spread.of(seed_means(results, row, key))) if has else "")
        yield f"| {row} | {' | '.join(cells)} |"
    last = one.names[-1]
    own = [row for row in one.rows if row.name == last]
    cells = [str(one.spread(last, key)) if key in own[0].metrics else "" for key in one.metrics]
    yield f"| {last} | {' | '.join(cells)} |"
    hidden = {"cell", "versions", "encoders"}
    shown = {key: value for key, value in one.settings.items() if key not in hidden}
    yield from ("", ProbeResult(one.probe, shown, one.metrics, one.rows).caption(), "")


def _training(proof: Proof) -> Iterator[str]:
    yield "| row | seed | stage | steps | seconds | loss, first -> last entries | gain from the image before it |"
    yield "|---|---|---|---|---|---|---|"
    answers: list[str] = []
    for row, section in proof.file.rows.items():
        for seed in range(section.seeds):
            stages = proof.own_stages(row, seed)
            if not stages:
                yield f"| {row} | {seed} | {NOT_MEASURED} | | | | |"
            for stage, record in stages.items():
                fit = record["fit"]
                losses = [f"{entry['loss']:.3f}" for entry in fit["history"]]
                loss = " -> ".join([*losses[:1], *losses[1:][-1:]])
                steps = f"{fit['steps']} | {fit['seconds']:.0f}"
                yield f"| {row} | {seed} | {stage} | {steps} | {loss} | {_gains(record)} |"
                answers += [_answer(row, seed, stage, score) for score in record.get("scores", [])]
    yield ""
    if answers:
        yield "Answers on rows that were held out:"
        yield ""
        yield "| row | seed | after | question | answered from | right (lengths: within 25 %) | relative error | loss |"
        yield "|---|---|---|---|---|---|---|---|"
        yield from answers
        yield ""


def _answer(row: str, seed: int, stage: str, score: Mapping[str, Any]) -> str:
    error, loss = ("" if score[key] is None else f"{score[key]:.3f}" for key in ("relative_error", "loss"))
    right = f"{score['accuracy']:.1%} of {score['answers']}"
    return f"| {row} | {seed} | {stage} | {score['kind']} | {score['answerer']} | {right} | {error} | {loss} |"


def _gains(record: Mapping[str, Any]) -> str:
    """What the check before a stage that boosts has found for each kind of question, if there was one."""
    kinds = (record.get("readiness") or {}).get("kinds", {})
    return "; ".join(f"{kind} {found['gain']:.3f} (p = {found['p']:.3f})" for kind, found in kinds.items())

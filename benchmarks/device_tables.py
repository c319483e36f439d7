"""The tables of `device.py` in Markdown. Cases without a result say "not measured", failed ones say why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOT_MEASURED = "not measured"
BASE, BOOSTED = "base, full fine-tuning", "boosted, host (default)"

Cases = Mapping[str, Mapping[str, Any]]


def tables(where: str | None, cases: Cases) -> str:
    """All tables, for a page."""
    lines = [f"Device: {where}." if where else f"Device: none; everything below was {NOT_MEASURED}."]
    for title, draw in (("Kernels", kernels), ("Time and memory", overhead), ("Language on rooms", proof)):
        stage = draw.__name__
        own = {name.removeprefix(f"{stage}: "): case for name, case in cases.items() if name.startswith(f"{stage}: ")}
        empty = all(case["result"] is None for case in own.values())
        lines += ["", f"**{title}**", "", *([f"{len(own)} cases: {NOT_MEASURED}."] if empty else draw(own))]
    return "\n".join(lines)


def outcome(case: Mapping[str, Any]) -> tuple[Any, str]:
    """What a case has measured, or None and why there is nothing."""
    result = case["result"]
    if result is None:
        return None, NOT_MEASURED
    return (result["rows"], "") if "rows" in result else (None, _cell(result["failed"]))


def kernels(cases: Cases) -> Iterator[str]:
    """How many cases of each kernel agree with the formula, and the largest errors."""
    yield "| kernel, dtype | agrees | largest error of the forward (formula) | of the gradients (formula) | not run |"
    yield "|---|---|---|---|---|"
    for name, case in cases.items():
        rows, why = outcome(case)
        if rows is None:
            yield f"| {name} | {why} | | | |"
            continue
        ran = [row for row in rows if "failed" not in row]
        failed = [f"{row['mask']}: {row['failed'][:80]}" for row in rows if "failed" in row]
        wrong = [row["mask"] for row in ran if not row["agrees"]]
        agrees = f"{len(ran) - len(wrong)} of {len(ran)}" + (f"; not: {', '.join(wrong)}" if wrong else "")
        errors = [_largest(ran, key) for key in ("forward", "gradients")] if ran else ["", ""]
        yield f"| {name} | {agrees} | {' | '.join(errors)} | {_cell('; '.join(dict.fromkeys(failed))[:200])} |"


def _largest(rows: list[Mapping[str, Any]], key: str) -> str:
    worst = max(rows, key=lambda row: row[key])
    return f"{worst[key]:.1e} ({worst[f'formula_{key}']:.1e})"


def overhead(cases: Cases) -> Iterator[str]:
    """For each point, time against the base and against the bound by FLOPs, and memory."""
    points: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for case in cases.values():
        about = case["about"]
        points.setdefault((about["model"], about["size"], about["batch"]), {})[about["variant"]] = case
    for (model, size, batch), variants in points.items():
        point = f"ViT-{model[0].upper()}/16, {size} px, batch {batch}"
        if all(case["result"] is None for case in variants.values()):
            yield from (f"{point}: {len(variants)} variants {NOT_MEASURED}.", "")
            continue
        yield from (f"{point}:", "")
        yield "| variant | forward, ms | ratio | bound | step, ms | ratio | bound | peak MB of a step | trains, M |"
        yield "|---|---|---|---|---|---|---|---|---|"
        modes = {name: {row["mode"]: row for row in outcome(case)[0] or []} for name, case in variants.items()}
        for name, case in variants.items():
            if not modes[name]:
                yield f"| {name} | {outcome(case)[1]} | | | | | | | |"
                continue
            cells = [cell for mode in ("forward", "step") for cell in _timed(name, mode, modes)]
            step = modes[name].get("step", {})
            memory = f"{step['megabytes']:,.0f}" if step.get("megabytes") is not None else ""
            trains = f"{step['trainable'] / 1e6:.1f}" if step else ""
            yield f"| {name} | {' | '.join(cells)} | {memory} | {trains} |"
        yield ""


def _timed(name: str, mode: str, modes: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    """Milliseconds, the ratio to the base, and the ratio of the FLOPs."""
    own, base = modes[name].get(mode), modes.get(BASE, {}).get(mode)
    if own is None:
        return "", "", ""
    ratio = "" if base is None else f"{own['milliseconds'] / base['milliseconds']:.3f}"
    counted = own
    if name.startswith(("boosted", "fused")):  # kernels that the counter does not know cost what the host's costs
        counted = modes.get(BOOSTED, {}).get(mode) or {}
    known = base is not None and base.get("flops") and counted.get("flops")
    bound = f"{counted['flops'] / base['flops']:.3f}" if known else ""
    return f"{own['milliseconds']:.2f}", ratio, bound


def proof(cases: Cases) -> Iterator[str]:
    """The first metric of each probe by encoder, and the verdicts."""
    yield "| language model | conversations | probe | encoder | mean +- deviation |"
    yield "|---|---|---|---|---|"
    sentences = []
    for name, case in cases.items():
        found, why = outcome(case)
        if found is None:
            yield f"| {name} | {why} | | | |"
            continue
        for probe, encoders in found["probes"].items():
            for encoder, metrics in encoders.items():
                start = f"| {name} | {found['conversations']:,} | {probe}"
                for metric, (mean, std) in metrics.items():
                    yield f"{start}, {metric} | {encoder} | {mean:.3f}{'' if std is None else f' +- {std:.3f}'} |"
        seconds = ", ".join(
            f"{stage} {each['steps']} steps in {each['seconds']:.0f} s" for stage, each in found["stages"].items()
        )
        sentences += ["", f"{name}: {' '.join(found['verdicts'].values())} ({seconds})"]
    yield from sentences


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())

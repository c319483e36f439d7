"""Everything that is measured on a GPU, by one command, in stages of at most four minutes.

    python benchmarks/device.py --out runs/h100                          # all stages; call it again for what is left
    python benchmarks/device.py --out runs/h100 --stages overhead --minutes 8
    python benchmarks/device.py --out runs/h100 --stages --page docs/overhead.md       # only write the tables

Stages:

- ``kernels``: every kernel against the formula in float64, forward and gradients, in float32, bfloat16 and float16,
  with masks and packed sequences (`device_kernels.py`).
- ``overhead``: time and peak memory of the variants of `overhead.py`, for ViT-B/16 and ViT-L/16, 224 and 518 px, batch
  1 and 32, in bfloat16.
- ``proof``: language on rooms, with the demo's language model and, with ``--smollm2 FILE``, with SmolLM2: base,
  boosted and the control with shuffled answers, by the depth probe (`device_proof.py`).

Each case runs in a process of its own, so one that runs out of memory, fails or hangs costs only its own row, which
says so. A case whose file is in OUT/cases is not run again; delete the file to do so. A stage that has no time left
ends, and the next call goes on: the proof from its last checkpoint, other cases from their beginning. In OUT: a JSON
file for each case, `machine.json`, `device.json` with everything, and `device.md`, whose tables say "not measured"
where a case has no result.

`kernels` and `overhead` need torch, timm and transformers (and peft for the row of LoRA, xformers for its own rows);
`proof` needs the extra ``demo``. Nothing is downloaded. ``--device cpu --tiny`` runs the same with tiny models.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = __file__
STAGES = ("kernels", "overhead", "proof")
MARKERS = ("<!-- device: begin -->", "<!-- device: end -->")
LATE = "not finished"
GRACE = 20.0  # seconds for a process that was asked to end: the trainer saves a checkpoint
DTYPES = ("float32", "bfloat16", "float16")
KERNELS = ("host", "auto", "sdpa", "xformers", "math")


@dataclass(frozen=True)
class Case:
    """One process: what it measures, and the name of its result."""

    stage: str
    name: str
    about: dict[str, Any]

    @property
    def resumes(self) -> bool:
        """Whether a process that is ended early has saved what it did."""
        return self.stage == "proof"

    def file(self, out: Path) -> Path:
        return out / "cases" / f"{self.stage}-{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}.json"


def cases(args: argparse.Namespace) -> list[Case]:
    """All cases, the most telling ones of each stage first."""
    import overhead

    found = [Case("kernels", f"{k} {d}", {"kernel": k, "dtype": d}) for k in KERNELS for d in DTYPES]
    for model, size, batch in grid(args):
        point = {"model": model, "size": size, "batch": batch}
        for variant in overhead.variants(args.device, compiled=not args.tiny):
            found.append(Case("overhead", f"{model} {size} {batch} {variant}", {**point, "variant": variant}))
    for llm in ("demo", "smollm2"):
        found.append(Case("proof", llm, {"llm": llm}))
    return found


def grid(args: argparse.Namespace) -> list[tuple[str, int, int]]:
    """(model, size, batch) of each point of `overhead`."""
    if args.tiny:
        return [("tiny", 32, 2)]
    return [(model, size, batch) for model in ("base", "large") for batch in (32, 1) for size in (224, 518)]


# --- the process of one case


def run_case(case: Case, args: argparse.Namespace) -> Any:
    """Measure one case in this process."""
    if case.stage == "kernels":
        import device_kernels
        import torch

        dtype = getattr(torch, case.about["dtype"])
        return device_kernels.measure(case.about["kernel"], dtype, args.device, args.tiny)
    if case.stage == "overhead":
        import overhead

        dtype = "float32" if args.device == "cpu" else "bfloat16"
        return overhead.measure_alone(**case.about, dtype=dtype, device=args.device, seconds=args.seconds)
    import device_proof

    return device_proof.measure(case.about["llm"], args)


# --- one process after the other


def run_stage(stage: str, args: argparse.Namespace) -> str:
    """Run the cases of a stage that have no result, until its time is over; returns a line on what is there."""
    ends = time.monotonic() + 60 * args.minutes
    own = [case for case in cases(args) if case.stage == stage and not (case.name == "smollm2" and not args.smollm2)]
    first = True
    for number, case in enumerate(own, 1):
        left = ends - time.monotonic() - (GRACE if case.resumes else 0)
        if case.file(args.out).exists():
            continue
        if left <= 0:
            break
        print(f"{stage} {number}/{len(own)}: {case.name}", flush=True)
        reason = run_process(case, args, left)
        if reason == LATE and (case.resumes or not first):
            break  # the next call begins with it
        first = False
        if reason is not None:
            reason = f"not finished within {left:.0f} s" if reason == LATE else reason
            write(case.file(args.out), {"case": case.name, "failed": reason})
            print(f"  {reason}", flush=True)
    done = sum(case.file(args.out).exists() for case in own)
    rest = "" if done == len(own) else "; call the same command again for the rest"
    return f"{stage}: {done} of {len(own)} cases{rest}"


def run_process(case: Case, args: argparse.Namespace, seconds: float) -> str | None:
    """Run a case in a new process; returns why it has no result, None if it has one."""
    command = [sys.executable, SCRIPT, *args.own, "--case", case.name, "--of", case.stage]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return None if case.file(args.out).exists() else LATE
    if process.returncode == 0:
        return None
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if any("out of memory" in line.lower() for line in lines):
        return "out of memory"
    if process.returncode < 0:
        return f"ended by {signal.Signals(-process.returncode).name}"
    return lines[-1][:300] if lines else f"exit code {process.returncode}"


def write(file: Path, content: Any) -> None:
    """Write JSON so that a process that is killed leaves no half file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(file)


def results(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every case by `stage: name`, with its result, or None where it was not run."""
    found = {}
    for case in cases(args):
        file = case.file(args.out)
        content = json.loads(file.read_text()) if file.exists() else None
        found[f"{case.stage}: {case.name}"] = {"about": case.about, "result": content}
    return found


def check_machine(args: argparse.Namespace) -> str:
    """Name of the machine; results of another machine in the same folder are refused."""
    import overhead

    file = args.out / "machine.json"
    where = overhead.machine(args.device)
    if not file.exists():
        write(file, {"machine": where})
    elif (before := json.loads(file.read_text())["machine"]) != where:
        raise SystemExit(f"{args.out} was measured on another machine ({before}, now {where}): give a new folder")
    return where


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=STAGES, help="none: only write the tables")
    parser.add_argument("--minutes", type=float, default=4.0, help="longest time of each stage in this call")
    parser.add_argument("--page", type=Path, help="page whose markers take the tables")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="tiny models and few steps: whether it runs")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing, for each variant and mode")
    parser.add_argument("--conversations", type=int, default=100_000, help="of the proof, one for each room")
    parser.add_argument("--encoder", help="of the proof: as for `spatialboost demo`; the demo's own without it")
    parser.add_argument("--smollm2", help="of the proof: SmolLM2 as a GGUF file or as a folder with safetensors")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--of", help=argparse.SUPPRESS)
    args = parser.parse_args(given)
    args.own = sys.argv[1:] if given is None else given
    return args


def main(given: list[str] | None = None) -> None:
    args = parse(given)
    if args.case:
        case = next(each for each in cases(args) if (each.stage, each.name) == (args.of, args.case))
        write(case.file(args.out), {"case": case.name, "rows": run_case(case, args)})
        return
    import device_tables

    where = check_machine(args) if args.stages else ""
    for stage in args.stages:
        print(run_stage(stage, args), flush=True)
        tables(args, device_tables.tables)
    text = tables(args, device_tables.tables)
    if args.page:
        page = args.page.read_text()
        before, after = page.split(MARKERS[0])[0], page.split(MARKERS[1])[1]
        args.page.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}")
    print(f"{where}: {args.out / 'device.md'}")


def tables(args: argparse.Namespace, draw: Callable[..., str]) -> str:
    """Write `device.json` and `device.md` from the results that are there."""
    file = args.out / "machine.json"
    where = json.loads(file.read_text())["machine"] if file.exists() else None
    found = results(args)
    write(args.out / "device.json", {"machine": where, "cases": found})
    text = draw(where, found)
    (args.out / "device.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    main()

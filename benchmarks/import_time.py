"""How long imports take, as ratios in one run: `python benchmarks/import_time.py [--repeats 5] [--against SRC]`.

Each line is measured in separate processes, and each number is the fastest of several runs. The cases take turns, so
that other work on the machine slows all of them equally.
`--against` is the `src` folder of another version, measured together with this one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
HELP = "import sys; sys.argv = ['spatialboost', '--help']; from spatialboost.cli import main; main()"
PLAIN = {"import torch": "import torch", "import typer": "import typer"}
OURS = {
    "import torch, spatialboost": "import torch, spatialboost",
    "... and its names": "import torch, spatialboost; [getattr(spatialboost, name) for name in spatialboost.__all__]",
    "spatialboost --help": HELP,
}


def seconds(code: str, src: Path) -> float:
    """Seconds that a new process needs to run the code."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(src)}
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    folders = {"now": SRC} | ({"before": options.against} if options.against else {})
    cases = {(name, ""): (code, SRC) for name, code in PLAIN.items()}
    cases |= {(name, label): (code, src) for name, code in OURS.items() for label, src in folders.items()}
    times: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for _ in range(options.repeats):
        for case, (code, src) in cases.items():
            times[case].append(seconds(code, src))
    best = {case: min(found) for case, found in times.items()}
    for (name, label), found in best.items():
        base = "import typer" if name in ("import typer", "spatialboost --help") else "import torch"
        plain = best[base, ""]
        print(f"{name:28} {label:7} {found:6.2f} s  {found / plain:6.2f} x `{base}`  {found - plain:+.2f} s")


if __name__ == "__main__":
    main()

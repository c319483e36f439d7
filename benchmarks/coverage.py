"""How much of timm and of transformers `boost` covers: each model is boosted and held to what boosting promises.

    python benchmarks/coverage.py --out runs/coverage --page docs/coverage.md  # everything, an hour on a core
    python benchmarks/coverage.py --out runs/coverage --library timm --match "swin*"

Weights are random; a large model is cut to a few blocks that keep every class of layer it has. Per model: where its
forward weighs tokens (asked of the computation: attention kernels, softmax over pairs), the output at start
(`torch.equal`), where gradients land and that a training step changes nothing of the base, buffers included, that
moving Attn+ changes the output, `unboost`, and the delta's round trip.

`records.jsonl` in OUT holds a line a model; a second run goes on where the first stopped (`--again VERDICT` repeats
those of that verdict). `coverage.md` and `coverage.json` are written at the end; with `--page`, the tables are put
between that page's markers.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import multiprocessing
import platform
import resource
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spatialboost.experiments.coverage_table import VERDICTS, table

MARKERS = ("<!-- coverage: begin -->", "<!-- coverage: end -->")


def library(name: str) -> Any:
    if name == "timm":
        import coverage_timm as host
    else:
        import coverage_transformers as host
    return host


def examine(library_name: str, name: str) -> dict[str, Any]:
    """The record of one model; whatever goes wrong on the way is its verdict."""
    from spatialboost.boosting.find import find_attention
    from spatialboost.experiments.coverage import NotExaminedError, Record, attention_sites, check

    record, host, start = Record(library_name, name), library(library_name), time.perf_counter()
    try:
        if library_name == "transformers":
            check(record, host.build(name))
        elif find_attention((whole := host.build_on_meta(name)).model) or attention_sites(whole):
            check(record, host.build(name, whole.model))
        else:
            record.verdict, record.reason = "no self-attention", "nothing in its forward weighs tokens"
    except NotExaminedError as error:
        record.verdict, record.reason = "not examined", str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        record.verdict = "failed"
        record.reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"[:400]
    record.seconds = round(time.perf_counter() - start, 2)
    return record.as_json()


def serve(connection: Any, gigabytes: float) -> None:
    """A process that examines models until it is told to stop: one that hangs or eats the memory ends alone."""
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")
    import logging

    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    while (job := connection.recv()) is not None:
        connection.send(examine(*job))
        gc.collect()  # models hold cycles, and the next one needs the room
        gc.freeze()  # what is left belongs to the libraries


class Worker:
    def __init__(self, gigabytes: float) -> None:
        self.gigabytes = gigabytes
        self.process: Any = None

    def examine(self, job: tuple[str, str], seconds: float) -> dict[str, Any]:
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.connection, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other, self.gigabytes), daemon=True)
            self.process.start()
            other.close()
        self.connection.send(job)
        try:
            if self.connection.poll(seconds):
                return self.connection.recv()
            reason = f"not done after {seconds:.0f} s"
        except (EOFError, ConnectionResetError):
            reason = f"its process ended (limit {self.gigabytes} GB)"
        self.close()
        return {"library": job[0], "name": job[1], "verdict": "failed", "reason": reason}

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = None


def write_table(records: Iterable[dict[str, Any]], out: Path, page: Path | None) -> None:
    rows = sorted(records, key=lambda r: (r["library"], r["name"]))
    (out / "coverage.json").write_text(json.dumps({"machine": machine(), "models": rows}, indent=1) + "\n")
    text = table(rows, machine())
    (out / "coverage.md").write_text(text)
    if page is not None:
        before, after = page.read_text().split(MARKERS[0])[0], page.read_text().split(MARKERS[1])[1]
        page.write_text(f"{before}{MARKERS[0]}\n{text}{MARKERS[1]}{after}")


def machine() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "timm", "transformers")
    return {"Python": f"{platform.python_version()} ({platform.machine()} CPU, one thread)"} | {
        n: version(n) for n in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--library", choices=("timm", "transformers"), action="append")
    parser.add_argument("--match", nargs="+", default=["*"], help="patterns of model names")
    parser.add_argument("--seconds", type=float, default=600, help="at most, for one model")
    parser.add_argument("--gigabytes", type=float, default=14, help="at most, for one model")
    parser.add_argument("--page", type=Path, help="page whose markers take the tables")
    parser.add_argument("--again", action="append", choices=VERDICTS, default=[], help="repeat what ended like this")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "records.jsonl"
    records: dict[tuple[str, str], dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            record = json.loads(line)
            records[record["library"], record["name"]] = record

    worker = Worker(arguments.gigabytes)
    jobs = [(n, m) for n in arguments.library or ("timm", "transformers") for m in library(n).names()]
    with path.open("a") as log:
        for job in (j for j in jobs if any(fnmatch.fnmatch(j[1], pattern) for pattern in arguments.match)):
            if job in records and records[job]["verdict"] not in arguments.again:
                continue
            records[job] = record = worker.examine(job, arguments.seconds)
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(*job, record["verdict"], record["reason"][:150], sep="\t", flush=True)
    worker.close()
    print(Counter(r["verdict"] for r in records.values()))
    write_table(records.values(), arguments.out, arguments.page)


if __name__ == "__main__":
    main()

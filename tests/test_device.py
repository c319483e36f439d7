"""`benchmarks/device.py` at tiny size on the CPU: what it measures, and how it treats cases that fail."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ["--device", "cpu", "--tiny", "--seconds", "0.01", "--conversations", "24"]


@pytest.fixture
def device(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import device

    return device


def in_this_process(device, monkeypatch) -> None:
    """Run each case here: a process of its own takes seconds to import torch."""

    def run(case, args, seconds):
        device.write(case.file(args.out), {"case": case.name, "rows": device.run_case(case, args)})

    monkeypatch.setattr(device, "run_process", run)


def test_every_stage_and_its_tables(device, monkeypatch, tmp_path, capsys):
    in_this_process(device, monkeypatch)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{device.MARKERS[0]}\nold\n{device.MARKERS[1]}\nafter\n")
    out = tmp_path / "out"
    device.main(["--out", str(out), *TINY, "--page", str(page)])
    said = capsys.readouterr().out
    assert "kernels: 15 of 15 cases\n" in said and "proof: 1 of 1 cases\n" in said
    cases = json.loads((out / "device.json").read_text())["cases"]

    for kernel in ("host", "auto", "sdpa", "math"):
        for dtype in device.DTYPES:
            rows = cases[f"kernels: {kernel} {dtype}"]["result"]["rows"]
            assert all(row.get("agrees") for row in rows), [row for row in rows if not row.get("agrees")]
            assert len(rows) == (2 if kernel == "host" else 10)
    xformers = cases["kernels: xformers float32"]["result"]["rows"]
    assert all("xformers" in row["failed"] for row in xformers)  # it has no operator for a CPU

    step = cases["overhead: tiny 32 2 boosted, sdpa"]["result"]["rows"][1]
    assert step["mode"] == "step" and step["milliseconds"] > 0 and step["megabytes"] > 1
    proof = cases["proof: demo"]["result"]["rows"]["probes"]["depth"]
    assert set(proof) == {"base", "boosted", "shuffled answers", "constant depth"}

    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert re.search(r"\| sdpa float16 \| 10 of 10 \|", text) and "| smollm2 | not measured |" in text
    assert re.search(r"\| boosted, host \(default\) \| [\d.]+ \| [\d.]+ \| 1\.\d+ \|", text)


def test_a_table_without_results_says_so(device, tmp_path):
    args = device.parse(["--out", str(tmp_path), "--stages"])
    first = next(case for case in device.cases(args) if case.stage == "overhead")
    device.main(["--out", str(tmp_path), "--stages"])
    text = (tmp_path / "device.md").read_text()
    assert "Device: none; everything below was not measured." in text and text.count("cases: not measured.") == 3
    device.write(first.file(tmp_path), {"case": first.name, "failed": "out of memory"})
    device.main(["--out", str(tmp_path), "--stages"])
    text = (tmp_path / "device.md").read_text()
    assert "ViT-B/16, 224 px, batch 32:\n" in text and "| base, full fine-tuning | out of memory |" in text
    assert "| boosted, host (default), CUDA graphs | not measured |" in text
    assert re.search(r"ViT-L/16, 518 px, batch 1: \d+ variants not measured", text)


def test_a_case_that_fails_is_a_row_and_is_not_run_again(device, monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, sys, time
        case = sys.argv[sys.argv.index("--case") + 1]
        if case.endswith("float32"):
            sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
        if case.endswith("bfloat16"):
            os.kill(os.getpid(), signal.SIGKILL)
        if case.startswith("host"):
            time.sleep(60)
        sys.exit("Traceback ...\\nValueError: no such thing")
        """)
    )
    monkeypatch.setattr(device, "SCRIPT", str(script))
    monkeypatch.setattr(device, "KERNELS", ("host", "math"))
    args = device.parse(["--out", str(tmp_path / "out"), *TINY, "--minutes", "0.03"])
    assert device.run_stage("kernels", args) == "kernels: 2 of 6 cases; call the same command again for the rest"
    assert device.run_stage("kernels", args).startswith("kernels: 3 of 6")  # now it had a whole stage
    file = next(case for case in device.cases(args) if case.name == "host float16").file(args.out)
    assert json.loads(file.read_text())["failed"] == "not finished within 2 s"
    args.minutes = 1.0
    assert device.run_stage("kernels", args) == "kernels: 6 of 6 cases"
    found = {name: case["result"] for name, case in device.results(args).items() if "kernels: math" in name}
    assert [each["failed"] for each in found.values()] == [
        "out of memory",
        "ended by SIGKILL",
        "ValueError: no such thing",
    ]


def test_results_of_another_machine_are_refused(device, tmp_path):
    device.write(tmp_path / "machine.json", {"machine": "another"})
    with pytest.raises(SystemExit, match=r"was measured on another machine \(another, now .*give a new folder"):
        device.main(["--out", str(tmp_path), *TINY])

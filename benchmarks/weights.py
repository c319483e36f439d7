"""Deltas: size, time and memory to save and load them, which libraries can share them, errors for damaged ones.

    python benchmarks/weights.py                        # ViT-B/16, on one thread; about two minutes
    python benchmarks/weights.py --depth 2 --repeats 3  # a quick look

Times are processor times of one thread with the files in the page cache. The ways to load take turns, so that their
ratios are correct on a machine that also does other work.
Every tensor gets fresh memory (`MALLOC_MMAP_THRESHOLD_`), because
reused memory is sometimes faster. Memory is measured in new processes. Weights are random; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

import spatialboost as sb

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from deltas import CONFIG, WEIGHTS, rewrite, save_tiny
from host_models import HOSTS, perturb
from libraries import ENCODERS, REFUSED, build, features

MB = 1e6


def make_base(depth: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_base_patch16_224", num_classes=0, depth=depth).eval()


# --- time


def load_times(depth: int, folder: Path, repeats: int) -> dict[str, float]:
    """Processor seconds for each way to load: the fastest of some repeats, in which the ways take turns."""
    path, plain, boosted = folder / WEIGHTS, make_base(depth), sb.load_pretrained(make_base(depth), folder)
    existing = {key: torch.zeros(tensor.shape) for key, tensor in load_file(path).items()}

    def into_new_memory() -> None:
        kept = {key: tensor.to(torch.float32, copy=True) for key, tensor in load_file(path).items()}
        assert kept

    def into_existing_memory() -> None:
        for key, tensor in load_file(path).items():
            existing[key].copy_(tensor)

    ways: dict[str, Callable[[], object]] = {
        "safetensors alone, into new memory": into_new_memory,
        "load_pretrained, onto a plain model": lambda: sb.load_pretrained(plain, folder),
        "safetensors alone, into existing memory": into_existing_memory,
        "load_pretrained, onto a boosted model": lambda: sb.load_pretrained(boosted, folder),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, act in ways.items():
            start = time.process_time()
            act()
            found[way].append(time.process_time() - start)
            if "plain" in way:
                sb.unboost(plain)
    return {way: min(seconds) for way, seconds in found.items()}


# --- memory


def private_bytes() -> int:
    """Bytes of this process that are not a view of a file."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


@contextmanager
def peak() -> Iterator[list[int]]:
    """The largest private memory while the context lasts, sampled every half millisecond."""
    seen, done = [private_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.0005):
            seen[0] = max(seen[0], private_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen[0] = max(seen[0], private_bytes())


def measure(what: str, depth: int, folder: str, repeats: int) -> None:
    """In a separate process: print times of loading, or private memory before, after and at its peak, as JSON."""
    torch.set_num_threads(1)
    if what == "times":
        print(json.dumps(load_times(depth, Path(folder), repeats)))
        return
    sb.load_pretrained(make_base(1), sb.save_pretrained(sb.boost(make_base(1)), folder + ".warm"))  # imports, pools
    model = make_base(depth)
    if what != "load onto a plain model":
        perturb(sb.boost(model))
    before = private_bytes()
    with peak() as seen:
        if what == "save":
            sb.save_pretrained(model, folder + ".again")
        elif what == "save in bfloat16":
            sb.save_pretrained(model, folder + ".again", dtype=torch.bfloat16)
        else:
            sb.load_pretrained(model, folder)
    print(json.dumps({"before": before, "after": private_bytes(), "peak": seen[0]}))


def in_process(what: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run `measure` in a new process and return what it prints."""
    line = [sys.executable, __file__, "--measure", what, "--folder", str(folder)]
    line += ["--depth", str(args.depth), "--repeats", str(args.repeats)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


# --- libraries


def matrix(folder: Path) -> list[str]:
    """A table for each encoder: saved by the row, loaded by the column; each cell is the largest difference."""
    lines = []
    for encoder, copies in ENCODERS.items():
        names = list(copies)
        lines += ["", f"| {encoder}: saved by, loaded by | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
        for saved_by in names:
            trained = perturb(sb.boost(build(encoder, saved_by)))
            expected = features(encoder, saved_by, trained)
            sb.save_pretrained(trained, folder)
            cells = []
            for loaded_by in names:
                model = build(encoder, loaded_by)
                if (encoder, saved_by, loaded_by) in REFUSED:
                    cells.append("refused" if error_of(lambda model=model: sb.load_pretrained(model, folder)) else "")
                    continue
                found = features(encoder, loaded_by, sb.load_pretrained(model, folder))
                cells.append(f"{(found - expected).abs().max().item():.1e}")
            lines.append(f"| {saved_by} | {' | '.join(cells)} |")
    return lines


# --- damage


def error_of(act: Callable[[], object]) -> str:
    """The error that something raises; fails if it raises none."""
    try:
        act()
    except sb.SpatialBoostError as error:
        return str(error)
    raise AssertionError("this was accepted")


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def leave(folder: Path) -> None:
    index = folder / f"{WEIGHTS}.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["layers.0.gate"] = "../../../etc/passwd"
    index.write_text(json.dumps(content))


def lose(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def huge(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 30)


def nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tensors | {"layers.0.v.bias": torch.full_like(tensors["layers.0.v.bias"], float("nan"))}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "the last 100 bytes are missing": lambda f: cut(f / WEIGHTS),
    "a flipped bit in a weight": lambda f: flip(f / WEIGHTS, -7),
    "a flipped bit in the header": lambda f: flip(f / WEIGHTS, (f / WEIGHTS).read_bytes().index(b"num_heads")),
    "a pickle under the name of safetensors": lambda f: (f / WEIGHTS).write_bytes(pickle.dumps({"a": 1})),
    "a tensor is missing": lambda f: rewrite(f, lambda t: {k: v for k, v in t.items() if k != "layers.1.q.weight"}),
    "an additional tensor": lambda f: rewrite(f, lambda t: t | {"layers.7.gate": torch.zeros(32)}),
    "a tensor of another shape": lambda f: rewrite(f, lambda t: t | {"layers.0.gate": torch.zeros(1)}),
    "NaN": lambda f: rewrite(f, nan),
    "a newer format": lambda f: rewrite(f, format_version=3),
    "a config of 1 GB": lambda f: huge(f / CONFIG),
    "a config that is not JSON": lambda f: (f / CONFIG).write_text("["),
    "a shard is missing": lose,
    "a shard that leads out of the folder": leave,
    "another base of the same width": lambda f: None,
}


def damage(folder: Path) -> list[str]:
    """The error for each kind of damage; after each, the model is compared bit for bit."""
    lines = ["| damage | error |", "|---|---|"]
    for what, harm in DAMAGE.items():
        shutil.rmtree(folder, ignore_errors=True)
        save_tiny(folder, max_shard_size="10KB" if "shard" in what else "5GB")
        harm(folder)
        model = HOSTS["timm"].make(seed=5 if "another base" in what else 0)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        message = error_of(lambda model=model: sb.load_pretrained(model, folder)).replace(f"{folder}/", "")
        after = model.state_dict()
        assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
        lines.append(f"| {what} | {message.replace('|', ' ').replace(str(folder), 'the folder')} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--measure")
    parser.add_argument("--folder")
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.depth, args.folder, args.repeats)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        base = make_base(args.depth)
        own = sum(p.numel() for p in base.parameters())
        model = perturb(sb.boost(base), 0.01)
        folder = sb.save_pretrained(model, place / "bf16", dtype=torch.bfloat16)
        full = sb.save_pretrained(model, place / "fp32")
        layer = sum(p.numel() for _, p in sb.named_parameters(model)) * 4 / args.depth
        machine = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread; torch {torch.__version__}"
        print(f"vit_base_patch16_224, depth {args.depth}; {machine}\n")
        print("| file | MB |\n|---|---|")
        print(f"| base model, bfloat16 | {own * 2 / MB:.1f} |")
        print(f"| delta, bfloat16 | {(folder / WEIGHTS).stat().st_size / MB:.1f} |")
        print(f"| delta, float32 | {(full / WEIGHTS).stat().st_size / MB:.1f} |")

        print("\n| load the bfloat16 delta into float32 | ms, fastest of", args.repeats, "| ratio |\n|---|---|---|")
        seconds = list(in_process("times", args, folder).items())
        for (alone, least), (ours, taken) in zip(seconds[::2], seconds[1::2], strict=True):
            print(f"| {alone} | {least * 1e3:.1f} | |\n| {ours} | {taken * 1e3:.1f} | {taken / least:.2f} |")

        print(f"\nOne boosted layer takes {layer / MB:.1f} MB in float32.\n")
        print("| private memory, MB | before | after | peak | peak above before and after |\n|---|---|---|---|---|")
        for what in ("save", "save in bfloat16", "load onto a plain model", "load onto a boosted model"):
            seen = in_process(what, args, folder)
            above = seen["peak"] - max(seen["before"], seen["after"])
            numbers = (seen["before"], seen["after"], seen["peak"], above)
            print(f"| {what} | {' | '.join(f'{n / MB:.1f}' for n in numbers)} |")
        print("\n".join(matrix(place / "matrix")))
        print("\n" + "\n".join(damage(place / "damage")))


if __name__ == "__main__":
    main()

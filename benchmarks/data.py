"""How fast data sets are built, and what a killed build leaves behind.

    python benchmarks/data.py speed --frames PATH_TO_RGBD_FOLDER  # against decoding; two processes against one
    python benchmarks/data.py kills --times 20                    # SIGKILL at random moments, then resume
    python benchmarks/data.py opening --files 200000              # a folder of many photographs
    python benchmarks/data.py furnished --places 60               # rooms with furniture against plain rooms
    python benchmarks/data.py frames --frames FOLDER              # how many frames give a conversation
    python benchmarks/data.py poses --frames FOLDER               # errors of `matched-poses`
    python benchmarks/data.py gravity --frames FOLDER --up 0 1 0  # above/below against the true heights
    python benchmarks/data.py masks --photos COCO128 --model FOLDER  # IoU of MobileSAM's masks
    python benchmarks/data.py text-only --seeds 3 --balance -- --source rooms --num 1000 --size 80
    python benchmarks/data.py check --rooms 10000 --size 96       # every answer, against the cues

`speed` prints processor seconds for decoding an item and for turning ready cues into a row, and the ratio of both; then
one and two processes, which take turns: items a second, and the processor seconds of all processes together. The second
figure does not depend on what else the machine does. Two processes cannot be faster than 2 times processor seconds of
one over those of two. `kills` ends a build with SIGKILL again and again until it is
complete, and compares the files with those of a build that was never interrupted: the same bytes, so no row is lost and
none is there twice.

`text-only` builds a data set several times with different seeds (the options after ``--`` are those of `spatialboost
data build`) and prints for each kind of question, as means over the builds: turns, the best constant answer, the
answers of a reader of the text alone, their difference with its standard error, and the share of "yes" or of the first
choice. With `--balance` a second table is about the balanced data sets. `check` recomputes every answer of many rooms
from their depth maps and masks.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import data_cues
import numpy as np
from PIL import Image

from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.dataset.balance import balance_dataset
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.row import make_row
from spatialboost.scenes.dataset.text_only import measure_kind, read_turns
from spatialboost.scenes.dataset.writer import build_dataset, build_settings
from spatialboost.scenes.furnished.source import Furnished
from spatialboost.scenes.images.folder import Photographs
from spatialboost.scenes.questions.checker import check_against_cues
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import PAPER, TurnPlan
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.recipe import ExtractorSpec, Recipe
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.rooms.render import render_rooms
from spatialboost.scenes.scene import as_scene
from spatialboost.scenes.source_registry import SourceOptions

SIDES = (("Yes", "No"), ("name 0", "name 1"), ("Point 1 is closer than Point 2.", "Point 2 is closer than Point 1."))
BUILD = "import sys; from spatialboost.cli import main; main()"


def per_item(frames: RGBDFolder, objects: Recipe) -> None:
    """Processor time of decoding, of questions, and of encoding, for each frame."""
    items, views = range(0, len(frames), max(1, len(frames) // 60)), objects()
    settings = build_settings(frames, 0, "forward", TurnPlan(), 256, True, 95)
    times: dict[str, list[float]] = {"decode": [], "questions": [], "encode": []}
    for item in items:
        start = time.process_time()
        frames[item]
        decoded = time.process_time()
        view = views[item]
        ready = time.process_time()
        talk = build_conversation(view, seed=item)
        asked = time.process_time()
        make_row(as_scene(view), talk, item, settings)
        for name, seconds in zip(times, (decoded - start, asked - ready, time.process_time() - asked), strict=True):
            times[name].append(seconds)
    mean = {name: 1000 * float(np.mean(values)) for name, values in times.items()}
    print(", ".join(f"{name} {value:.1f} ms" for name, value in mean.items()), f"for each of {len(items)} frames")
    print(f"questions / decoding: {mean['questions'] / mean['decode']:.2f}")


def processes(num: int, size: int, repeats: int) -> None:
    """Wall time and processor time of a build in one process and in two."""
    for kind, recipe in (
        ("rooms", Recipe("rooms", SourceOptions(num=num, size=size))),
        (
            "rooms with superpixels",
            Recipe("rooms", SourceOptions(num=num, size=size), (ExtractorSpec("superpixels", {}),)),
        ),
    ):
        wall, used = {1: float("inf"), 2: float("inf")}, {1: float("inf"), 2: float("inf")}
        for _ in range(repeats):
            for count in wall:
                with tempfile.TemporaryDirectory() as out:
                    start, before = time.perf_counter(), processor_seconds()
                    build_dataset(recipe, out, rows_per_shard=64, with_depth=True, progress=False, processes=count)
                    wall[count] = min(wall[count], time.perf_counter() - start)
                    used[count] = min(used[count], processor_seconds() - before)
        ratio, bound = wall[1] / wall[2], 2 * used[1] / used[2]
        print(f"{kind}: {num / wall[1]:.1f} items/s in one process, {num / wall[2]:.1f} in two: {ratio:.2f} times")
        print(f"    processor seconds: {used[1]:.1f} and {used[2]:.1f}, so at most {bound:.2f} times")


def processor_seconds() -> float:
    """Of this process and of its ended children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def opening(num: int) -> None:
    """Wall time to open a folder of photographs. They are small files of different sizes, in folders of 1,000."""
    with tempfile.TemporaryDirectory() as folder:
        stream = io.BytesIO()
        Image.new("RGB", (16, 16)).save(stream, "JPEG")
        for number in range(num):
            path = Path(folder) / f"{number // 1000:04d}" / f"{number:06d}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(stream.getvalue() + b"%d" % number + bytes(number % 997))
        start = time.perf_counter()
        views = Photographs(folder)
        opened = time.perf_counter()
        assert len(views) == num and views[num // 2].image_HW3.shape == (16, 16, 3)
        print(
            f"{num} photographs: opened in {opened - start:.2f} s, one read {time.perf_counter() - opened:.3f} s later"
        )


def furnished(num: int, size: int) -> None:
    """Processor time of furnished places when their models are new, and when they are known; and of plain rooms."""
    places, rooms = Furnished(num, size=size), Rooms(num, size=size)

    def seconds(views: Furnished | Rooms) -> float:
        start = time.process_time()
        for item in range(num):
            with contextlib.suppress(*BAD_ITEM):
                views[item]
        return (time.process_time() - start) / num

    new, warm, plain = seconds(places), float("inf"), float("inf")
    for _ in range(3):  # in turns; a machine with other work gives too large figures, never too small ones
        warm, plain = min(warm, seconds(places)), min(plain, seconds(rooms))
        rooms = Rooms(num, size=size)
    print(f"furnished: {1 / warm:.1f} places a second of one core; rooms {1 / plain:.1f}; ratio {plain / warm:.2f}")
    print(f"the first {num} places, whose models are read: {new:.2f} s each")


def kills(times: int, num: int, size: int, seed: int) -> None:
    """End a build with SIGKILL at random moments."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken, cache = (Path(folder) / name for name in ("whole", "broken", "cache"))
        options = ["--num", num, "--size", size, "--rows-per-file", 8, "--extract", "superpixels"]
        start = time.monotonic()
        run(["--out", whole, *options]).wait()
        took = time.monotonic() - start
        killed = 0
        while killed < times:
            process = run(["--out", broken, *options, "--processes", 1 + killed % 2, "--cache", cache])
            delay = rng.uniform(0.2, 1.0) * took / 3
            try:
                if process.wait(timeout=delay) == 0:
                    content = files(broken)
                    for name in rng.sample(sorted(content), len(content) // 2):  # go on with half of the files
                        (broken / name).unlink()
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        assert run(["--out", broken, *options]).wait() == 0
        found, expected = files(broken), files(whole)
        assert len(found) == len(expected)
        same = sum(found.get(name) == content for name, content in expected.items())
        left = [path.name for path in broken.iterdir() if path.suffix in (".tmp", ".lock")]
        print(f"{killed} kills: {same} of {len(expected)} files have the same bytes; left over: {left}")


def text_only(seeds: int, balance: bool, options: list[str]) -> None:
    """What the text alone tells, in several builds of the same views."""
    tables = {"as built": KindTable()} | ({"balanced": KindTable()} if balance else {})
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            data, balanced = Path(folder) / f"seed {seed}", Path(folder) / f"balanced {seed}"
            command = ["--out", data, "--seed", seed, "--cache", Path(folder) / "cache", "--no-depth", *options]
            if run(command).wait():
                sys.exit(f"data build failed: spatialboost data build {' '.join(map(str, command))}")
            tables["as built"].add(data)
            if balance:
                report = balance_dataset(data, balanced)
                left_out = (
                    f"{report.left_out.total()} of {report.turns.total()} turns left out: {dict(report.left_out)}"
                )
                print(f"seed {seed}: {left_out}", flush=True)
                tables["balanced"].add(balanced)
    for name, table in tables.items():
        print(f"\n{name:22} {'turns':>6} {'constant':>9} {'text':>6} {'difference':>16}  yes or first")
        table.show()


class KindTable:
    """For each kind of question, the figures of several data sets."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
        self.labels: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, folder: Path) -> None:
        """Read one data set."""
        rows = open_rows([folder]).select_columns(["messages", "meta"])
        for kind, turns in read_turns((row["messages"], json.loads(row["meta"])) for row in rows).items():
            right = measure_kind(turns)
            self.labels[kind].update(turn.label for turn in turns)
            if right.text_only is not None:
                self.found[kind].append((right.asked, 100 * right.prior, 100 * right.text_only))

    def show(self) -> None:
        """Print means, with standard errors over the data sets."""
        for kind, builds in self.found.items():
            asked, prior, right = np.array(builds).T
            error = np.std(right - prior, ddof=1) / np.sqrt(len(builds)) if len(builds) > 1 else float("nan")
            labels = self.labels[kind]
            one, other = next((pair for pair in SIDES if labels[pair[0]]), ("", ""))
            total = labels[one] + labels[other]
            even = f"{100 * labels[one] / total:.1f} +- {50 / np.sqrt(total):.1f}" if total else ""
            difference = f"{np.mean(right - prior):+.1f} +- {error:.1f}"
            print(f"{kind:22} {asked.mean():6.0f} {prior.mean():9.1f} {right.mean():6.1f} {difference:>16}  {even}")


def check(rooms: int, size: int, first: int) -> None:
    """Recompute every answer about rooms, with the plan of one view and the templates of visual questions."""
    plan, turns, wrong = TurnPlan({**PAPER, "vqa": 3}), 0, Counter[str]()
    for start in range(first, first + rooms, 64):
        for seed, view in enumerate(render_rooms(range(start, min(start + 64, first + rooms)), size=size), start):
            talk = build_conversation(view, seed=seed, plan=plan)
            turns += len(talk.meta["turns"])
            wrong.update(check_against_cues(talk.messages, talk.meta, view))
    print(f"{rooms} rooms, {turns} turns: {wrong.total()} problems")
    for problem, times in wrong.most_common(10):
        print(f"{times:6} {problem}")


def run(words: list[object]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", BUILD, "--quiet", "data", "build", *map(str, words)]
    return subprocess.Popen(command, env={**os.environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed")
    speed.add_argument("--frames", type=Path)
    speed.add_argument("--rooms", type=int, default=512)
    speed.add_argument("--size", type=int, default=224)
    speed.add_argument("--repeats", type=int, default=3)
    kill = commands.add_parser("kills")
    kill.add_argument("--times", type=int, default=20)
    kill.add_argument("--rooms", type=int, default=160)
    kill.add_argument("--size", type=int, default=96)
    kill.add_argument("--seed", type=int, default=0)
    folders = commands.add_parser("opening")
    folders.add_argument("--files", type=int, default=200_000)
    places = commands.add_parser("furnished")
    places.add_argument("--places", type=int, default=60)
    places.add_argument("--size", type=int, default=224)
    for name in ("frames", "poses", "gravity"):
        each = commands.add_parser(name)
        each.add_argument("--frames", type=Path, required=True)
        each.add_argument("--size", type=int, default=240)
        if name == "poses":
            each.add_argument("--apart", type=int, default=5)
            each.add_argument("--num", type=int, default=40)
        if name == "gravity":
            each.add_argument("--up", type=float, nargs=3)
            for option in ("images", "intrinsics", "poses"):
                each.add_argument(f"--{option}")
    photos = commands.add_parser("masks")
    photos.add_argument("--photos", type=Path, required=True)
    photos.add_argument("--model", type=Path, required=True)
    photos.add_argument("--num", type=int, default=24)
    told = commands.add_parser("text-only")
    told.add_argument("--seeds", type=int, default=3)
    told.add_argument("--balance", action="store_true")
    told.add_argument("options", nargs="*", help="after --: options of `spatialboost data build`")
    answers = commands.add_parser("check")
    answers.add_argument("--rooms", type=int, default=10_000)
    answers.add_argument("--size", type=int, default=96)
    answers.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    if args.command == "text-only":
        text_only(args.seeds, args.balance, args.options)
    elif args.command == "check":
        check(args.rooms, args.size, args.first)
    elif args.command == "opening":
        opening(args.files)
    elif args.command == "furnished":
        furnished(args.places, args.size)
    elif args.command == "frames":
        data_cues.frames(args.frames, args.size)
    elif args.command == "poses":
        data_cues.poses(args.frames, args.apart, args.num)
    elif args.command == "gravity":
        options = ReaderOptions(images=args.images, intrinsics=args.intrinsics, poses=args.poses)
        data_cues.gravity(args.frames, args.size, args.up, options)
    elif args.command == "masks":
        data_cues.masks(args.photos, args.model, args.num)
    elif args.command == "kills":
        kills(args.times, args.rooms, args.size, args.seed)
    else:
        if args.frames:
            objects = Recipe("rgbd", SourceOptions(path=args.frames), (ExtractorSpec("superpixels", {}),))
            per_item(RGBDFolder(args.frames), objects)
        processes(args.rooms, args.size, args.repeats)


if __name__ == "__main__":
    main()

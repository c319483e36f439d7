"""The whole path in one command: rooms, conversations, three stages, a control, a probe, a delta, a report."""

from __future__ import annotations

import base64
import copy
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spatialboost.boosting import status
from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.pretrained import load_pretrained, save_pretrained

logger = logging.getLogger(__name__)

SIZE, GRID = 128, (8, 8)  # what the demo's encoder was pretrained at
MARKER = ".spatialboost-demo"  # what says that a folder's content is ours to write over
PROBE_ROOMS, TEST_ROOMS = 500_000, 600_000  # first seeds: rooms that no stage has seen


@dataclass(frozen=True)
class Settings:
    """How much the demo does.

    Attributes:
        rooms: Procedural rooms that teach.
        held_out: Rooms that are asked about after stage 2.
        depth_turns: Questions on the depth at a point, in each conversation.
        closer_turns: Questions on which of two points is closer.
        steps: Of stages 1, 2 and 3.
        lr: Highest learning rates of stages 1, 2 and 3.
        matrix_lr: Highest rate of Muon, which trains the matrices of stage 3.
        train_projector: Whether stage 3 trains the projector too, as in one of the paper's two accounts.
        batch_size: Conversations a step.
        probe: Rooms that the depth probe is fitted on, and measured on.
    """

    rooms: int = 3000
    held_out: int = 48
    depth_turns: int = 12
    closer_turns: int = 0
    steps: tuple[int, int, int] = (100, 30, 250)
    lr: tuple[float, float, float] = (1e-3, 3e-4, 1e-3)
    matrix_lr: float = 0.006
    train_projector: bool = True
    batch_size: int = 16
    probe: tuple[int, int] = (500, 300)


# SmolLM2 has 300 times the parameters of the small model, so a CPU gets through fewer and shorter conversations.
SMOLLM2 = Settings(
    rooms=300,
    held_out=8,
    depth_turns=3,
    closer_turns=2,
    steps=(5, 10, 10),
    lr=(1e-3, 1e-4, 1e-3),
    batch_size=2,
)
TINY = Settings(rooms=24, held_out=4, depth_turns=2, steps=(2, 4, 2), batch_size=4, probe=(8, 4))


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        out: Folder with ``report.html``, ``result.json``, ``delta/``, ``conversations.html`` and the figures.
        probe: Depth probe of base, boosted and the control.
        reload_difference: Largest difference between the trained encoder's tokens and those of a fresh one with the
            saved delta.
        seconds: Of each part.
    """

    out: Path
    probe: Any
    reload_difference: float
    seconds: dict[str, float]


def load_encoder() -> nn.Module:
    """The demo's encoder: a ViT of 3.7 M parameters, taught by masked image modelling on procedural rooms alone.

    Example:
        >>> encoder = load_encoder()
        >>> encoder.embed_dim, len(encoder.blocks)
        (192, 8)

    Made by ``scripts/pretrain_encoder.py``, shipped as float16.
    """
    from spatialboost.encoders import EncoderConfig, open_encoder

    folder = files("spatialboost") / "assets" / "encoder"
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with as_file(folder / "model.safetensors") as weights:
        return open_encoder(
            EncoderConfig(
                name="VisionTransformer",
                kwargs=facts["architecture"],
                weights=weights,
                mean=tuple(facts["mean"]),
                std=tuple(facts["std"]),
            ),
            seed=None,  # the demo's own seed is set before: what is drawn after the encoder depends on it
        )


def load_language_model() -> tuple[Any, Any]:
    """The demo's language model and its tokenizer: a Llama of 0.5 M parameters that has never seen an image.

    Example:
        >>> llm, tokenizer = load_language_model()
        >>> llm.config.hidden_size, tokenizer.tokenize("What is (0.49, 0.60)")
        (128, ['What', ' is', ' (0.49, 0.60)'])

    Made by ``scripts/pretrain_llm.py`` on conversations about depth maps, shipped as float16.
    """
    from spatialboost.vlm.llms import load_llm

    with as_file(files("spatialboost") / "assets" / "llm") as folder:
        return load_llm(folder)


def run(
    *, out: Path | str = "demo", llm: str = "default", seed: int = 0, settings: Settings | None = None
) -> DemoResult:
    """Boost a small encoder by way of a language model, and measure what came of it.

    Example:
        >>> result = run(out="demo")  # doctest: +SKIP
        >>> print(result.probe)  # doctest: +SKIP

    The control is a second stage 3, the same but that its answers belong to other rooms: what boosting does to an
    encoder where there is nothing to learn.

    Args:
        out: Folder for all that is made; one of an earlier demo is written over.
        llm: "default" is a small language model that knows questions on points; "smollm2", a folder or a Hub id is a
            larger one, which is slow on a CPU.
        seed: Of rooms, batches and new weights.
        settings: How much to do; None goes by `llm`.
    """
    from spatialboost.probes import depth_probe
    from spatialboost.scenes.dataset.reader import open_rows
    from spatialboost.scenes.dataset.viewer import write_page
    from spatialboost.scenes.dataset.writer import build_dataset
    from spatialboost.scenes.questions.plan import TurnPlan
    from spatialboost.scenes.rooms import Rooms
    from spatialboost.teachers.language import (
        AlignConfig,
        BoostConfig,
        ChatDataset,
        InstructConfig,
        align,
        answer_accuracy,
        boost_encoder,
        instruct,
    )
    from spatialboost.training import RowImages
    from spatialboost.training.report import gates_per_layer, plot_losses
    from spatialboost.vlm.llms import load_llm
    from spatialboost.vlm.model import SpatialVLM, build_projector

    small = llm == "default"
    settings = settings or (Settings() if small else SMOLLM2)
    out = _prepare(Path(out))
    clock = _Clock()

    with clock("rooms and conversations"):
        plan = TurnPlan({"depth": settings.depth_turns, "closer": settings.closer_turns})
        views = Rooms(settings.rooms, first=seed * settings.rooms, size=SIZE)
        report = build_dataset(views, out / "data", seed=seed, plan=plan, overwrite=True)
        # The paper's twelve turns, to be looked at: the stages keep to the depth of points, which a small model learns
        build_dataset(Rooms(16, first=PROBE_ROOMS, size=SIZE), out / "shown", with_depth=True, overwrite=True)
        write_page(out / "shown", out / "conversations.html", limit=8)
        rows = open_rows([out / "data"])
        cut = report.written - settings.held_out

    torch.manual_seed(seed)
    encoder = load_encoder()
    model, tokenizer = load_language_model() if small else load_llm(llm)
    first = build_projector(encoder, model)
    if small:
        nn.init.zeros_(first[-1].get_parameter("weight"))  # it has been taught that visual tokens of zeros say nothing
    vlm = SpatialVLM(encoder, model, projector=first, grid=GRID if small else None)
    images = RowImages(encoder, SIZE)
    teaching = ChatDataset(rows, images, tokenizer, numbers=range(cut))
    shuffled = ChatDataset(rows, images, tokenizer, numbers=range(cut), shuffle_answers=True, seed=seed)
    held_out = ChatDataset(rows, images, tokenizer, numbers=range(cut, report.written))

    common: dict[str, Any] = {"batch_size": settings.batch_size, "beta2": 0.95, "save_every": 0, "log_every": 10}
    stages = [{**common, "steps": s, "lr": lr} for s, lr in zip(settings.steps, settings.lr, strict=True)]
    fits: dict[str, Any] = {}
    with clock("stage 1"):
        fits["stage 1"] = align(vlm, teaching, AlignConfig(**stages[0]), folder=out / "stage1", seed=seed)
    with clock("stage 2"):
        instruction = InstructConfig(**stages[1])
        fits["stage 2"] = instruct(vlm, teaching, instruction, folder=out / "stage2", seed=seed)
    scores = {}
    with clock("answers after stage 2"):
        scores["stage 2"] = answer_accuracy(vlm, tokenizer, held_out, rows=settings.held_out)
    projector = copy.deepcopy(vlm.projector)  # both start stage 3 from the same one
    with clock("stage 3"):
        boosting = BoostConfig(
            **stages[2], matrix_lr=settings.matrix_lr, train_projector=settings.train_projector, kernel="auto"
        )
        fits["stage 3"] = boost_encoder(vlm, teaching, boosting, folder=out / "stage3", seed=seed)
    with clock("answers after stage 3"):
        scores["stage 3"] = answer_accuracy(vlm, tokenizer, held_out, rows=settings.held_out)
    with clock("control"):
        control = SpatialVLM(load_encoder(), vlm.llm, projector=projector, grid=GRID if small else None)
        fits["control"] = boost_encoder(control, shuffled, boosting, folder=out / "control", seed=seed)

    with clock("depth probe"):
        fit_on = Rooms(settings.probe[0], first=PROBE_ROOMS, size=SIZE)
        test_on = Rooms(settings.probe[1], first=TEST_ROOMS, size=SIZE)
        encoders = {"base": load_encoder(), "boosted": encoder.eval(), "shuffled answers": control.encoder.eval()}
        probe = depth_probe(encoders, fit_on, test_on, image_size=SIZE, progress=True)
        probe.save(out)

    with clock("save and load"):
        facts = {"objective": "language", "llm": llm, "settings": asdict(settings), "seed": seed}
        save_pretrained(encoder, out / "delta", base="spatialboost demo encoder", training=facts)
        difference = _compare(encoder, load_pretrained(load_encoder(), out / "delta").eval(), test_on)

    plot_losses({name: {"fit": asdict(fit)} for name, fit in fits.items()}, out / "losses.png")
    result = DemoResult(out, probe, difference, clock.seconds)
    facts = {
        "verdict": verdict(probe),
        "depth": probe.to_dict(),
        "scores": {stage: [score.to_json() for score in found] for stage, found in scores.items()},
        "gates": gates_per_layer(encoder),
        "reload_difference": difference,
        "seconds": clock.seconds,
        "skipped_rooms": sum(report.skipped.values()),
        "settings": asdict(settings),
        "llm": llm,
        "seed": seed,
    }
    (out / "result.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    _write_page(result, facts, str(status(encoder)))
    _say(result, facts)
    return result


def verdict(probe: Any) -> str:
    """One sentence on whether boosting helped, from the figures alone: paired over the draws of the probe.

    Example:
        >>> from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
        >>> runs = {"base": [0.50, 0.52], "boosted": [0.40, 0.41], "shuffled answers": [0.55, 0.56]}
        >>> rows = [ProbeRow(name, i, {"rmse": v}) for name, values in runs.items() for i, v in enumerate(values)]
        >>> verdict(ProbeResult("depth", {}, {"rmse": Metric("RMSE", "m")}, rows))
        'Boosted beats base (RMSE 0.405 m against 0.510 m) and the control with shuffled answers (0.555 m).'
    """
    values = {name: probe.values(name, "rmse") for name in ("base", "boosted", "shuffled answers")}
    mean = {name: sum(value) / len(value) for name, value in values.items()}
    wins = {
        name: sum(ours < theirs for ours, theirs in zip(values["boosted"], values[name], strict=True))
        for name in ("base", "shuffled answers")
    }
    draws = len(values["base"])
    if min(wins.values()) == draws:
        return (
            f"Boosted beats base (RMSE {mean['boosted']:.3f} m against {mean['base']:.3f} m) and the control with "
            f"shuffled answers ({mean['shuffled answers']:.3f} m)."
        )
    return (
        f"No effect is shown: boosted beats base in {wins['base']} of {draws} draws of the probe, and the control with "
        f"shuffled answers in {wins['shuffled answers']} (RMSE: boosted {mean['boosted']:.3f} m, base "
        f"{mean['base']:.3f} m, shuffled answers {mean['shuffled answers']:.3f} m)."
    )


class _Clock:
    """Seconds of each part, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> _Clock:
        self.name = name
        logger.info("%s ...", name)
        return self

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.name] = round(time.perf_counter() - self.began, 1)


def _prepare(out: Path) -> Path:
    """Make the folder, and take away what an earlier demo left; anything else in it is not ours to touch."""
    import shutil

    marker = out / MARKER
    if out.exists() and any(out.iterdir()) and not marker.is_file():
        raise SpatialBoostError(f"{out} is not empty and holds no earlier demo; give an empty or new folder with --out")
    for name in ("data", "shown", "stage1", "stage2", "stage3", "control", "delta"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return out


@torch.no_grad()
def _compare(ours: nn.Module, theirs: nn.Module, rooms: Any) -> float:
    from spatialboost.encoders import prepare_images

    pixels = prepare_images(ours, [rooms[i].image_HW3 for i in range(min(4, len(rooms)))], SIZE)
    first, second = (read_tokens(encoder, pixels).patches for encoder in (ours, theirs))
    return float((first - second).abs().max())


def _write_page(result: DemoResult, facts: Mapping[str, Any], layers: str) -> None:
    from jinja2 import Environment, PackageLoader

    def inline(name: str) -> str:
        return "data:image/png;base64," + base64.b64encode((result.out / name).read_bytes()).decode()

    environment = Environment(loader=PackageLoader("spatialboost", "templates"), autoescape=True)
    page = environment.get_template("demo.html.j2").render(
        facts=facts, probe=result.probe, layers=layers, picture=inline("depth.png"), losses=inline("losses.png")
    )
    (result.out / "report.html").write_text(page, encoding="utf-8")


def _say(result: DemoResult, facts: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    answers = Table(title="answers on held-out rooms", title_justify="left")
    for column in ("after", "question", "answered from", "right (lengths: within 25 %)", "relative error"):
        answers.add_column(column)
    for stage, scores in facts["scores"].items():
        for score in scores:
            error = "" if score["relative_error"] is None else f"{score['relative_error']:.3f}"
            right = f"{score['accuracy']:.1%} of {score['answers']}"
            answers.add_row(stage, score["kind"], score["answerer"], right, error)
    console.print(answers)
    console.print(result.probe.table())
    console.print(facts["verdict"])
    console.print(
        f"A fresh encoder with the saved delta sees the same: tokens differ by at most {result.reload_difference:.1g}."
    )
    console.print(f"{sum(result.seconds.values()):.0f} s in all. Look at {result.out / 'report.html'}", soft_wrap=True)

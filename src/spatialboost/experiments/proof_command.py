"""`spatialboost proof`: train an encoder in several ways, measure all of them, and write one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError


def proof(
    config: Annotated[
        str, typer.Option(help="A proof that comes with the library (tiny, small, smollm2, gpu), or a YAML file.")
    ] = "small",
    out: Annotated[
        Path, typer.Option(help="Folder of the proof; a second call goes on where the first stopped.")
    ] = Path("proof"),
    data: Annotated[
        Path | None, typer.Option(help="Folder with the recordings and images that the file names.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encoder in place of the file's: LIBRARY:NAME, a folder, or the safetensors file of a ViT."),
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; repeat it for several.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; repeat it for several.")] = None,
    page_only: Annotated[bool, typer.Option("--page-only", help="Write the page of what is finished.")] = False,
) -> None:
    """Train one encoder in several ways, measure all of them by the same probes, and write one page.

    Each row with each seed is trained and measured once. Two processes with other rows or seeds can share a folder.
    """
    from spatialboost.experiments.proof import Proof
    from spatialboost.experiments.proof_file import read_proof
    from spatialboost.experiments.proof_page import write_page

    if data is not None and not user_path(data).is_dir():
        raise SpatialBoostError(f"--data is {data}, which is no folder; expected one with recordings and images")
    found = Proof(read_proof(config), user_path(out), None if data is None else user_path(data).resolve(), encoder)
    if not page_only:
        found.run(row or (), seed or ())
    results, page = found.save(), write_page(found)
    typer.echo(f"wrote {page} and {results}")

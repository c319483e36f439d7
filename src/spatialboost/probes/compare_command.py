"""`spatialboost compare`: pictures of a user's own images, base beside boosted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spatialboost.encoders.run_file import user_path


def compare(
    images: Annotated[list[str], typer.Argument(help="Image files of any size, or folders of them.")],
    encoder: Annotated[str, typer.Option(help="timm:NAME, hf:ID, run.yaml, a delta ... as for `spatialboost probe`.")],
    delta: Annotated[str | None, typer.Option(help="A delta to load onto the encoder.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="safetensors file for the encoder, instead of its library's own weights.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Use random weights for the encoder, from seed 0.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the page.")] = Path("compare"),
    image_size: Annotated[int, typer.Option(help="Side in pixels to which images are resized.")] = 224,
    layer: Annotated[int, typer.Option(help="Block after which tokens are read; -1 is the last.")] = -1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")] = "auto",
) -> None:
    """Draw tokens, depth and matches of your own images, base beside boosted."""
    from spatialboost.encoders import open_encoder
    from spatialboost.encoders.device import to_device
    from spatialboost.probes.compare import compare_images
    from spatialboost.probes.options import CommonOptions

    CommonOptions(image_size, layer)  # before the encoder is opened, which takes longer
    model = open_encoder(
        encoder,
        delta=None if delta is None else str(user_path(delta)),
        weights=None if weights is None else user_path(weights),
        pretrained=not random_weights,
        image_size=image_size,
    )
    found = compare_images(
        to_device(model, device), images, user_path(out), image_size=image_size, layer=layer, progress=True
    )
    typer.echo(f"wrote {found.page} and {len(found.pictures)} pictures; {len(found.left_out)} images left out")

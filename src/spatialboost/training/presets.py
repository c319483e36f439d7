"""The configurations that come with the library: `spatialboost train --config NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spatialboost.errors import unknown
from spatialboost.yaml_file import read_yaml

FOLDER = Path(__file__).parents[1] / "presets"


def preset_names() -> list[str]:
    """The names of all presets.

    Example:
        >>> preset_names()
        ['demo', 'gasp/paper', 'gasp/tiny', 'paper/dinov2', 'paper/dinov3', 'paper/openclip', 'paper/siglip2',
         'single-gpu-24gb', 'spa3r/paper', 'spa3r/tiny']
    """
    return sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The content of a preset. Weights that come with the library have their absolute paths in it.

    Example:
        >>> read_preset("paper/dinov2")["encoder"]["name"]
        'facebook/dinov2-giant'

    Raises:
        SpatialBoostError: No preset has this name; the message lists all.
    """
    if name not in preset_names():
        raise unknown("preset", name, preset_names())
    file = FOLDER / f"{name}.yaml"
    content = read_yaml(file)
    for section, key in ((content["encoder"], "weights"), (content["teacher"].get("llm", {}), "name")):
        own = (file.parent / section[key]).resolve() if key in section else None
        if own is not None and own.exists():
            section[key] = str(own)
    return content

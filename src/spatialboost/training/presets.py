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
        ['demo', 'gasp/encoder', 'gasp/language-tiny', 'gasp/paper', 'gasp/tiny', 'paper/dinov2', 'paper/dinov3',
         'paper/openclip', 'paper/siglip2', 'single-gpu-24gb', 'spa3r/paper', 'spa3r/tiny']
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
    fill_weights(content, file.parent)
    return content


def fill_weights(content: dict[str, Any], folder: Path) -> None:
    """Put absolute paths in place of the relative ones of the weights that come with the library.

    Args:
        content: Sections of a run; those that lack an encoder or a language model are left as they are.
        folder: Folder of the file that they are from.
    """
    teacher = content.get("teacher")
    llm = teacher.get("llm") if isinstance(teacher, dict) else None
    for section, key in ((content.get("encoder"), "weights"), (llm, "name")):
        if not isinstance(section, dict) or not isinstance(section.get(key), str):
            continue
        own = (folder / section[key]).resolve()
        if own.exists():
            section[key] = str(own)

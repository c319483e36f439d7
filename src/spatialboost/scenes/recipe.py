"""What a build reads, as a user writes it: a source and extractors by their names, with their options."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.registry import open_extractor
from spatialboost.scenes.focal import with_one_focal
from spatialboost.scenes.paths import user_path
from spatialboost.scenes.source_registry import SourceOptions, open_source
from spatialboost.scenes.sources import Source
from spatialboost.yaml_file import read_value, read_yaml

_PATHS = ("out", "path", "cache")  # relative paths in a build's file start at the file's folder
_OPTION = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class ExtractorSpec:
    """An extractor by its name, and its options.

    Example:
        >>> ExtractorSpec.parse("superpixels:max_objects=4")
        ExtractorSpec(name='superpixels', options={'max_objects': 4})
    """

    name: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> ExtractorSpec:
        """Read ``NAME``, ``NAME:key=value,key=value`` or ``NAME:{...}`` with a JSON object of options.

        Raises:
            SpatialBoostError: the text has another form.
        """
        name, _, rest = text.partition(":")
        if not rest:
            return cls(name, {})
        if rest.startswith("{"):
            try:
                return cls(name, dict(json.loads(rest)))
            except ValueError as error:
                raise SpatialBoostError(f"--extract {text!r}: its options are no JSON object ({error})") from None
        options = {}
        for pair in re.split(rf",(?={_OPTION.pattern})", rest):
            if not _OPTION.match(pair):
                raise SpatialBoostError(f"--extract {text!r}: expected NAME:key=value,key=value")
            key, _, value = pair.partition("=")
            if key in options:
                raise SpatialBoostError(f"--extract {text!r}: {key} is given twice")
            options[key] = _plain(read_value(value), value)
        return cls(name, options)


@dataclass(frozen=True)
class Recipe:
    """A source and the extractors that add cues to its views. Calling it opens them, in any process.

    Example:
        >>> recipe = Recipe("rooms", SourceOptions(num=3, size=32), (ExtractorSpec("superpixels", {}),))
        >>> len(recipe()), recipe().name
        (3, 'rooms 0-2 32 px with proposals')
    """

    source: str  # name in `spatialboost.scenes.source_registry`
    options: SourceOptions  # options of the source
    extract: Sequence[ExtractorSpec] = ()  # the extractors, in this order
    cache: Path | None = None  # folder in which the results of extractors are stored
    # focal length that all views get, see `spatialboost.scenes.focal.unify_focal`; None keeps that of each
    focal: float | None = None

    def __call__(self) -> Source:
        """Open the source and the extractors."""
        items = open_source(self.source, self.options)
        if self.extract:
            extractors = [open_extractor(spec.name, **spec.options) for spec in self.extract]
            items = Extracted(items, extractors, cache=self.cache)
        return items if self.focal is None else with_one_focal(items, self.focal)


def read_build_file(file: Path, options: Sequence[str]) -> dict[str, Any]:
    """Read the YAML file of a build: one key for each option of ``spatialboost data build``.

    An extractor is a text as on the command line, or ``{name: NAME, key: value, ...}``; a model in a folder is written
    with ``./`` before it. Turns are a list as on the command line, or ``{KIND: COUNT, ...}``. A key without a value has
    its default.

    Returns:
        The values by the name of the option, as the command line has them; relative paths start at the file's folder.

    Raises:
        SpatialBoostError: the file is not valid, or a key is no option.
    """
    found = read_yaml(file)
    if not isinstance(found, Mapping):
        raise SpatialBoostError(f"{file} contains {type(found).__name__}; expected keys, such as: source: rooms")
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name not in options:
            raise SpatialBoostError(f"{file}: {unknown('key', key, options)}")
        if name in values:
            raise SpatialBoostError(f"{file}: {key} is given twice")
        if value is None:
            continue
        if name in _PATHS and not str(value).startswith("hf:"):  # a data set of the Hub
            value = str(file.parent / user_path(str(value)))
        elif name == "extract":
            value = [_as_text(each, file) for each in (value if isinstance(value, list) else [value])]
        elif name == "turn" and isinstance(value, Mapping):
            value = [f"{kind}={count}" for kind, count in value.items()]
        elif isinstance(value, list | Mapping):
            expected = "a list of texts" if name == "turn" else "one value"
            if name != "turn" or isinstance(value, Mapping):
                raise SpatialBoostError(f"{file}: {key} is {value!r}; expected {expected}")
        values[name] = value
    return values


def _as_text(extractor: Any, file: Path) -> str:
    if isinstance(extractor, str):
        return extractor
    if not isinstance(extractor, Mapping) or not isinstance(extractor.get("name"), str):
        raise SpatialBoostError(
            f"{file}: extract has {extractor!r}; expected a name, or {{name: NAME, option: value, ...}}"
        )
    options = {key: _from_here(value, file) for key, value in extractor.items() if key != "name"}
    try:
        return f"{extractor['name']}:{json.dumps(options)}" if options else extractor["name"]
    except TypeError as error:
        raise SpatialBoostError(f"{file}: options of {extractor['name']} cannot be used ({error})") from None


def _from_here(value: Any, file: Path) -> Any:
    """A path such as ``./my-model`` starts at the file's folder. A name such as ``owner/model`` is one on the Hub."""
    if isinstance(value, str) and value.startswith(("./", "../", "~")):
        return str(file.parent / user_path(value))
    return value


def _plain(value: Any, text: str) -> Any:
    """A number, true, false, nothing, or a list; all else, such as a date, is the text itself."""
    return value if isinstance(value, int | float | list) or value is None else text

"""Values of a configuration that are replaced on the command line, and the change to another teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.registry import teacher_class
from spatialboost.yaml_file import read_value

logger = logging.getLogger(__name__)

KIND = "teacher.kind"


def replaced(source: Mapping[str, Any], overrides: Sequence[str], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a file with the values of ``KEY=VALUE`` in place of its own.

    An override of ``teacher.kind`` comes first, wherever it stands, as it decides which other keys there are.

    Args:
        source: The content of the file.
        overrides: ``KEY=VALUE`` each.
        shared: The keys of a stage that boosts that every teacher has.

    Raises:
        SpatialBoostError: An override has another form, or leads into a value that has no keys.
    """
    for override in sorted(overrides, key=lambda each: each.partition("=")[0].strip() != KIND):
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise SpatialBoostError(f"override {override!r}: expected KEY=VALUE, such as stage3.lr=1e-4")
        if ".".join(path) == KIND:
            source = with_teacher(source, read_value(text), shared)
        source = _with_value(source, path, read_value(text), override)
    return source


def with_teacher(source: Mapping[str, Any], kind: Any, shared: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration for another teacher: the same data and encoder, and the same settings of the stage that boosts.

    So the teachers can be compared (the paper's Table 6). Of the section ``teacher``, and of the stage that boosts, the
    keys that both teachers have are kept; the other stages have the new teacher's defaults.

    Args:
        source: The configuration of the old teacher.
        kind: Name of the new one.
        shared: The keys of a stage that boosts that every teacher has.
    """
    section = source.get("teacher") or {}
    old = section.get("kind", "language") if isinstance(section, Mapping) else None
    if old == kind or not isinstance(old, str):
        return source
    ours, theirs = teacher_class(kind), teacher_class(old)
    kept = {key: value for key, value in section.items() if key in ours.Options.model_fields}
    changed = {key: value for key, value in source.items() if key not in theirs.stages or key in ours.stages}
    changed["teacher"] = kept
    before, after = (
        next((name for name, stage in each.stages.items() if stage.boosts), None) for each in (theirs, ours)
    )
    boosting = source.get(before or "")
    if after is not None and before is not None and before in source and after not in source:
        changed[after] = boosting
        if isinstance(boosting, Mapping):
            changed[after] = {key: value for key, value in boosting.items() if key in shared}
    dropped = [f"teacher.{key}" for key in section if key not in kept]
    dropped += [name for name in theirs.stages if name in source and name != before]
    if isinstance(boosting, Mapping):
        dropped += [f"{before}.{key}" for key in boosting if key not in shared]
    if dropped:
        logger.info("teacher %s has no use for %s of the file", kind, ", ".join(dropped))
    return changed


def _with_value(source: Mapping[str, Any], path: Sequence[str], value: Any, override: str) -> dict[str, Any]:
    changed = here = dict(source)
    for number, part in enumerate(path[:-1], 1):
        section = here.get(part)
        if isinstance(section, str) and path[0] == "encoder":
            section = asdict(EncoderConfig.of(section))
        if section is not None and not isinstance(section, Mapping):
            where = ".".join(path[:number])
            raise SpatialBoostError(f"override {override!r}: {where} is {section!r}, which has no keys")
        here[part] = here = dict(section or {})
    here[path[-1]] = value
    return changed

"""The file of a scene adapter: one safetensors file, with JSON facts in its header that tell where it fits."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from spatialboost.boosting.channel import full_value
from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal.attach import AttachedAdapter, attach_adapter, find_adapter, require_adapter
from spatialboost.multimodal.seam import find_seam, inner_model
from spatialboost.weights.base import describe_base
from spatialboost.weights.format import parse_json
from spatialboost.weights.tensor_file import Entry, TensorWriter, checksum, is_finite, open_files, read_header
from spatialboost.weights.write import is_main

logger = logging.getLogger(__name__)

VERSION = 2
FACTS = "spatialboost_adapter"  # key of the header
SIZES = ("width", "latent_width", "heads")

Model = TypeVar("Model", bound=nn.Module)


def save_adapter(model: nn.Module, file: str | os.PathLike[str], *, training: Mapping[str, Any] | None = None) -> Path:
    """Save the adapter of a model as one safetensors file; an interrupted save leaves an earlier file as it was.

    Args:
        model: With an adapter. In a distributed run every process has to call this; the first one writes.
        file: Where to write, such as ``adapter.safetensors``.
        training: Facts about the training, for the header.

    Raises:
        SpatialBoostError: The model has no adapter, or the adapter has values that are not finite.
    """
    adapter, path = require_adapter(model), Path(file)
    state = {name: full_value(value).cpu().contiguous() for name, value in adapter.state_dict().items()}
    if bad := next((name for name, value in state.items() if not is_finite(value)), None):
        raise SpatialBoostError(
            f"the scene adapter has values that are not finite ({bad}); this is not saved. Train at a lower rate"
        )
    if not is_main():
        return path
    facts = {
        "version": VERSION,
        **{name: getattr(adapter, name) for name in SIZES},
        "base_model": _base_of(model),
        "training": dict(training or {}),
    }
    header = {FACTS: json.dumps(facts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        writer = TensorWriter(Path(name), {key: Entry(v.dtype, tuple(v.shape)) for key, v in state.items()}, header)
        try:
            for key, value in state.items():
                writer.write(key, value)
            writer.finish(header)
        finally:
            writer.close()
        Path(name).chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def read_facts(file: str | os.PathLike[str]) -> dict[str, Any]:
    """The facts in the header of an adapter's file.

    Raises:
        SpatialBoostError: There is no such file, it is no adapter, or this version cannot read it.
    """
    path = Path(file)
    if not path.is_file():
        raise SpatialBoostError(f"there is no file {path}: give a file that save_adapter has written")
    text = read_header(path).metadata.get(FACTS)
    if text is None:
        raise SpatialBoostError(f"{path} is no scene adapter: expected a file that save_adapter has written")
    facts = parse_json(text.encode(), path)
    if facts.get("version") != VERSION:
        raise SpatialBoostError(
            f"{path} has version {str(facts.get('version'))[:40]}; this version of spatialboost reads {VERSION}"
        )
    if not all(type(facts.get(name)) is int and facts[name] > 0 for name in SIZES):
        raise SpatialBoostError(f"{path} does not give its sizes ({', '.join(SIZES)}). Save it again")
    return facts


def load_adapter(model: Model, file: str | os.PathLike[str], *, freeze: bool = True) -> Model:
    """Load an adapter into a vision-language model, in place; if the model has none yet, it gets one.

    Args:
        model: A model like the one that the adapter was trained with.
        file: What `save_adapter` has written.
        freeze: Leave only the adapter trainable, if it is attached here.

    Raises:
        SpatialBoostError: The adapter is for a model of another width or another kind, or the file is damaged. The
            model is not changed.
    """
    path, facts, seam = Path(file), read_facts(file), find_seam(model)
    base, own = facts.get("base_model") or {}, _base_of(model)
    if facts["width"] != seam.width:
        raise SpatialBoostError(
            f"{path} is for a language model of width {facts['width']} ({str(base.get('name'))[:200]}); "
            f"{own['class']} has width {seam.width}. Load it into the model that it was trained with"
        )
    if base.get("model_type") != own["model_type"]:
        raise SpatialBoostError(
            f"{path} is for a {str(base.get('model_type'))[:80]}; this model is a {own['model_type']}. "
            "Load it into the model that it was trained with"
        )
    if base.get("name") != own["name"]:
        logger.warning("%s was trained with %s; this model is %s", path, str(base.get("name"))[:200], own["name"])
    adapter = find_adapter(model)
    sizes = None if adapter is None else {name: getattr(adapter, name) for name in SIZES}
    if sizes is not None and any(facts[name] != size for name, size in sizes.items()):
        raise SpatialBoostError(
            f"{path} has {_listed(facts)}; the adapter in {own['class']} has {_listed(sizes)}. Call "
            "detach_adapter(model) first"
        )
    with torch.device("meta"):
        outline = AttachedAdapter(seam, facts["latent_width"], seed=None)
    state = _read(path, outline)
    if adapter is None:
        attach_adapter(model, facts["latent_width"], freeze=freeze)
        adapter = require_adapter(model)
    adapter.load_state_dict(state)
    return model


def _read(path: Path, outline: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a file, each checked.

    Raises:
        SpatialBoostError: A tensor is missing, has another shape, or is not as it was saved.
    """
    expected = {name: tuple(value.shape) for name, value in outline.state_dict().items()}
    header = read_header(path)
    wrong = sorted({name for name, shape in expected.items() if header.shapes.get(name) != shape})
    wrong += sorted(header.shapes.keys() - expected.keys())
    if wrong:
        raise SpatialBoostError(f"{path} is no complete scene adapter: {wrong[0]} is missing or has another shape")
    sums = parse_json(header.metadata.get("checksums", "{}").encode(), path)
    with open_files([path]) as (file,):
        state = {name: file.get_tensor(name).clone() for name in expected}
    bad = next((name for name, v in state.items() if checksum(v) != sums.get(name) or not is_finite(v)), None)
    if bad is not None:
        raise SpatialBoostError(f"{path} is damaged: {bad} is not as it was saved. Download or save it again")
    return state


def _base_of(model: nn.Module) -> dict[str, Any]:
    whole: Any = inner_model(model)
    return {**describe_base(whole), "model_type": whole.config.model_type}


def _listed(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {sizes[name]}" for name in SIZES)

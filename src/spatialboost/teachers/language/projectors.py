"""The projector of a run: a new one, that of an earlier run, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from spatialboost.encoders.standardise import Standardise
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.features import training_features
from spatialboost.teachers.language.config import LanguageOptions
from spatialboost.teachers.language.teacher import PROJECTOR
from spatialboost.teachers.protocol import TeacherInputs
from spatialboost.vlm.projector import begin_at_digits, build_projector

if TYPE_CHECKING:
    from spatialboost.vlm.pooling import PatchPool


def make_projector(
    options: LanguageOptions, inputs: TeacherInputs, pool: PatchPool, llm: Any, tokenizer: Any, earlier: Path | None
) -> nn.Sequential:
    """A new projector that starts as the options say, or that of an earlier run.

    Args:
        options: The options of the teacher.
        inputs: The encoder and the rows.
        pool: The pooling before the projector.
        llm: The language model.
        tokenizer: Its tokenizer.
        earlier: Folder of the stage of the earlier run; None makes a new one.

    Raises:
        SpatialBoostError: The earlier run's projector is for other features, or no training image can be read.
    """
    sizes: dict[str, Any] = {"tokens_per_cell": options.tokens_per_cell, "standardise": options.standardise}
    projector = build_projector(inputs.encoder, llm, **sizes)
    if earlier is not None and options.earlier_run is not None:
        check_same_features(options.earlier_run, layer=inputs.layer, options=options)
        load_projector(projector, earlier / PROJECTOR)
        return projector
    if options.projector_start == "zero":
        nn.init.zeros_(projector[-1].get_parameter("weight"))
    elif options.projector_start == "digits":
        begin_at_digits(projector, llm, tokenizer)
    if isinstance(projector[0], Standardise) and not inputs.finished:  # a finished stage has what it measured
        projector[0].measure(pool(training_features(inputs)).to(projector[0].mean_D.device))
    return projector


def check_same_features(run: Path, *, layer: int, options: LanguageOptions) -> None:
    """Refuse the projector of a run that gave it other features, which have the same width.

    Raises:
        SpatialBoostError: The run read another block of the encoder, had other codes of positions, or another prompt.
    """
    file = run / "config.json"
    if not file.is_file():
        return  # only its stages were copied
    found = json.loads(file.read_text(encoding="utf-8"))
    theirs, defaults = found.get("teacher", {}), LanguageOptions()
    pairs = {"layer": (found.get("layer", layer), layer)}
    for key in ("places", "prompt", "tokens_per_cell", "standardise"):
        default = getattr(options if key == "places" else defaults, key)  # runs of before there was such a key
        pairs[f"teacher.{key}"] = (theirs.get(key, default), getattr(options, key))
    for key, (their, our) in pairs.items():
        if their != our:
            raise SpatialBoostError(
                f"earlier_run: {run} was trained with {key}: {json.dumps(their)}, and here {key} is "
                f"{json.dumps(our)}, so its projector would get other features: use the same value"
            )


def load_projector(projector: nn.Module, file: Path) -> None:
    """Load the weights of a projector.

    Raises:
        SpatialBoostError: They are for an encoder or a language model of another width.
    """
    from safetensors.torch import load_file

    state = load_file(file)
    found, expected = ({name: list(v.shape) for name, v in each.items()} for each in (state, projector.state_dict()))
    if found != expected:
        raise SpatialBoostError(
            f"{file} has weights of the shapes {found}, but this encoder and language model need {expected}: use the "
            "ones that it was trained with"
        )
    projector.load_state_dict(state)

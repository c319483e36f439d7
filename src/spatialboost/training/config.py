"""What a training run is told: one YAML file, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class LLMConfig(_Strict):
    """The language model that teaches.

    Attributes:
        name: ``smollm2``, ``small``, a Hub id or a folder.
        kwargs: For `spatialboost.vlm.llms.build_small_llm` (kind, width, layers, heads, ...) or ``from_pretrained``.
        dtype: Of the weights. Keep float32 where stage 2 trains it: bfloat16 rounds small steps away.
    """

    name: str = "smollm2"
    kwargs: dict[str, Any] = {}
    dtype: Literal["float32", "bfloat16"] = "float32"


class DataConfig(_Strict):
    """The conversations.

    Attributes:
        folders: Folders of parquet shards.
        image_size: Side in pixels that images are squeezed to, or (height, width).
        max_length: Tokens of a conversation; whole turns beyond it are left out.
        held_out: This many of the last rows are kept for the report.
        limit: Use only so many rows of the rest.
        cache_gb: Images and features up to this size are held in memory, larger ones are read from disk.
    """

    folders: list[Path] = Field(min_length=1)
    image_size: int | tuple[int, int] = 224
    max_length: int | None = Field(default=2048, ge=8)
    held_out: int = Field(default=64, ge=0)
    limit: int | None = Field(default=None, ge=1)
    cache_gb: float = Field(default=4.0, gt=0)


class StageConfig(_Strict):
    """One stage of training. The optimiser is AdamW, or Muon beside it; the schedule a linear warm-up and a cosine.

    Attributes:
        steps: Optimiser steps; None goes by `epochs`.
        epochs: Passes over the conversations.
        lr: Highest learning rate.
        matrix_lr: Train matrices by Muon with this highest rate, some 0.01, and only embeddings and vectors by AdamW,
            for what has far to go in few steps, as a new projector or language model. None is AdamW alone.
        min_lr: Lowest at the end, as a share of `lr`.
        warmup: Share of the steps; the very first step has a rate above zero already.
        batch_size: Conversations of one device in one forward.
        accumulate: Forwards of one step.
        weight_decay: Not on gates, biases and norms.
        beta2: Of AdamW.
        clip: Largest gradient norm; 0 does not clip.
        bf16: Autocast; the weights keep their type.
        checkpointing: Recompute activations to save memory.
        turns: Keep only turns of these kinds; None keeps all.
        shuffle_answers: The control experiment: answers are dealt out anew among the conversations, turn by turn and
            kind by kind, so that the words stay and what they say is wrong.
        save_every: Steps between checkpoints; 0 makes none.
        log_every: Steps between log entries.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float = Field(default=1.0, gt=0)
    lr: float = Field(default=1e-4, gt=0)
    matrix_lr: float | None = Field(default=None, gt=0)
    min_lr: float = Field(default=0.0, ge=0, le=1)
    warmup: float = Field(default=0.03, ge=0, le=1)
    batch_size: int = Field(default=16, ge=1)
    accumulate: int = Field(default=1, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    clip: float = Field(default=1.0, ge=0)
    bf16: bool = False
    checkpointing: bool = False
    turns: list[str] | None = None
    shuffle_answers: bool = False
    save_every: int = Field(default=200, ge=0)
    log_every: int = Field(default=10, ge=1)


class AlignConfig(StageConfig):
    """Stage 1, feature alignment: the projector alone. LLaVA-1.5's rate."""

    lr: float = Field(default=1e-3, gt=0)


class InstructConfig(StageConfig):
    """Stage 2, instruction tuning: projector and language model. LLaVA-1.5's rate, for a pretrained language model.

    Attributes:
        projector_lr: Highest rate of the projector; None is `lr`.
    """

    lr: float = Field(default=2e-5, gt=0)
    projector_lr: float | None = Field(default=None, gt=0)


class BoostConfig(StageConfig):
    """Stage 3: Attn+ and the gates. The paper does not tell its rate.

    Attributes:
        train_projector: Train the projector as well; the paper says both yes and no.
        gate: One gate for each channel, as in the paper, or one for each layer.
        kernel: How the boosted layers are computed, see `spatialboost.set_kernel`.
    """

    lr: float = Field(default=1e-4, gt=0)
    train_projector: bool = False
    gate: Literal["channel", "scalar"] = "channel"
    kernel: Literal["host", "auto", "xformers", "sdpa", "math"] = "host"


def _from_name(section: Any) -> Any:
    """`encoder: timm:NAME` in place of a section."""
    return EncoderConfig.of(section) if isinstance(section, str) else section


class TrainConfig(_Strict):
    """A whole run.

    Example:
        >>> config = load_config({"encoder": {"name": "vit_small_patch14_dinov2"}, "data": {"folders": ["rooms"]},
        ...                       "out": "run", "stage3": {"steps": 100}})
        >>> config.stage1.lr, config.stage2.lr, config.stage3.steps
        (0.001, 2e-05, 100)

    Attributes:
        encoder: The encoder to boost: a section, see `spatialboost.encoders.EncoderConfig`, or a name such as
            ``timm:vit_small_patch14_dinov2``.
        llm: The language model that teaches.
        data: The conversations.
        stage1: Feature alignment; null leaves it out.
        stage2: Instruction tuning; null leaves it out.
        stage3: The boost; null leaves it out.
        layer: Block of the encoder whose output the language model reads; only blocks up to it are boosted.
        places: Give each visual token a code of its place in the image, see `SpatialVLM`; for a ``small`` language
            model, with ``places: true`` among its kwargs too.
        seed: Of new weights and of the order of the data.
        evaluate: Held-out rows whose answers are scored after stages 2 and 3; 0 scores none.
        device: ``auto`` takes a GPU where there is one.
        out: Folder of the run.
    """

    encoder: Annotated[EncoderConfig, BeforeValidator(_from_name)]
    llm: LLMConfig = LLMConfig()
    data: DataConfig
    stage1: AlignConfig | None = AlignConfig()
    stage2: InstructConfig | None = InstructConfig()
    stage3: BoostConfig | None = BoostConfig()
    layer: int = -1
    places: bool = False
    seed: int = 0
    evaluate: int = Field(default=32, ge=0)
    device: Literal["auto", "cpu"] = "auto"
    out: Path

    @model_validator(mode="after")
    def _some_stage(self) -> TrainConfig:
        if self.stage1 is None and self.stage2 is None and self.stage3 is None:
            raise ValueError("all three stages are null, so there is nothing to train")
        return self


def load_config(source: str | Path | Mapping[str, Any]) -> TrainConfig:
    """Read a run's configuration from a YAML file or a dictionary.

    Raises:
        SpatialBoostError: One line with the first key that is unknown or wrong.
    """
    where = "config"
    if not isinstance(source, Mapping):
        import yaml

        where = str(source)
        try:
            source = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise SpatialBoostError(f"cannot read {where}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SpatialBoostError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(source, Mapping):
            raise SpatialBoostError(f"{where} holds {type(source).__name__}; expected keys such as {_known(())}")
    try:
        return TrainConfig.model_validate(dict(source))
    except ValidationError as error:
        raise SpatialBoostError(f"{where}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):  # the latter of a dataclass
        return f'unknown key "{key}"; known here: {_known(first["loc"][:-1])}{more}'
    if first["type"] == "missing":
        return f'key "{key}" is missing{more}'
    prefix = f'key "{key}": ' if key else ""
    return f"{prefix}{first['msg'].removeprefix('Value error, ')}, found {first['input']!r}"[:300] + more


def _known(path: tuple[int | str, ...]) -> str:
    """Names of the keys of the section that a path of keys leads to."""
    section: Any = TrainConfig
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        choices = [annotation, *get_args(annotation)]
        section = next(c for c in choices if is_dataclass(c) or (isinstance(c, type) and issubclass(c, BaseModel)))
    return ", ".join([each.name for each in fields(section)] if is_dataclass(section) else section.model_fields)

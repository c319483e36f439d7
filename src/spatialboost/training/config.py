"""The configuration of a training run: one YAML file, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)

from spatialboost.encoders.run_file import resolve_path, user_path
from spatialboost.encoders.spec import EncoderConfig, resolve_paths
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.protocol import TeacherOptions
from spatialboost.teachers.registry import teacher_class
from spatialboost.training.overrides import replaced
from spatialboost.training.presets import read_preset
from spatialboost.training.strategy import Strategy
from spatialboost.training.trackers import Tracker
from spatialboost.yaml_file import check_size, read_yaml


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError('a path is empty; "." is the folder of this file')
    return value


UserPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(user_path)]
Pixels = Annotated[int, Field(ge=1, le=100_000)]


class DataConfig(_Strict):
    """The rows to train on.

    Attributes:
        folders: Folders with parquet shards.
        image_size: Images are resized to this size in pixels: one number for a square, or (height, width).
        held_out: Number of rows, taken from the end, that are not trained on but scored for the report.
        limit: Largest number of rows to train on; None uses all rows that are not held out. They are drawn by `seed`,
            and a smaller number gives a part of the rows of a larger one.
        single_view: Share of rows with one image among the rows to train on: 1 leaves out rows with several images, 0
            those with one. None takes the rows as they are.
        cache_gb: Features of the frozen encoder are stored as float32 up to this size, and as float16 above it.
        workers: Worker processes that read and decode data for each training process; null chooses the number by the
            number of processors.
    """

    folders: list[UserPath] = Field(min_length=1)
    image_size: Pixels | tuple[Pixels, Pixels] = 224
    held_out: int = Field(default=64, ge=0)
    limit: int | None = Field(default=None, ge=1)
    single_view: float | None = Field(default=None, ge=0, le=1)
    cache_gb: float = Field(default=4.0, gt=0)
    workers: int | None = Field(default=None, ge=0)


class StageConfig(_Strict):
    """One stage of training.

    The optimiser is AdamW, or Muon and AdamW. The schedule is a linear warm-up, then a cosine.

    Attributes:
        steps: Optimiser steps; None trains for `epochs` epochs.
        epochs: Passes over the rows; not used if `steps` is given.
        lr: Highest learning rate.
        matrix_lr: Train matrices with Muon at this highest learning rate (for example 0.01), and embeddings and vectors
            with AdamW. Useful for new weights, such as a new projector, when steps are few. None uses AdamW for all.
        min_lr: Learning rate at the end, as a share of the highest one.
        warmup: Share of the steps in which the learning rate rises. It is above zero in the first step.
        batch_size: Rows in one forward pass on one device.
        accumulate: Forward passes in one optimiser step.
        weight_decay: Weight decay. Gates, biases and norms have none.
        beta2: AdamW's second beta.
        clip: Gradients with a larger norm are clipped to this norm; 0 does not clip.
        bf16: Compute in bfloat16 by autocast; the weights keep their type.
        checkpointing: Recompute activations to save memory.
        compile: Compile the blocks of the models with `torch.compile`. The first steps take longer, the others are
            faster. The weights are equal to rounding.
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
    compile: bool = False
    save_every: int = Field(default=200, ge=0)
    log_every: int = Field(default=10, ge=1)


class BoostStageConfig(StageConfig):
    """A stage that boosts the encoder and trains Attn+ and the gates. The paper does not give its rate.

    Attributes:
        method: ``attn+``: a second attention beside each one, as in the paper. In its place, for comparison (the
            paper's Figure 6): ``lora``, or ``full`` for full fine-tuning.
        layers: Numbers of the blocks that are changed; None is all up to the block that is read. Not for ``full``.
        projections: Projections of Attn+ that are trained, or of the attention that LoRA adapts: q, k, v and o
            (output). The others stay equal to those of the original attention. Not for ``full``.
        gate: ``channel``: one gate for each channel, as in the paper. ``scalar``: one gate for each layer.
        kernel: How the boosted layers are computed, see `spatialboost.set_kernel`.
        lora_rank: Rank of ``lora``, and its alpha: so the update is not scaled.
    """

    method: Literal["attn+", "lora", "full"] = "attn+"
    layers: Annotated[list[int], Field(min_length=1)] | None = None
    projections: Annotated[list[Literal["q", "k", "v", "o"]], Field(min_length=1)] = ["q", "k", "v", "o"]
    gate: Literal["channel", "scalar"] = "channel"
    kernel: Literal["host", "auto", "xformers", "sdpa", "math"] = "host"
    lora_rank: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _settings_of_the_method(self) -> BoostStageConfig:
        """A setting that the method does not have is a mistake: the comparison would not be what was asked for."""
        unused = {"attn+": ("lora_rank",), "lora": ("gate",), "full": ("gate", "lora_rank", "layers", "projections")}
        defaults = type(self).model_fields
        wrong = [key for key in unused[self.method] if getattr(self, key) != defaults[key].default]
        if wrong:
            raise ValueError(f"{wrong[0]} is {getattr(self, wrong[0])!r}, which method: {self.method} does not have")
        return self


def _from_name(section: Any) -> Any:
    """Read ``encoder: timm:NAME``, the short form of a section."""
    return EncoderConfig.of(section) if isinstance(section, str) else section


class TrainConfig(_Strict):
    """A whole run. `load_config` adds one key for each stage of the teacher; the value null skips the stage.

    Example:
        >>> config = load_config({"encoder": {"name": "vit_small_patch14_dinov2"}, "data": {"folders": ["rooms"]},
        ...                       "out": "run", "stage3": {"steps": 100}})
        >>> {name: stage.lr for name, stage in config.stages.items()}, config.teacher.kind
        ({'stage1': 0.001, 'stage2': 2e-05, 'stage3': 0.0001}, 'language')

    Attributes:
        encoder: The encoder to boost: a section, see `spatialboost.encoders.EncoderConfig`, or a name such as
            ``timm:vit_small_patch14_dinov2``.
        data: The rows to train on.
        teacher: The teacher: its `kind`, and the options of this kind.
        layer: Block of the encoder whose output the teacher reads; only blocks up to it are boosted.
        seed: Random seed for new weights and for the order of the data.
        device: ``auto`` uses a GPU if there is one.
        strategy: How several processes share the work, see `StrategyConfig`; None takes what `accelerate launch` says,
            and without it ``ddp``.
        report_to: Trackers that get the log: ``tensorboard``, ``wandb`` or ``trackio``.
        out: Folder for the results of the run.
    """

    encoder: Annotated[EncoderConfig, BeforeValidator(_from_name)]
    data: DataConfig
    teacher: TeacherOptions
    layer: int = -1
    seed: int = Field(default=0, ge=0, lt=2**32)  # what numpy takes, too
    device: Literal["auto", "cpu"] = "auto"
    strategy: Strategy | None = None
    report_to: list[Tracker] = []
    out: UserPath

    @property
    def stages(self) -> dict[str, Any]:
        """The stages to run, by name, in order."""
        names = teacher_class(self.teacher.kind).stages
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @model_validator(mode="after")
    def _some_stage(self) -> TrainConfig:
        if not self.stages:
            names = teacher_class(self.teacher.kind).stages
            raise ValueError(f"all stages ({', '.join(names)}) are null, so there is nothing to train")
        self.teacher.check_stages(self.stages)
        return self


YAML = (".yaml", ".yml")  # a name that ends so is that of a file
# Keys of earlier versions -> their new names.
MOVED = {
    "llm": "teacher.llm",
    "places": "teacher.places",
    "evaluate": "teacher.evaluate",
    "data.max_length": "teacher.max_length",
}


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a run's configuration from a YAML file, a preset or a dictionary.

    Example:
        >>> config = load_config({"encoder": "timm:vit_tiny_patch16_224", "data": {"folders": ["rooms"]}, "out": "run"},
        ...                      ["stage3.lr=3e-4", "stage1=null"])
        >>> config.stages["stage3"].lr, list(config.stages)
        (0.0003, ['stage2', 'stage3'])

    Relative paths in a file and in its overrides start at the file's folder; those of a preset start at the working
    directory.

    Args:
        source: The YAML file, or the name of a preset (`spatialboost.training.presets`), or its content. A file comes
            before a preset of the same name.
        overrides: ``KEY=VALUE`` each, which replace values of the file; dots lead into sections, and the value is read
            as YAML.

    Raises:
        SpatialBoostError: A key is unknown or wrong; the message is one line and names the first such key.
    """
    where, folder = "config", None
    if not isinstance(source, Mapping):
        where, folder = str(source), user_path(source).parent
        if is_preset := not user_path(source).exists() and not where.lower().endswith(YAML):
            folder = Path.cwd()
        source = read_preset(Path(source).as_posix()) if is_preset else read_yaml(user_path(source))
        if not isinstance(source, Mapping):
            keys = ", ".join(TrainConfig.model_fields)
            raise SpatialBoostError(f"{where} contains {type(source).__name__}; expected keys such as {keys}")
    try:
        check_size(source, "the configuration")
        source = replaced(source, overrides, BoostStageConfig.model_fields)
        _refuse_empty(source)
        _refuse_moved(source)
        teacher = _teacher_section(source)
        model = config_model(teacher["kind"])
        config = model.model_validate({**source, "teacher": teacher})
        return config if folder is None else _from_folder(config, folder)
    except ValidationError as error:
        raise SpatialBoostError(f"{where}: {_first_problem(error, model)}") from None
    except SpatialBoostError as error:
        raise SpatialBoostError(f"{where}: {error}") from None


def _from_folder(config: TrainConfig, folder: Path) -> TrainConfig:
    """The configuration with the relative paths of its file joined to the file's folder."""
    data = config.data.model_copy(update={"folders": [resolve_path(each, folder) for each in config.data.folders]})
    strategy = config.strategy
    if strategy is not None and strategy.file is not None:
        strategy = strategy.model_copy(update={"file": resolve_path(strategy.file, folder)})
    return config.model_copy(
        update={
            "encoder": resolve_paths(config.encoder, folder),
            "data": data,
            "teacher": config.teacher.from_folder(folder),
            "strategy": strategy,
            "out": folder / user_path(config.out),  # never a run of the same name in the working directory
        }
    )


@cache
def config_model(kind: str) -> type[TrainConfig]:
    """The configuration class for one kind of teacher: `TrainConfig` with the teacher's options and stages.

    Example:
        >>> list(config_model("pixel").model_fields)[-2:]
        ['head', 'boost']

    Raises:
        SpatialBoostError: No teacher has this name.
    """
    teacher = teacher_class(kind)
    stages: dict[str, Any] = {
        name: (stage.config | None, Field(default_factory=stage.config)) for name, stage in teacher.stages.items()
    }
    taken = sorted(set(stages) & set(TrainConfig.model_fields))
    if taken:
        raise SpatialBoostError(
            f"teacher {kind!r} has a stage {taken[0]!r}, but this is another key of a run's file: rename it"
        )
    return create_model("TrainConfig", __base__=TrainConfig, teacher=(teacher.Options, ...), **stages)


def _refuse_empty(source: Mapping[str, Any]) -> None:
    """Raise an error for a section without keys, of which only the name was written."""
    for section in ("encoder", "data", "teacher"):
        if section in source and source[section] is None:
            raise SpatialBoostError(
                f'the section "{section}" is empty: give its keys, or leave it out for the defaults'
            )


def _teacher_section(source: Mapping[str, Any]) -> dict[str, Any]:
    """The section `teacher`, with the default kind filled in."""
    section = source.get("teacher", {})
    if not isinstance(section, Mapping):
        raise SpatialBoostError(f'key "teacher": expected keys such as kind, found {section!r}'[:300])
    if not isinstance(section.get("kind", ""), str):
        raise SpatialBoostError(f'key "teacher.kind": expected a name, found {section["kind"]!r}'[:300])
    return {"kind": "language", **section}


def _refuse_moved(source: Mapping[str, Any]) -> None:
    """Raise an error with the new name if a key of an earlier version is used."""
    for old, new in MOVED.items():
        section, _, key = old.rpartition(".")
        found = source.get(section) if section else source
        if isinstance(found, Mapping) and key in found:
            raise SpatialBoostError(f'key "{old}" has moved to "{new}"')


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):  # the second is for dataclasses
        return f'unknown key "{key}"; known here: {_known(model, first["loc"][:-1])}{more}'
    if first["type"] == "missing":
        return f'key "{key}" is missing{more}'
    prefix = f'key "{key}": ' if key else ""
    return f"{prefix}{first['msg'].removeprefix('Value error, ')}, found {first['input']!r}"[:300] + more


def _known(model: type[BaseModel], path: tuple[int | str, ...]) -> str:
    """Names of the keys in the section at this path."""
    section: Any = model
    for part in path:
        annotation = section.model_fields[str(part)].annotation
        choices = [annotation, *get_args(annotation)]
        section = next(c for c in choices if is_dataclass(c) or (isinstance(c, type) and issubclass(c, BaseModel)))
    return ", ".join([each.name for each in fields(section)] if is_dataclass(section) else section.model_fields)

"""The keys of a run's file for the teacher ``language``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from spatialboost.encoders.run_file import resolve_path
from spatialboost.teachers.protocol import TeacherOptions
from spatialboost.training.config import BoostStageConfig, StageConfig


class LLMConfig(BaseModel):
    """The language model that teaches.

    Attributes:
        name: ``smollm2``, ``small``, a Hub id or a folder.
        kwargs: Arguments for `spatialboost.vlm.llms.build_small_llm` (kind, width, layers, heads, ...), or for
            ``from_pretrained`` of other models.
        dtype: Type of the weights. Use float32 if stage 2 trains the model: bfloat16 rounds small steps to zero.
        quantization: ``8bit`` or ``4bit``: read the weights of the linear layers in this precision (bitsandbytes, the
            extra ``quantized``), for a model that no stage trains. None does not.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    name: str = "smollm2"
    kwargs: dict[str, Any] = {}
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantization: Literal["8bit", "4bit"] | None = None

    @model_validator(mode="after")
    def _can_be_quantised(self) -> LLMConfig:
        if self.quantization and self.name in ("small", "smollm2"):
            raise ValueError(
                f'quantization: {self.quantization} needs safetensors, which "{self.name}" has not: give a folder or a '
                "Hub id"
            )
        return self


class LanguageOptions(TeacherOptions):
    """The keys of `teacher:` for ``kind: language``.

    Attributes:
        llm: The language model that teaches.
        places: Add a code of its position in the image to each visual token, see `spatialboost.vlm.SpatialVLM`. For a
            ``small`` language model, set ``places: true`` in its kwargs too.
        projector_start: ``random``: random weights. ``zero``: the last layer starts at zero, so visual tokens start
            as zeros; for a language model that was pretrained to treat zero tokens as no information. ``digits``:
            random weights, and the last bias starts at the mean embedding of the digits.
        standardise: The projector gets each channel of the features with mean 0 and variance 1, as measured on 64
            training images before stage 1.
        max_length: Largest number of tokens of a conversation; turns that do not fit are left out.
        earlier_run: Folder of another run, whose projector and, if it has one, whose language model of stage 2 this run
            begins with. `llm.name` is then not used.
        pool: Side of the squares of neighbouring patches whose mean is one visual token: 2 gives a quarter of the
            tokens. It must divide the rows and the columns of patches.
        prompt: How an image stands in the text. ``plain``: visual tokens one after the other, as in the paper.
            ``named``: each patch, or square of pooled patches, has a name such as B3 before its visual tokens, and
            questions say points by these names. ``coordinates``: the name is the place of its centre, such as
            (0.62, 0.38). See `spatialboost.vlm.image_prompt.ImagePrompt`.
        tokens_per_cell: Visual tokens that the projector makes of each patch or square of pooled patches.
    """

    kind: Literal["language"] = "language"
    llm: LLMConfig = LLMConfig()
    places: bool = False
    projector_start: Literal["random", "zero", "digits"] = "random"
    standardise: bool = False
    max_length: int | None = Field(default=2048, ge=8)
    earlier_run: Path | None = None
    pool: int = Field(default=1, ge=1)
    prompt: Literal["plain", "named", "coordinates"] = "plain"
    tokens_per_cell: int = Field(default=1, ge=1, le=64)

    def from_folder(self, folder: Path) -> LanguageOptions:
        """The options with their relative paths joined to the folder of the run's file."""
        path = resolve_path(self.llm.name, folder)
        name = str(path) if path.is_dir() and self.llm.name not in ("small", "smollm2") else self.llm.name
        earlier = None if self.earlier_run is None else resolve_path(self.earlier_run, folder)
        return self.model_copy(update={"llm": self.llm.model_copy(update={"name": name}), "earlier_run": earlier})

    def check_stages(self, stages: Mapping[str, StageConfig]) -> None:
        """A quantised language model cannot be trained."""
        if self.llm.quantization and "stage2" in stages:
            raise ValueError(
                f"stage2 trains the language model, which teacher.llm.quantization: {self.llm.quantization} makes "
                "impossible: set stage2: null (and teacher.earlier_run to a run that has trained it), or leave "
                "quantization out"
            )


class ChatKeys(BaseModel):
    """Which parts of the conversations a stage uses, and how.

    Attributes:
        turns: Keep only turns of these kinds; None keeps all.
        order: Order of the turns: ``forward`` (pixel, object, scene), ``reverse``, or ``random`` for each row by
            `seed`; captions stay last. None leaves them as the rows have them.
        shuffle_answers: For the control experiment: exchange answers between rows, among turns of the same kind, so
            that answers do not belong to the image. See `spatialboost.teachers.language.chats.ShuffledAnswers`.
        pack: Put short conversations of a batch into one row, without attention from one to another, so that less
            padding is computed. The batch and its loss stay the same. Useful if conversations differ in length, as with
            one and with several views.
    """

    turns: Annotated[list[str], Field(min_length=1)] | None = None
    order: Literal["forward", "reverse", "random"] | None = None
    shuffle_answers: bool = False
    pack: bool = False


class AlignConfig(StageConfig, ChatKeys):
    """Stage 1, feature alignment: train the projector. The default rate is that of LLaVA-1.5."""

    lr: float = Field(default=1e-3, gt=0)


class InstructConfig(StageConfig, ChatKeys):
    """Stage 2, instruction tuning: train projector and language model.

    The default rate is that of LLaVA-1.5, for a pretrained language model.

    Attributes:
        projector_lr: Highest learning rate of the projector; None uses `lr`.
    """

    lr: float = Field(default=2e-5, gt=0)
    projector_lr: float | None = Field(default=None, gt=0)


class BoostConfig(BoostStageConfig, ChatKeys):
    """Stage 3: train Attn+ and the gates.

    Attributes:
        train_projector: Train the projector too. The paper is not consistent on this.
        require_answers: Begin only if the language model answers better from the image than without it, on held-out
            rows; False begins in any case, with a warning. Not measured if no row is held out or `evaluate` is 0.
    """

    train_projector: bool = False
    require_answers: bool = True

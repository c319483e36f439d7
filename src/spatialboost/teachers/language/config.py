"""The keys of a run's file that belong to teaching by language."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from spatialboost.teachers.protocol import TeacherOptions
from spatialboost.training.config import BoostStageConfig, StageConfig


class LLMConfig(BaseModel):
    """The language model that teaches.

    Attributes:
        name: ``smollm2``, ``small``, a Hub id or a folder.
        kwargs: For `spatialboost.vlm.llms.build_small_llm` (kind, width, layers, heads, ...) or ``from_pretrained``.
        dtype: Of the weights. Keep float32 where stage 2 trains it: bfloat16 rounds small steps away.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: str = "smollm2"
    kwargs: dict[str, Any] = {}
    dtype: Literal["float32", "bfloat16"] = "float32"


class LanguageOptions(TeacherOptions):
    """The keys of `teacher:` for ``kind: language``.

    Attributes:
        llm: The language model that teaches.
        places: Give each visual token a code of its place in the image, see `spatialboost.vlm.SpatialVLM`; for a
            ``small`` language model, with ``places: true`` among its kwargs too.
        projector_start: ``random`` weights, or a last layer of ``zero``: then visual tokens begin as zeros, for a
            language model that has been taught that such tokens say nothing.
        max_length: Tokens of a conversation; whole turns beyond it are left out.
    """

    kind: Literal["language"] = "language"
    llm: LLMConfig = LLMConfig()
    places: bool = False
    projector_start: Literal["random", "zero"] = "random"
    max_length: int | None = Field(default=2048, ge=8)


class ChatKeys(BaseModel):
    """What a stage reads of the conversations.

    Attributes:
        turns: Keep only turns of these kinds; None keeps all.
        shuffle_answers: The control experiment: answers go to other rows, turn by turn and kind by kind, so that the
            words stay and what they say is wrong.
    """

    turns: list[str] | None = None
    shuffle_answers: bool = False


class AlignConfig(StageConfig, ChatKeys):
    """Stage 1, feature alignment: the projector alone. LLaVA-1.5's rate."""

    lr: float = Field(default=1e-3, gt=0)


class InstructConfig(StageConfig, ChatKeys):
    """Stage 2, instruction tuning: projector and language model. LLaVA-1.5's rate, for a pretrained language model.

    Attributes:
        projector_lr: Highest rate of the projector; None is `lr`.
    """

    lr: float = Field(default=2e-5, gt=0)
    projector_lr: float | None = Field(default=None, gt=0)


class BoostConfig(BoostStageConfig, ChatKeys):
    """Stage 3: Attn+ and the gates.

    Attributes:
        train_projector: Train the projector as well; the paper says both yes and no.
    """

    train_projector: bool = False

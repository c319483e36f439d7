"""The options of the teacher ``language-correspondence``, and the settings of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spatialboost.encoders.run_file import resolve_path
from spatialboost.teachers.correspondence.config import CorrespondenceOptions
from spatialboost.teachers.language.config import LanguageOptions
from spatialboost.training.config import StageConfig


class LanguageCorrespondenceOptions(CorrespondenceOptions, LanguageOptions):  # type: ignore[misc]  # both have `kind`
    """The keys of `teacher:` for ``kind: language-correspondence``: those of both teachers, and these.

    A block is one of the language model here: `layers` names those with a head, None is all, and the last one need not
    be among them. A patch is a visual token, so `grids` with 0 and `radius` count visual tokens.

    Attributes:
        instructions: Conversations that are learnt beside each sequence, so that the model keeps its language: 2 is two
            with each sequence, 0.5 is one with every second. The paper interleaves both and does not say how many.
        instruction_folders: Folders with the rows of these conversations; None takes those of the rows of `data`.
        rotary: For the scores: compare queries and keys as the attention gets them, turned by their positions. False
            compares them before. Open.
        lora_rank: Rank of the LoRA in the language model.
        lora_alpha: The LoRA's update is multiplied by alpha / rank; None is the rank. Open.
        lora_dropout: Dropout before the LoRA. Open.
        lora_layers: ``all`` linear layers of the blocks, or those of the ``attention``. Open.
    """

    kind: Literal["language-correspondence"] = "language-correspondence"  # type: ignore[assignment]
    instructions: float = Field(default=1.0, ge=0, le=64)
    instruction_folders: Annotated[list[Path], Field(min_length=1)] | None = None
    rotary: bool = False
    lora_rank: int = Field(default=128, ge=1)
    lora_alpha: float | None = Field(default=None, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_layers: Literal["all", "attention"] = "all"

    @model_validator(mode="after")
    def _one_token(self) -> LanguageCorrespondenceOptions:
        if self.tokens_per_cell != 1:
            raise ValueError(
                f"tokens_per_cell is {self.tokens_per_cell}, and a head needs one token for each place of the image"
            )
        return self

    def from_folder(self, folder: Path) -> LanguageCorrespondenceOptions:
        """The options with their relative paths joined to the folder of the run's file."""
        own = LanguageOptions.from_folder(self, folder)
        given = self.instruction_folders
        folders = None if given is None else [resolve_path(each, folder) for each in given]
        return own.model_copy(update={"instruction_folders": folders})  # type: ignore[return-value]

    def check_stages(self, stages: Mapping[str, StageConfig]) -> None:
        """A quantised language model cannot take what a LoRA has learnt."""
        if self.llm.quantization and "match" in stages:
            raise ValueError(
                f"match adds what it has learnt to the language model's weights, which teacher.llm.quantization: "
                f"{self.llm.quantization} makes impossible: leave quantization out, or set match: null"
            )


class MatchConfig(StageConfig):
    """Settings of the stage that trains the LoRA in the language model and the heads.

    Attributes:
        head_lr: Highest learning rate of the heads; None is four times `lr`, as in the paper.
        shuffle_pairs: For the control experiment: exchange the matches among the points of each view, so that no point
            is paired with itself.
    """

    head_lr: float | None = Field(default=None, gt=0)
    shuffle_pairs: bool = False

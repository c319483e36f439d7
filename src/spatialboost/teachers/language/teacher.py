"""The teacher ``language``: alignment, instruction, boost."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language.config import (
    AlignConfig,
    BoostConfig,
    InstructConfig,
    LanguageOptions,
    LLMConfig,
)
from spatialboost.teachers.protocol import Groups, Lesson, MakeExample, Row, Score, Stage, Teacher

if TYPE_CHECKING:
    from spatialboost.training.data import RowDataset
    from spatialboost.vlm.llms import Conversation
    from spatialboost.vlm.model import SpatialVLM

logger = logging.getLogger(__name__)

PROJECTOR = "projector.safetensors"
MOST_CONVERSATIONS = 10_000  # whose words a small new language model learns; reading all of 10^6 rows takes minutes


class LanguageTeacher(Teacher):
    """Three stages: the projector; projector and language model; Attn+ and gates.

    Args:
        vlm: Encoder, projector and language model.
        tokenizer: Of the language model.
        num_tokens: Visual tokens of one image.
        options: Of a run's file.
        seed: Of the order in which shuffled answers are dealt.

    Source: the paper's section 3.1; LLaVA-1.5 for the first two stages.
    """

    Options = LanguageOptions
    stages: ClassVar[Mapping[str, Stage]] = {
        "stage1": Stage(AlignConfig, cached=True, scored=False),
        "stage2": Stage(InstructConfig, cached=True),
        "stage3": Stage(BoostConfig, boosts=True),
    }

    def __init__(
        self,
        vlm: SpatialVLM,
        tokenizer: Any,
        num_tokens: int,
        *,
        options: LanguageOptions | None = None,
        seed: int = 0,
    ) -> None:
        from spatialboost.teachers.language.objective import LanguageObjective
        from spatialboost.vlm.collate import Collator

        self.vlm, self.tokenizer, self.num_tokens, self.seed = vlm, tokenizer, num_tokens, seed
        self.options = options or LanguageOptions()
        self.objective = LanguageObjective(vlm)
        self.collate = Collator(tokenizer.pad_token_id)

    @classmethod
    def columns(cls, options: LanguageOptions) -> Sequence[str]:
        """Images and conversations."""
        return ("images", "messages")

    @classmethod
    def build(cls, options: LanguageOptions, lesson: Lesson) -> LanguageTeacher:
        """Load the language model, or the one that stage 2 has left, and make a new projector."""
        from spatialboost.vlm.llms import load_llm
        from spatialboost.vlm.model import SpatialVLM, build_projector

        if "stage2" in lesson.finished:
            llm, tokenizer = load_llm(lesson.finished["stage2"] / "llm", dtype=getattr(torch, options.llm.dtype))
        else:
            llm, tokenizer = build_llm(options.llm, _conversations(lesson), lesson.seed)
        grid = lesson.images.grid if options.places else None
        projector = build_projector(lesson.encoder, llm)
        if options.projector_start == "zero":
            torch.nn.init.zeros_(projector[-1].get_parameter("weight"))
        vlm = SpatialVLM(lesson.encoder, llm, layer=lesson.layer, projector=projector, grid=grid)
        return cls(vlm, tokenizer, lesson.images.num_tokens, options=options, seed=lesson.seed)

    def groups(self, stage: str, config: Any) -> Groups:
        """The projector in stage 1; projector and language model in stage 2; if asked for, the projector in stage 3."""
        from spatialboost.training.optimizers import decay_groups

        projector, llm = self.vlm.projector, self.vlm.llm
        if stage == "stage1":
            return decay_groups(projector, config.lr, config.weight_decay)
        if stage == "stage2":
            groups = decay_groups(projector, config.projector_lr or config.lr, config.weight_decay)
            return groups + decay_groups(llm, config.lr, config.weight_decay)
        return decay_groups(projector, config.lr, config.weight_decay) if config.train_projector else []

    def make_example(self, config: Any, rows: Sequence[Row], numbers: Sequence[int]) -> MakeExample:
        """Tokens of the conversations, with the turns that the stage asks for."""
        from spatialboost.teachers.language.chats import ChatExamples, DealtAnswers

        turns = None if config is None else config.turns
        deal = DealtAnswers(numbers, self.seed) if config is not None and config.shuffle_answers else None
        return ChatExamples(
            rows, self.tokenizer, self.num_tokens, max_length=self.options.max_length, turns=turns, deal=deal
        )

    def score(self, rows: RowDataset) -> list[Score]:
        """Held-out questions, answered with the image, without it, and by the best constant guess."""
        from spatialboost.teachers.language.accuracy import answer_accuracy

        return answer_accuracy(self.vlm, self.tokenizer, rows, rows=self.options.evaluate)

    def save(self, stage: str, folder: Path) -> None:
        """The projector; after stage 2 the language model and its tokenizer, too."""
        from safetensors.torch import save_file

        state = {key: value.detach().cpu().contiguous() for key, value in self.vlm.projector.state_dict().items()}
        save_file(state, folder / PROJECTOR)
        if stage == "stage2":
            self.vlm.llm.save_pretrained(folder / "llm")
            self.tokenizer.save_pretrained(folder / "llm")

    def load(self, stage: str, folder: Path) -> None:
        """The projector; the language model of stage 2 has been loaded by `build`."""
        from safetensors.torch import load_file

        self.vlm.projector.load_state_dict(load_file(folder / PROJECTOR))

    def facts(self) -> dict[str, Any]:
        """The name of the language model, without the folders above it."""
        name = self.options.llm.name
        return {"llm": Path(name).name if Path(name).exists() else name}


def build_llm(config: LLMConfig, conversations: Iterable[Conversation], seed: int) -> tuple[Any, Any]:
    """The language model of a configuration and its tokenizer; `conversations` are the words of a ``small`` one."""
    from spatialboost.vlm.llms import load_llm

    options = {"seed": seed, **config.kwargs} if config.name == "small" else dict(config.kwargs)
    try:
        return load_llm(config.name, conversations=conversations, dtype=getattr(torch, config.dtype), **options)
    except TypeError as error:
        raise SpatialBoostError(f'llm.kwargs do not suit "{config.name}": {error}') from None


def _conversations(lesson: Lesson) -> Iterator[Conversation]:
    """Conversations of the training rows; of very many rows, a part that is spread over all of them."""
    count = len(lesson.training)
    step = max(1, -(-count // MOST_CONVERSATIONS))
    if step > 1:
        logger.info("a small language model takes its words from each %dth of %d rows", step, count)
    rows: Any = lesson.rows
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns(["messages"])  # the images are not read
    for number in lesson.training[::step]:
        try:
            messages = rows[number]["messages"]
            usable = all(isinstance(message["content"], (str, list)) for message in messages)
        except (SpatialBoostError, KeyError, TypeError):
            continue  # a bad row is named when it is met in training
        if usable:
            yield messages

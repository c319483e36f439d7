"""The teacher ``language``: feature alignment, instruction tuning, boost."""

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
from spatialboost.teachers.protocol import (
    BAD_DATA,
    Example,
    Groups,
    MakeExample,
    Readiness,
    Row,
    Score,
    Stage,
    Teacher,
    TeacherInputs,
)

if TYPE_CHECKING:
    from spatialboost.training.data import RowDataset
    from spatialboost.vlm.image_prompt import ImagePrompt
    from spatialboost.vlm.llms import Conversation
    from spatialboost.vlm.model import SpatialVLM

logger = logging.getLogger(__name__)

PROJECTOR, LLM = "projector.safetensors", "llm"
LLM_STAGES = ("match", "stage2")  # stages that train the language model; the first one is of `language-correspondence`
MOST_CONVERSATIONS = 10_000  # largest number that is read for the vocabulary of a small language model


class LanguageTeacher(Teacher):
    """The language teacher. Its three stages: projector; projector and language model; Attn+ and gates.

    Args:
        vlm: The model: encoder, projector and language model.
        tokenizer: Tokenizer of the language model.
        num_tokens: Visual tokens of one image.
        options: The options from a run's file; None uses the defaults.
        seed: Random seed for shuffled answers.

    Source: the paper's section 3.1; LLaVA-1.5 for the first two stages.
    """

    Options = LanguageOptions
    stages: ClassVar[Mapping[str, Stage]] = {
        "stage1": Stage(AlignConfig, cached=True, scored=False),
        "stage2": Stage(InstructConfig, cached=True),
        "stage3": Stage(BoostConfig, boosts=True),
    }
    savers: ClassVar[Mapping[str, Sequence[str]]] = {
        "stage1": ["teacher.llm.dtype=bfloat16"],
        "stage3": ["teacher.llm.dtype=bfloat16", "teacher.llm.quantization=4bit"],
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
        from spatialboost.vlm.llm_checks import num_positions

        self.vlm, self.tokenizer, self.num_tokens, self.seed = vlm, tokenizer, num_tokens, seed
        self.options = options or LanguageOptions()
        self.objective = LanguageObjective(vlm)
        self.collate, self.taught = Collator(tokenizer.pad_token_id), [vlm.llm]
        prompt_tokens = num_tokens if vlm.prompt is None else vlm.prompt.length(tokenizer)
        self.max_length = _longest(self.options.max_length, num_positions(vlm.llm), prompt_tokens)

    @classmethod
    def columns(cls, options: LanguageOptions) -> Sequence[str]:
        """``images`` and ``messages``."""
        return ("images", "messages")

    @classmethod
    def check_rows(cls, stages: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Refuse kinds of turn that are unknown."""
        from spatialboost.teachers.language.turns import check_kinds

        check_kinds(stages, rows)

    @classmethod
    def build(cls, options: LanguageOptions, inputs: TeacherInputs) -> LanguageTeacher:
        """Load the language model and make a new projector. If stage 2 is finished, its language model is loaded."""
        from spatialboost.teachers.language.projectors import make_projector
        from spatialboost.vlm.image_prompt import ImagePrompt
        from spatialboost.vlm.llm_checks import check_chats, check_embeddings
        from spatialboost.vlm.llms import load_llm
        from spatialboost.vlm.model import SpatialVLM
        from spatialboost.vlm.pooling import PatchPool

        pool = PatchPool(inputs.images.grid, options.pool)
        prompt = ImagePrompt(pool.grid, options.prompt, options.tokens_per_cell)
        earlier = None if options.earlier_run is None else last_stage(options.earlier_run)
        trained = next((inputs.finished[name] for name in LLM_STAGES if name in inputs.finished), earlier)
        saved = None if trained is None or not (trained / LLM).is_dir() else trained / LLM
        if saved is not None:
            dtype, quantization = getattr(torch, options.llm.dtype), options.llm.quantization
            llm, tokenizer = load_llm(saved, dtype=dtype, quantization=quantization)
        else:
            llm, tokenizer = build_llm(options.llm, _conversations(inputs, prompt), inputs.seed)
        check_embeddings(llm)
        check_chats(llm, tokenizer, _conversations(inputs, prompt))
        projector = make_projector(options, inputs, pool, llm, tokenizer, earlier)
        grid = pool.grid if options.places else None
        parts: dict[str, Any] = {"projector": projector, "pool": pool, "grid": grid, "prompt": prompt}
        vlm = SpatialVLM(inputs.encoder, llm, layer=inputs.layer, **parts)
        teacher = cls(vlm, tokenizer, prompt.num_tokens, options=options, seed=inputs.seed)
        new = {"llm": saved is None and options.llm.name == "small", "projector": earlier is None}
        teacher.taught = [getattr(vlm, name) for name in new if not new[name]]
        return teacher

    @classmethod
    def outline(cls, options: LanguageOptions, inputs: TeacherInputs) -> LanguageTeacher:
        """The same parts without weights, from the language model's configuration."""
        from spatialboost.teachers.language.outline import outline_teacher

        return outline_teacher(cls, options, inputs)

    def typical_example(self, config: Any) -> tuple[Example, int]:
        """A conversation about one image that is as long as is allowed."""
        from spatialboost.teachers.language.outline import typical_conversation

        words = self.vlm.llm.get_input_embeddings().weight.shape[0]
        names = 0 if self.vlm.prompt is None else self.vlm.prompt.length(self.tokenizer) - self.num_tokens
        return typical_conversation(self.max_length, self.num_tokens, words, names)

    def groups(self, stage: str, config: Any) -> Groups:
        """Stage 1: projector. Stage 2: projector and language model. Stage 3: projector if `train_projector`."""
        from spatialboost.training.optimizers import decay_groups

        projector, llm = self.vlm.projector, self.vlm.llm
        if stage == "stage1":
            return decay_groups(projector, config.lr, config.weight_decay)
        if stage == "stage2":
            groups = decay_groups(projector, config.projector_lr or config.lr, config.weight_decay)
            return groups + decay_groups(llm, config.lr, config.weight_decay)
        return decay_groups(projector, config.lr, config.weight_decay) if config.train_projector else []

    def prepare(self, stage: str, config: Any) -> None:
        """Turn packing on or off; refuse what the language model cannot do."""
        from spatialboost.vlm.llms import is_quantised

        if stage == "stage2" and is_quantised(self.vlm.llm):
            raise SpatialBoostError(
                "stage2 trains the language model, but its weights are quantised: load it without quantization"
            )
        self.vlm.set_packing(config.pack)

    def make_example(self, config: Any, rows: Sequence[Row], numbers: Sequence[int]) -> MakeExample:
        """Return a `ChatExamples`, which makes the tokens of a conversation with the turns chosen for the stage."""
        from spatialboost.teachers.language.chats import ChatExamples, ShuffledAnswers

        turns, order = (None, None) if config is None else (config.turns, config.order)
        shuffled = ShuffledAnswers(numbers, self.seed) if config is not None and config.shuffle_answers else None
        return ChatExamples(
            rows,
            self.tokenizer,
            self.num_tokens,
            max_length=self.max_length,
            turns=turns,
            shuffled=shuffled,
            order=order,
            seed=self.seed,
            prompt=self.vlm.prompt,
        )

    def readiness(self, stage: str, config: Any, rows: RowDataset) -> Readiness | None:
        """Before stage 3: whether the language model answers from the image, on held-out rows."""
        from spatialboost.teachers.language.readiness import measure_readiness

        return measure_readiness(
            self.vlm,
            self.tokenizer,
            rows,
            limit=self.options.evaluate,
            kinds=config.turns,
            required=config.require_answers,
        )

    def score(self, rows: RowDataset, *, every_kind: bool = False) -> list[Score]:
        """Score answers to held-out questions: with the image, without it, and the best constant answer."""
        from spatialboost.teachers.language.accuracy import answer_accuracy

        options: dict[str, Any] = {"kinds": None, "max_new_tokens": None} if every_kind else {}
        return answer_accuracy(self.vlm, self.tokenizer, rows, rows=self.options.evaluate, **options)

    def save(self, stage: str, folder: Path) -> None:
        """Save the projector; after stage 2, also the language model and its tokenizer."""
        from safetensors.torch import save_file

        state = {key: value.detach().cpu().contiguous() for key, value in self.vlm.projector.state_dict().items()}
        save_file(state, folder / PROJECTOR)
        if stage == "stage2":
            self.vlm.llm.save_pretrained(folder / LLM)
            self.tokenizer.save_pretrained(folder / LLM)

    def load(self, stage: str, folder: Path) -> None:
        """Load the projector; `build` has loaded the language model of stage 2."""
        from spatialboost.teachers.language.projectors import load_projector

        load_projector(self.vlm.projector, folder / PROJECTOR)

    def loaded(self) -> Sequence[torch.nn.Module]:
        """The language model, unless it is a new one, and the projector of an earlier run."""
        return self.taught

    def facts(self) -> dict[str, Any]:
        """The name of the language model; for a folder, only its last part."""
        name = self.options.llm.name
        return {"llm": Path(name).name if Path(name).exists() else name}


def last_stage(run: Path) -> Path:
    """The folder of the last finished stage of a run before its encoder was boosted.

    Raises:
        SpatialBoostError: There is none.
    """
    stages = [run / name for name in (*LLM_STAGES, "stage1")]
    found = next((each for each in stages if (each / "result.json").is_file() and (each / PROJECTOR).is_file()), None)
    if found is None:
        raise SpatialBoostError(
            f"earlier_run: {run} has no finished stage that trained a projector ({', '.join(LLM_STAGES)} or stage1); "
            "expected the folder of a run of the teacher language or language-correspondence"
        )
    return found


def build_llm(config: LLMConfig, conversations: Iterable[Conversation], seed: int) -> tuple[Any, Any]:
    """The language model of a configuration and its tokenizer; a ``small`` one has the words of `conversations`."""
    from spatialboost.vlm.llms import load_llm

    options = {"seed": seed, **config.kwargs} if config.name == "small" else dict(config.kwargs)
    options |= {"dtype": getattr(torch, config.dtype), "quantization": config.quantization}
    try:
        return load_llm(config.name, conversations=conversations, **options)
    except SpatialBoostError:
        raise
    except Exception as error:  # whatever transformers raises on arguments that it does not know
        if not config.kwargs:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SpatialBoostError(f'llm.kwargs are wrong for "{config.name}": {reason}; found {config.kwargs}') from error


def _longest(wanted: int | None, positions: int | None, num_tokens: int) -> int | None:
    """The largest number of tokens of a conversation: what is wanted, but at most what the model was made for."""
    if positions is None or (wanted is not None and wanted <= positions):
        return wanted
    if num_tokens >= positions:
        raise SpatialBoostError(
            f"an image takes {num_tokens} tokens, and the language model was made for sequences of at most "
            f"{positions} tokens: choose a smaller data.image_size, a larger pool or another language model"
        )
    if wanted is not None:
        logger.warning(
            "max_length is %d, but the language model was made for at most %d tokens: longer conversations are cut "
            "there, after a whole answer",
            wanted,
            positions,
        )
    return positions


def _conversations(inputs: TeacherInputs, prompt: ImagePrompt) -> Iterator[Conversation]:
    """Conversations of evenly spaced training rows, at most `MOST_CONVERSATIONS` of them, with all their text."""
    count = len(inputs.training)
    step = max(1, -(-count // MOST_CONVERSATIONS))
    if step > 1:
        logger.info("the vocabulary of a small language model comes from one in %d of %d rows", step, count)
    from spatialboost.vlm.chat import plain_messages

    rows: Any = inputs.rows
    if hasattr(rows, "select_columns"):
        rows = rows.select_columns(["messages"])  # the images are not read
    for number in inputs.training[::step]:
        try:
            yield prompt.spelled(plain_messages(rows[number]["messages"]))
        except BAD_DATA:
            continue  # training reports bad rows when it reads them

"""The teacher ``language-correspondence``: heads in the layers of a language model, with a LoRA, on sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.correspondence.config import CorrespondenceBoostConfig
from spatialboost.teachers.correspondence.language.config import LanguageCorrespondenceOptions, MatchConfig
from spatialboost.teachers.correspondence.language.examples import (
    SequenceCollator,
    SequenceExamples,
    sequence_tokens,
)
from spatialboost.teachers.correspondence.language.matches import read_attention
from spatialboost.teachers.correspondence.language.objective import LanguageCorrespondenceObjective
from spatialboost.teachers.correspondence.measures import Tally
from spatialboost.teachers.correspondence.sequences import COLUMNS, Sequences
from spatialboost.teachers.correspondence.teacher import (
    HEAD_RATE,
    HEADS,
    check_views,
    load_heads,
    match_scores,
    save_heads,
    typical_sequence,
)
from spatialboost.teachers.language.config import AlignConfig
from spatialboost.teachers.language.teacher import LLM, LanguageTeacher
from spatialboost.teachers.protocol import Example, Groups, MakeExample, Readiness, Row, Score, Stage, TeacherInputs
from spatialboost.training.optimizers import decay_groups, groups_of
from spatialboost.vlm.blocks import block_numbers
from spatialboost.vlm.image_prompt import ImagePrompt
from spatialboost.vlm.lora import add_lora, lora_parameters, merge_lora

if TYPE_CHECKING:
    from spatialboost.training.data import RowDataset

ANSWERS = "answer tokens"


class LanguageCorrespondenceTeacher(LanguageTeacher):
    """GASP as in its paper. Its stages:

    - ``stage1``: the projector alone, as of the teacher ``language``; not needed with `earlier_run`.
    - ``match``: a LoRA in the language model, and heads on the visual tokens of its layers. The heads are dropped
      afterwards: what is left is a plain language model, in ``match/llm``.
    - ``boost``: Attn+ of the encoder and the heads, through the frozen language model (ours).

    Source: GASP (arXiv 2605.30231).
    """

    Options = LanguageCorrespondenceOptions  # type: ignore[assignment]  # a subclass has its own keys
    stages: ClassVar[Mapping[str, Stage]] = {
        "stage1": Stage(AlignConfig, cached=True, scored=False),
        "match": Stage(MatchConfig),
        "boost": Stage(CorrespondenceBoostConfig, boosts=True),
    }
    savers: ClassVar[Mapping[str, Sequence[str]]] = {
        "stage1": ["teacher.llm.dtype=bfloat16"],
        "match": ["teacher.llm.dtype=bfloat16", "teacher.frames=[2, 8]"],
        "boost": ["teacher.llm.dtype=bfloat16", "teacher.frames=[2, 8]"],
    }
    options: LanguageCorrespondenceOptions
    objective: LanguageCorrespondenceObjective

    @classmethod
    def columns(cls, options: Any) -> Sequence[str]:
        """Images, messages, depth maps, poses and intrinsics."""
        return (*COLUMNS, "messages")

    @classmethod
    def check_rows(cls, stages: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Raise an error if no row has several views, or a kind of turn is unknown."""
        super().check_rows({name: stage for name, stage in stages.items() if name == "stage1"}, rows)
        if {"match", "boost"} & set(stages):
            check_views(rows)

    @classmethod
    def build(cls, options: Any, inputs: TeacherInputs) -> LanguageCorrespondenceTeacher:
        """Load the language model, with a LoRA that changes nothing yet, and make the heads from its projections."""
        teacher: Any = super().build(options, inputs)
        teacher._add_parts(inputs)
        return teacher

    @classmethod
    def outline(cls, options: Any, inputs: TeacherInputs) -> LanguageCorrespondenceTeacher:
        """The same parts without weights."""
        teacher: Any = super().outline(options, inputs)
        teacher._add_parts(inputs)
        return teacher

    def _add_parts(self, inputs: TeacherInputs) -> None:
        options = self.options
        self.images, pool = inputs.images, self.vlm.pool
        self.grid = inputs.images.grid if pool is None else pool.grid
        self.objective = LanguageCorrespondenceObjective(self.vlm, options, grid=self.grid)
        self.collate = SequenceCollator(self.tokenizer.pad_token_id)
        own: Any = {"alpha": options.lora_alpha, "dropout": options.lora_dropout, "where": options.lora_layers}
        if options.llm.quantization is None:  # else the stage that trains it is refused
            add_lora(self.vlm.llm, options.lora_rank, seed=inputs.seed, **own)

    def typical_example(self, config: Any) -> tuple[Example, int]:
        """A sequence of the largest number of views and points, and conversations that are as long as is allowed."""
        talk, images = super().typical_example(config)
        if isinstance(config, AlignConfig):
            return talk, images
        options = self.options
        views, tokens = options.frames[1], self.grid[0] * self.grid[1]
        count = -int(-options.instructions // 1)
        ids = torch.zeros(views * tokens, dtype=torch.long)
        sequence = {"input_ids": ids, "labels": ids - 100, "visual_mask": ids == 0}
        talks = [sequence, *[talk] * count]
        example = {name: torch.cat([each[name] for each in talks]) for name in sequence}
        example |= {"turns": torch.full_like(example["labels"], -1)}
        example |= {"lengths": torch.tensor([len(each["input_ids"]) for each in talks])}
        return {**example, **typical_sequence(options, self.grid)}, views + count * images

    def groups(self, stage: str, config: Any) -> Groups:
        """The LoRA and the heads in ``match``, the heads in ``boost``; heads have four times the rate by default."""
        if stage == "stage1":
            return super().groups(stage, config)
        rate = config.head_lr or HEAD_RATE * config.lr
        groups = decay_groups(self.objective.heads, rate, config.weight_decay)
        if stage == "boost":
            return groups
        return groups_of(lora_parameters(self.vlm.llm), config.lr, config.weight_decay) + groups

    def prepare(self, stage: str, config: Any) -> None:
        """Refuse layers of which some would get no gradient."""
        if stage == "stage1":
            super().prepare(stage, config)
            return
        self.vlm.set_packing(False)
        blocks = block_numbers(self.vlm.llm, None)
        if stage == "match" and not self.options.instructions and self.objective.layers[-1] != blocks[-1]:
            raise SpatialBoostError(
                f"teacher.layers ends at block {self.objective.layers[-1]} of {len(blocks)}, and without conversations "
                "(teacher.instructions: 0) the LoRA above it would learn nothing: add the last block, or conversations"
            )

    def make_example(self, config: Any, rows: Sequence[Row], numbers: Sequence[int]) -> MakeExample:
        """Return a `SequenceExamples`; for held-out rows, one that takes all views in order and the row's own chat."""
        if isinstance(config, AlignConfig):
            return super().make_example(config, rows, numbers)
        shuffle = config is not None and config.shuffle_pairs
        whole = config is None
        sequences = Sequences(self.images, self.grid, self.options, seed=self.seed, shuffle=shuffle, whole=whole)
        drawn: Sequence[int] | None = None if whole else numbers
        folders = self.options.instruction_folders
        if folders is not None and not whole:
            from spatialboost.scenes.dataset.reader import open_rows

            rows = open_rows(folders).select_columns(["images", "messages"])
            drawn = range(len(rows))
        return SequenceExamples(
            sequences,
            super().make_example(None, rows, numbers),  # type: ignore[arg-type]  # a `ChatExamples`
            rows,
            drawn,
            self.images,
            1.0 if whole else self.options.instructions,
            partial(sequence_tokens, self.tokenizer, self.vlm.prompt or ImagePrompt(self.grid)),
            self.seed,
        )

    def readiness(self, stage: str, config: Any, rows: RowDataset) -> Readiness | None:
        """No condition: what the heads teach does not depend on how well the language model answers."""
        return None

    @torch.no_grad()
    def score(self, rows: RowDataset, *, every_kind: bool = False) -> list[Score]:
        """Score how well the language model's own queries and keys match points, and how well it knows the answers.

        `every_kind` adds each layer, and each number of frames between the two views. Of the answers, the share of
        tokens is counted that the model finds most probable after the true ones before them.
        """
        was_training = self.objective.training
        self.objective.eval()
        device = next(self.objective.parameters()).device
        read = partial(read_attention, tokenizer=self.tokenizer, grid=self.grid, rotary=self.options.rotary)
        tally = Tally(self.vlm, self.objective.layers, self.options.radius, read=read)
        losses, answers = [], []
        for _, example in rows.usable(self.options.evaluate):
            views = len(example["visible"])
            tally.add({**example, "pixel_values": example["pixel_values"][:views]})
            own = {name: value for name, value in example.items() if name not in ("pixel_values", "places", "row")}
            batch = {**self.collate([own]), "pixel_values": example["pixel_values"]}
            found = self.objective(**{name: value.to(device) for name, value in batch.items()})
            count = int(self.objective.num_items(batch)[0])
            losses.append(float(found["loss"] - found["language"]))
            answers.append((count, float(found["language"]), float(found["right"])))
        self.objective.train(was_training)
        if not losses:
            return []
        reasons = {str(row): reason for row, reason in rows.skipped.items()}
        scores = match_scores(tally, losses, reasons, every_kind=every_kind)
        total = sum(count for count, *_ in answers)
        loss, right = (sum(each[0] * each[i] for each in answers) / total for i in (1, 2))
        return [*scores, Score(ANSWERS, "image", total, right, loss=loss)]

    def save(self, stage: str, folder: Path) -> None:
        """Save the projector and the heads, to resume; after ``match``, the language model with what it has learnt.

        The LoRA is then part of the weights of the language model, also of the one in memory.
        """
        super().save(stage, folder)
        if stage == "stage1":
            return
        save_heads(self.objective.heads, folder / HEADS)
        if stage == "match":
            state = merge_lora(self.vlm.llm)
            self.vlm.llm.save_pretrained(folder / LLM, state_dict=state)
            self.tokenizer.save_pretrained(folder / LLM)

    def load(self, stage: str, folder: Path) -> None:
        """Load the projector and the heads; `build` has loaded the language model of ``match``."""
        super().load(stage, folder)
        if stage != "stage1":
            load_heads(self.objective.heads, folder / HEADS)

    def loaded(self) -> Sequence[torch.nn.Module]:
        """The language model and an earlier projector, as of the teacher ``language``; and the heads.

        The heads are new, but `stage1` does not read them, and the other stages train them.
        """
        return [*super().loaded(), self.objective.heads]

    def facts(self) -> dict[str, Any]:
        """The language model, its supervised layers and the losses."""
        kept = ("temperature", "contrast_weight", "depth_weight", "negatives", "grids", "instructions", "lora_rank")
        own = {name: getattr(self.options, name) for name in kept}
        return {**super().facts(), "layers": self.objective.layers, **own}

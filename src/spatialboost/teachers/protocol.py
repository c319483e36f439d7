"""The interface between a teacher and the trainer.

The trainer (`spatialboost.training`) reads data, caches features of the frozen encoder, boosts, optimises, checks,
checkpoints, resumes and saves. It uses a teacher only through the `Teacher` class below.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import default_collate

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    from spatialboost.training.config import StageConfig
    from spatialboost.training.data import RowDataset, RowImages

Row = Mapping[str, Any]  # one row of a data set: "images", "messages", "meta" and other columns
Example = dict[str, Tensor]
MakeExample = Callable[[int, Row], Example]
Groups = list[dict[str, Any]]

# What a bad row raises when it is read or made into an example; `SpatialBoostError` and JSON errors are ValueErrors.
# Other errors are mistakes in the program and end the training.
BAD_DATA = (ValueError, OSError)


class TeacherOptions(BaseModel):
    """The keys of `teacher:` in a run's file; a teacher adds its own.

    Attributes:
        kind: Name of the teacher.
        evaluate: Number of held-out rows that are scored after each stage; 0 scores none.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    kind: str
    evaluate: int = Field(default=32, ge=0)

    def from_folder(self, folder: Path) -> TeacherOptions:
        """The options with their relative paths joined to the folder of the run's file; most teachers have none."""
        return self

    def check_stages(self, stages: Mapping[str, StageConfig]) -> None:
        """Raise a ValueError if these options do not go with the stages of the run; nothing is loaded yet."""
        return None


@dataclass(frozen=True)
class Stage:
    """One stage of a teacher's training, as the trainer uses it.

    Attributes:
        config: Class with the keys of this stage in a run's file and their defaults.
        boosts: True: boost the encoder's blocks up to the one that is read, and train Attn+ and the gates. False: the
            encoder is frozen.
        cached: True: the stage gets features of the frozen encoder, computed once for each image; not allowed if the
            stage boosts. False: the stage gets pixels.
        scored: Score held-out rows after this stage.
    """

    config: type[StageConfig]
    boosts: bool = False
    cached: bool = False
    scored: bool = True


@dataclass(frozen=True)
class TeacherInputs:
    """What a teacher is built from, see `Teacher.build`.

    Attributes:
        encoder: The encoder to train.
        rows: All rows of the data set; a row is read when it is indexed.
        training: Numbers of the training rows, in order; the teacher must not use the other rows.
        images: Turns the images of a row into pixel values; has the image size and the patch grid.
        layer: Block of the encoder whose output is read.
        seed: Random seed for new weights.
        finished: Stage name -> folder, for stages that were finished before this run was resumed.
    """

    encoder: nn.Module
    rows: Sequence[Row]
    training: Sequence[int]
    images: RowImages
    layer: int = -1
    seed: int = 0
    finished: Mapping[str, Path] = field(default_factory=dict)


class Objective(nn.Module):
    """The encoder and the teacher's other modules; ``forward(**batch)`` returns a dictionary with ``loss``.

    A batch contains the output of the teacher's `collate` and the images of all rows, concatenated: ``pixel_values``
    ``(I, 3, H, W)``, or ``patch_features`` ``(I, N, D)`` in a cached stage.

    A mean over another number of items in each batch, such as tokens, depends on how the rows are divided among batches
    and processes. It does not if the class has ``accepts_loss_kwargs = True`` and ``forward`` divides its sums by
    ``num_items_in_batch``: by default the number of labels that are not -100, or what a method ``num_items(batch)``
    counts. The trainer adds these numbers over all batches of an optimiser step, in all processes.

    Attributes:
        encoder: The encoder that is trained.
        layer: Block of the encoder whose output is read.
    """

    encoder: nn.Module
    layer: int = -1

    def train(self, mode: bool = True) -> Objective:
        """Set training mode, but keep a part in evaluation mode if all its parameters are frozen."""
        super().train(mode)
        for part in self.children():
            parameters = list(part.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                part.eval()
        return self


@dataclass(frozen=True)
class Sample:
    """One answer of a model beside the truth, to look at.

    Attributes:
        row: Number of the row.
        turn: Place of the question in the row's conversation.
        kind: Kind of question.
        question: The question.
        truth: The true answer.
        replies: Way to answer, as in `Score.answerer` -> reply.
        right: Way to answer -> whether its reply counts as right.
    """

    row: int
    turn: int
    kind: str
    question: str
    truth: str
    replies: Mapping[str, str]
    right: Mapping[str, bool]


@dataclass(frozen=True)
class Score:
    """The score of one kind of question or one quantity, for one way to answer.

    Attributes:
        kind: A kind of question, or a quantity such as ``depth``.
        answerer: ``image``: the model itself. ``text``: the model with the mean features of all images instead of the
            image's own. ``guess``: the constant answer with the best score on these rows.
        answers: Number of scored answers.
        accuracy: Share of correct answers; for lengths, share of answers with an error of at most 25 %.
        relative_error: Mean of abs(answer - truth) / truth, for lengths.
        loss: Mean loss on the true answers; None for ``guess``.
        interval: Where the accuracy on unlimited rows is to be expected, with a probability of 95 %; None if not known.
        correlation: Between the model's confidence in an answer and its being right; None if not known.
        samples: A few of the answers; with ``image`` only.
    """

    kind: str
    answerer: str
    answers: int
    accuracy: float
    relative_error: float | None = None
    loss: float | None = None
    interval: tuple[float, float] | None = None
    correlation: float | None = None
    samples: Sequence[Sample] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the score as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Readiness:
    """Whether a teacher has learnt enough to teach the encoder, see `Teacher.readiness`.

    Attributes:
        kinds: Kind of question or quantity -> numbers by name: how much better it is done with the image than without
            it (``gain``), the probability of such a difference by chance (``p``), and others.
        ready: Whether the stage may begin.
        reason: One sentence for the user.
        required: Whether a stage that is not ready is refused; otherwise the reason is a warning.
    """

    kinds: Mapping[str, Mapping[str, float]]
    ready: bool
    reason: str
    required: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return it as a dictionary."""
        return asdict(self)


def row_images(row: Row) -> list[Any]:
    """The images of a row, not decoded.

    Raises:
        SpatialBoostError: The row has no list of images.
    """
    images = row.get("images")
    if not isinstance(images, (list, tuple)):
        raise SpatialBoostError(f"`images` is {images!r:.80}; expected a list of images")
    return list(images)


def row_meta(row: Row, key: str, field: str) -> list[str]:
    """One field of each item of a list in the column ``meta``; an empty list if there is no such list.

    Example:
        >>> row_meta({"meta": '{"turns": [{"kind": "depth"}]}'}, "turns", "kind")
        ['depth']

    Raises:
        SpatialBoostError: The column is not JSON, or has another structure.
    """
    meta = row.get("meta")
    if isinstance(meta, str) and meta:
        try:
            meta = json.loads(meta)
        except (ValueError, RecursionError) as error:
            raise SpatialBoostError(f"`meta` is not JSON ({error}): {meta[:80]!r}") from None
    items = [] if meta is None or meta == "" else meta.get(key) or [] if isinstance(meta, Mapping) else None
    if not isinstance(items, (list, tuple)) or not all(isinstance(each, Mapping) and field in each for each in items):
        raise SpatialBoostError(f"`meta` is {meta!r:.80}; expected {{{key}: [{{{field}: ...}}, ...]}}")
    return [str(each[field]) for each in items]


class Teacher(ABC):
    """Base class of the teachers. Its class attributes are read before anything is loaded.

    To add a teacher, write a subclass and add one line to `spatialboost.teachers.registry.TEACHERS`; see the example
    in ``docs/training-reference.md``.

    Attributes:
        Options: Class with the keys of `teacher:` in a run's file.
        stages: Stage name -> stage, in the order of training. A name is a key of a run's file and a folder of a run.
        savers: Stage name -> settings of the teacher that make it need less memory, such as ``teacher.width=64``; the
            plan of a run tries them if its stage does not fit.
        objective: The encoder and the teacher's other modules, with the loss.
        collate: Makes a batch of examples without their images. It runs in worker processes, so it must be picklable.
    """

    Options: ClassVar[type[TeacherOptions]] = TeacherOptions
    stages: ClassVar[Mapping[str, Stage]]

    savers: ClassVar[Mapping[str, Sequence[str]]] = {}

    objective: Objective
    collate: Callable[[Sequence[Example]], dict[str, Any]] = staticmethod(default_collate)  # type: ignore[assignment]

    @classmethod
    def columns(cls, options: Any) -> Sequence[str]:
        """Columns that the rows must have; ``meta`` is also read if there is one."""
        return ("images",)

    @classmethod
    def check_rows(cls, stages: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Raise an error if the stages cannot be trained on these rows; called before anything is loaded.

        Args:
            stages: Stage name -> its settings.
            rows: All rows. Read few of them, as there may be millions.
        """
        return None

    @classmethod
    @abstractmethod
    def build(cls, options: Any, inputs: TeacherInputs) -> Teacher:
        """Make the teacher: its modules and the objective.

        Args:
            options: An instance of `Options`.
            inputs: The encoder, the rows and the settings of the run.
        """

    @classmethod
    def outline(cls, options: Any, inputs: TeacherInputs) -> Teacher:
        """Make the teacher without reading weights, to plan the memory of a run: its tensors need no values.

        The default calls `build` with new tensors on the meta device.

        Args:
            options: An instance of `Options`.
            inputs: The encoder on the meta device, and the rows; there are none if the data does not exist yet.
        """
        with torch.device("meta"):
            return cls.build(options, inputs)

    def typical_example(self, config: Any) -> tuple[Example, int] | None:
        """An example as large as the largest ones, and its number of images, for a plan without data.

        None if only the rows can tell.

        Args:
            config: Settings of the stage.
        """
        return None

    @abstractmethod
    def groups(self, stage: str, config: Any) -> Groups:
        """Parameter groups that a stage trains in addition to Attn+ and the gates, each with its highest ``lr``.

        The trainer freezes all other parameters.
        """

    def prepare(self, stage: str, config: Any) -> None:
        """Set what a stage's settings change in the teacher's modules, apart from their weights.

        It is called before a stage is trained. For the stages of a run, it is first called before the first of them, so
        that settings which cannot be used end the run there.

        Raises:
            SpatialBoostError: The stage cannot be trained with these settings.
        """
        return None

    def make_example(self, config: Any, rows: Sequence[Row], numbers: Sequence[int]) -> MakeExample:
        """Return a function that makes tensors from a row's number and the row; the trainer adds the images.

        The function is called in worker processes, so it must be picklable and should not contain the model. If it
        raises a ValueError (such as `SpatialBoostError`) or an OSError, the row counts as bad and another row is used
        instead. Any other error ends the training.

        Args:
            config: Settings of the stage; None for held-out rows.
            rows: All rows.
            numbers: Numbers of the rows in this data set, for examples that are made of several rows.
        """
        return lambda number, row: {}

    def readiness(self, stage: str, config: Any, rows: RowDataset) -> Readiness | None:
        """Measure on held-out rows whether a stage that boosts may begin; None if the teacher has no such condition.

        Args:
            stage: Name of the stage.
            config: Settings of the stage.
            rows: Held-out rows.
        """
        return None

    def score(self, rows: RowDataset, *, every_kind: bool = False) -> list[Score]:
        """Score held-out rows.

        Args:
            rows: Held-out rows; score at most `TeacherOptions.evaluate` of them.
            every_kind: Score also what is too slow to score after each stage.
        """
        return []

    def loaded(self) -> Sequence[nn.Module]:
        """Parts of the objective, beside the encoder, whose weights come from elsewhere.

        All other parts are new. A stage that leaves a new part as it is, with random weights, is refused.
        """
        return ()

    def save(self, stage: str, folder: Path) -> None:
        """Save the teacher's modules after a stage. The trainer saves the boosted weights."""
        return None

    def load(self, stage: str, folder: Path) -> None:
        """Load the files of `save`."""
        return None

    def facts(self) -> dict[str, Any]:
        """Facts about this teacher to record in the file of boosted weights."""
        return {}

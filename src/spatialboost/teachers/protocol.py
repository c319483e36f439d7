"""What a teacher gives the trainer.

The trainer (`spatialboost.training`) reads data, caches what the frozen encoder gives, boosts, optimises, checks,
checkpoints, resumes and saves. It knows a teacher by the `Teacher` class below and by nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import default_collate

if TYPE_CHECKING:
    from spatialboost.training.config import StageConfig
    from spatialboost.training.data import RowDataset, RowImages

Row = Mapping[str, Any]  # one row of a data set: "images", "messages", "meta", and what else its builder wrote
Example = dict[str, Tensor]
MakeExample = Callable[[int, Row], Example]
Groups = list[dict[str, Any]]


class TeacherOptions(BaseModel):
    """The keys of `teacher:` in a run's file; a teacher adds its own.

    Attributes:
        kind: Name of the teacher.
        evaluate: Held-out rows that are scored after each stage; 0 scores none.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    kind: str
    evaluate: int = Field(default=32, ge=0)


@dataclass(frozen=True)
class Stage:
    """One stage of a teacher's training, as the trainer has to know it.

    Attributes:
        config: The keys of this stage in a run's file, with their defaults.
        boosts: Boost the encoder's blocks up to the one that is read, and train Attn+ and the gates. Without it the
            encoder is frozen.
        cached: The stage reads features of the frozen encoder, which are computed once for each image; without it the
            stage reads pixels. Only for a stage that does not boost.
        scored: Score held-out rows after it.
    """

    config: type[StageConfig]
    boosts: bool = False
    cached: bool = False
    scored: bool = True


@dataclass(frozen=True)
class Lesson:
    """What a teacher is built from.

    Attributes:
        encoder: The encoder that is to be taught.
        rows: All rows of the data set, read when they are asked for.
        training: Numbers of the rows that teach; the others must not be looked at.
        images: How the images of a row become pixel values; says the image size and the grid of patches.
        layer: Block of the encoder whose output is read.
        seed: Of new weights.
        finished: Folders of the stages that an earlier process of this run has finished.
    """

    encoder: nn.Module
    rows: Sequence[Row]
    training: range
    images: RowImages
    layer: int = -1
    seed: int = 0
    finished: Mapping[str, Path] = field(default_factory=dict)


class Objective(nn.Module):
    """The encoder with all that the teacher adds to it; ``forward(**batch)`` gives a dictionary with ``loss``.

    A batch holds what the teacher's `collate` made, and beside it the images of all rows one after another:
    ``pixel_values`` ``(I, 3, H, W)``, or in a cached stage ``patch_features`` ``(I, N, D)``.

    Attributes:
        encoder: The encoder that is taught.
        layer: Block of the encoder whose output is read.
    """

    encoder: nn.Module
    layer: int = -1

    def train(self, mode: bool = True) -> Objective:
        """Training mode for the parts that learn; a part that is wholly frozen stays in evaluation mode."""
        super().train(mode)
        for part in self.children():
            parameters = list(part.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                part.eval()
        return self


@dataclass(frozen=True)
class Score:
    """How well one quantity or kind of question is answered, by one way of answering.

    Attributes:
        kind: A kind of question, or a quantity such as ``depth``.
        answerer: ``image`` is the model itself; ``text`` the model that sees the mean of all images' features instead
            of the image; ``guess`` the one answer that suits the scored rows best, for which no image is needed.
        answers: How many were scored.
        accuracy: Share of right ones; for lengths, share within 25 %.
        relative_error: Mean of abs(answer - truth) / truth, for lengths.
        loss: Mean loss on the true answers; none for the guess.
    """

    kind: str
    answerer: str
    answers: int
    accuracy: float
    relative_error: float | None = None
    loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        return asdict(self)


class Teacher(ABC):
    """Something that an encoder is taught by. Class attributes are read before anything is loaded.

    A new teacher is one file with a subclass and one line in `spatialboost.teachers.registry.TEACHERS`; see
    ``docs/training.md`` for one of thirty lines.

    Attributes:
        Options: The keys of `teacher:` in a run's file.
        stages: In the order in which they are run; the names are keys of a run's file and folders of a run.
        objective: The encoder and the parts beside it.
        collate: Makes a batch of examples, without their images. It is sent to worker processes, so it must pickle.
    """

    Options: ClassVar[type[TeacherOptions]] = TeacherOptions
    stages: ClassVar[Mapping[str, Stage]]

    objective: Objective
    collate: Callable[[Sequence[Example]], dict[str, Any]] = staticmethod(default_collate)  # type: ignore[assignment]

    @classmethod
    def columns(cls, options: Any) -> Sequence[str]:
        """Columns that a row must have; ``meta`` is read beside them where there is one."""
        return ("images",)

    @classmethod
    @abstractmethod
    def build(cls, options: Any, lesson: Lesson) -> Teacher:
        """Make the parts beside the encoder, and the objective.

        Args:
            options: Of the class `Options`, checked.
            lesson: What to build from.
        """

    @abstractmethod
    def groups(self, stage: str, config: Any) -> Groups:
        """Parameter groups that a stage trains beside Attn+ and the gates, each with its highest ``lr``.

        All other parameters are frozen by the trainer.
        """

    def make_example(self, config: Any, rows: Sequence[Row], numbers: Sequence[int]) -> MakeExample:
        """A function from a row's number and the row to tensors; the trainer adds the images.

        The function is called in worker processes, so it must pickle and should not hold the model. What it raises
        marks the row as unusable: another row takes its place.

        Args:
            config: Of the stage; None for held-out rows.
            rows: All rows.
            numbers: Those of this data set, for examples that are made of several rows.
        """
        return lambda number, row: {}

    def score(self, rows: RowDataset) -> list[Score]:
        """Score held-out rows.

        Args:
            rows: At most `TeacherOptions.evaluate` of them are to be scored.
        """
        return []

    def save(self, stage: str, folder: Path) -> None:
        """Save the parts beside the encoder, as a stage has left them; the trainer saves the boosted weights."""
        return None

    def load(self, stage: str, folder: Path) -> None:
        """Load what `save` saved."""
        return None

    def facts(self) -> dict[str, Any]:
        """What is recorded of this teacher in the file of boosted weights."""
        return {}

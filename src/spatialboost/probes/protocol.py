"""The base class of probes, and the table of all probes.

A new probe is one file with a class such as this one, and one line in `PROBES`:

    @dataclass(frozen=True)
    class BrightnessProbe(Probe):
        name = "brightness"
        metrics = {"error": Metric("mean error")}
        splits = ViewSplits
        baseline = "mean brightness"
        ridge: Annotated[float, "Added to the diagonal."] = 0.001  # has a text: also a command-line option

        def keep(self, item, grid, image_size): ...        # what is kept of a view in addition to its features
        def measure(self, name, train, test, draws, shown): ...  # one row for each draw
        def measure_baseline(self, train, test): ...         # the score without looking at the images

`run.run_probe` and ``spatialboost probe brightness`` do the rest.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from spatialboost.errors import unknown

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from spatialboost.probes.draws import Draw
    from spatialboost.probes.features import Features
    from spatialboost.probes.inputs import SplitOptions
    from spatialboost.probes.measures import Metric, ProbeRow
    from spatialboost.probes.pictures import Panel
    from spatialboost.probes.splits import Split

PROBES: dict[str, str] = {
    "control": "spatialboost.probes.control.probe:ControlProbe",
    "depth": "spatialboost.probes.depth:DepthProbe",
    "knn": "spatialboost.probes.classification:KnnProbe",
    "linear": "spatialboost.probes.linear:LinearProbe",
    "matches": "spatialboost.probes.matches:MatchesProbe",
    "normals": "spatialboost.probes.normals:NormalsProbe",
    "points": "spatialboost.probes.points:PointsProbe",
    "pose": "spatialboost.probes.pose:PoseProbe",
    "retrieval": "spatialboost.probes.retrieval:RetrievalProbe",
    "segmentation": "spatialboost.probes.segmentation:SegmentationProbe",
}
"""Class of each probe by the name of its command; imported when it is needed."""


def find_probe(name: str) -> type[Probe]:
    """The class of a probe.

    Example:
        >>> find_probe("depth").__name__
        'DepthProbe'

    Raises:
        SpatialBoostError: there is no probe of that name.
    """
    if name not in PROBES:
        raise unknown("probe", name, PROBES)
    module, _, attribute = PROBES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class ReadSplit:
    """One split, with the features of one encoder.

    Attributes:
        items: the views or labelled images; they can be read again.
        features: their tokens; those of the first item only where the probe does not store them.
        kept: the result of `Probe.keep` for each item.
        read: gives the patch tokens ``(B, N, D)`` of images of ``features.image_size``, read by the encoder now, for
            probes that look at parts of images; None where features were given instead of an encoder.
        features_of: gives the features of more images, read by the encoder now as those of the items were, for probes
            whose images come later; None where features were given instead of an encoder.
    """

    items: Split
    features: Features
    kept: Sequence[Any]
    read: Callable[[Sequence[np.ndarray]], Tensor] | None = None
    features_of: Callable[[Sequence[Any]], Features] | None = None

    def __len__(self) -> int:
        return len(self.kept)


@dataclass(frozen=True)
class Measured:
    """The result of a probe for one encoder.

    Attributes:
        rows: one row for each draw.
        shown: the predictions of the first run for each test item in the picture.
    """

    rows: Sequence[ProbeRow]
    shown: Sequence[Any] = ()


class Probe(ABC):
    """A measurement on frozen encoders. A subclass is a frozen dataclass whose fields are the probe's own options.

    A field whose annotation contains a text is also an option of the command line, as in
    ``k: Annotated[int, "Neighbours that vote."] = 20``.

    Attributes:
        name: name of the command and of the files that are written.
        metrics: name, unit and direction of each metric, in the order of the table.
        splits: how the training and the test split are specified.
        baseline: name of the row for the score without looking at the images; no encoder may have this name.
        patches: whether patch tokens are needed; if False, only their mean is kept.
        draws: whether each seed fits on its own draw of the training items; if False, there is one run on all items.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    splits: ClassVar[type[SplitOptions]]
    baseline: ClassVar[str]
    patches: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def stored(self, split: str) -> bool:
        """Whether the features of the split ``"train"`` or ``"test"`` are read once, from whole images, and kept.

        If not, `measure` reads what it needs with `ReadSplit.read`.
        """
        return True

    def image(self, item: Any, image_size: tuple[int, int]) -> np.ndarray:
        """The part of an item's image that the encoder sees, uint8 ``(H, W, 3)``; it is squeezed to ``image_size``."""
        return getattr(item, "image_HW3", item)

    def check_sources(self, train: Any, test: Any) -> None:  # noqa: B027  # most probes have nothing to check
        """Raise an error if the two sources do not fit each other, before anything is read."""

    @abstractmethod
    def keep(self, item: Any, grid: tuple[int, int], image_size: tuple[int, int]) -> Any:
        """What to keep of an item in addition to its features; it should be small, because it is kept for all items.

        Args:
            item: a view (`spatialboost.scenes.cues.Cues`) or a labelled image.
            grid: rows and columns of patches in the features.
            image_size: height and width to which the item was resized.
        """

    @abstractmethod
    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Fit on the training split and score on the test split, once for each draw.

        Args:
            name: name of the encoder, for the rows.
            train: the training split; the test split again for a probe that fits nothing.
            test: the test split.
            draws: the training items of each run, the same for every encoder.
            shown: indices of the test items in the picture.
        """

    @abstractmethod
    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of a prediction that does not look at the images."""

    def about(self, train: ReadSplit) -> dict[str, Any]:
        """The settings that are needed to read the same features of one encoder again; JSON-able."""
        return train.features.about()

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The probe's own settings that are needed to repeat it; JSON-able."""
        return asdict(self)  # type: ignore[call-overload]  # a probe is a dataclass

    def panel(self, item: Any, shown: Mapping[str, Any]) -> Panel | None:
        """The picture of one test item; None if the probe draws no pictures.

        Args:
            item: the test item.
            shown: the prediction of each encoder's first run for this item.
        """
        return None

"""What a probe is, and the table of those that there are.

A new probe is one file with a class such as this one, and one line in `PROBES`:

    @dataclass(frozen=True)
    class BrightnessProbe(Probe):
        name = "brightness"
        metrics = {"error": Metric("mean error")}
        splits = ViewSplits
        baseline = "mean brightness"
        ridge: Annotated[float, "Added to the diagonal."] = 0.001  # with a text: an option of the command line too

        def keep(self, item, grid, image_size): ...        # what is kept of a view besides its features
        def measure(self, name, train, test, draws, shown): ...  # one row for each draw
        def measure_baseline(self, train, test): ...         # what an encoder that sees nothing would score

`run.run_probe` and ``spatialboost probe brightness`` do the rest.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from spatialboost.errors import unknown

if TYPE_CHECKING:
    from spatialboost.probes.draws import Draw
    from spatialboost.probes.features import Features
    from spatialboost.probes.inputs import SplitOptions
    from spatialboost.probes.measures import Metric, ProbeRow
    from spatialboost.probes.pictures import Panel
    from spatialboost.probes.splits import Split

PROBES: dict[str, str] = {
    "depth": "spatialboost.probes.depth:DepthProbe",
    "knn": "spatialboost.probes.classification:KnnProbe",
}
"""Class of each probe by the name of its command; imported when it is asked for."""


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
    """One split as one encoder sees it.

    Attributes:
        items: the views or labelled images, to be read again where needed.
        features: their tokens.
        kept: what `Probe.keep` gave for each of them.
    """

    items: Split
    features: Features
    kept: Sequence[Any]

    def __len__(self) -> int:
        return len(self.kept)


@dataclass(frozen=True)
class Measured:
    """What a probe found out about one encoder.

    Attributes:
        rows: one for each draw.
        shown: for each of the test items that the picture shows, what the first run says of it.
    """

    rows: Sequence[ProbeRow]
    shown: Sequence[Any] = ()


class Probe(ABC):
    """A measurement on frozen encoders. A subclass is a frozen dataclass whose fields are the probe's own options.

    A field is an option of the command line too where its annotation carries a text, as in
    ``k: Annotated[int, "Neighbours that vote."] = 20``.

    Attributes:
        name: of the command and of the files that are written.
        metrics: how to read the figures, in the order of the table.
        splits: how the training and the test split are given.
        baseline: name of the row for an encoder that sees nothing; no encoder may have it.
        patches: whether patch tokens are needed; where False, only their mean is kept.
        draws: whether each seed fits on its own draw of the training items; where False there is one run on all.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    splits: ClassVar[type[SplitOptions]]
    baseline: ClassVar[str]
    patches: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def check_sources(self, train: Any, test: Any) -> None:  # noqa: B027  # most probes have nothing to check
        """Refuse sources that do not fit each other, before anything is read."""

    @abstractmethod
    def keep(self, item: Any, grid: tuple[int, int], image_size: tuple[int, int]) -> Any:
        """What is kept of an item besides its features: small, since it is kept of all of them.

        Args:
            item: a view (`spatialboost.scenes.cues.Cues`) or a labelled image.
            grid: rows and columns of patches in the features.
            image_size: height and width at which the encoder saw the item.
        """

    @abstractmethod
    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Fit on the training split and score on the test split, once for each draw.

        Args:
            name: of the encoder, for the rows.
            train: the training split.
            test: the test split.
            draws: the training items of each run, the same for every encoder.
            shown: indices of the test items in the picture.
        """

    @abstractmethod
    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """What an encoder that sees nothing would score."""

    def about(self, train: ReadSplit) -> dict[str, Any]:
        """What somebody else needs to know to read the same features of one encoder; JSON-able."""
        return train.features.about()

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The probe's own settings, as somebody else needs them to repeat it; JSON-able."""
        return asdict(self)  # type: ignore[call-overload]  # a probe is a dataclass

    def panel(self, item: Any, shown: Mapping[str, Any]) -> Panel | None:
        """The picture of one test item; None where the probe has none.

        Args:
            item: the test item.
            shown: what the first run of each encoder says of it.
        """
        return None

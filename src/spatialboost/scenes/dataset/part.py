"""Write one parquet file of a data set: the conversations about some items of a source."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.dataset.files import remove_leftovers, replace_file
from spatialboost.scenes.dataset.row import make_row
from spatialboost.scenes.dataset.schema import ROWS_PER_GROUP, with_facts
from spatialboost.scenes.questions.conversation import Order, build_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.scene import as_scene
from spatialboost.scenes.sources import Source

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class Parts:
    """Everything that is needed to write the files of a data set, in this process or in others."""

    # the items, or a function that opens them. A function is called once in every process; it is needed where the
    # source itself cannot be copied to other processes.
    source: Source | Callable[[], Source]
    out: Path  # folder of the data set; it exists
    settings: Mapping[str, Any]  # settings of the build
    order: Order  # order of the turns
    plan: TurnPlan  # number of turns of each kind
    # from `arrow_schema`. Other processes get it ready-made: to make it takes half a second of imports.
    schema: pyarrow.Schema

    def path(self, number: int) -> Path:
        """The path of a file."""
        return self.out / f"part-{number:05d}.parquet"

    def items(self, number: int) -> range:
        """The items of a file."""
        size = self.settings["rows_per_shard"]
        return range(number * size, min((number + 1) * size, self.settings["items"]))

    def write(self, number: int, source: Source, on_item: Callable[[], object]) -> None:
        """Write a file. Its metadata has the skipped items with the reasons."""
        import pyarrow as pa

        rows, skipped = [], {}
        for item in self.items(number):
            try:
                found = source[item]
                seed = int(np.random.SeedSequence([self.settings["seed"], item]).generate_state(1)[0])
                talk = build_conversation(found, seed=seed, order=self.order, plan=self.plan)
                rows.append(make_row(as_scene(found), talk, item, self.settings))
            except BAD_ITEM as error:
                reason = re.sub(r" at 0x[0-9a-f]+", "", str(error))  # an address would differ from run to run
                skipped[_item_name(source, item)] = reason or type(error).__name__
            on_item()
        table = pa.Table.from_pylist(rows, schema=with_facts(self.schema, self.settings, skipped))
        stream = io.BytesIO()
        write_table(table, stream)
        remove_leftovers(self.path(number))
        replace_file(self.path(number), stream.getvalue())


def write_table(table: pyarrow.Table, stream: io.BytesIO) -> None:
    """Write the rows of a file."""
    import pyarrow.parquet as pq

    # Images are already compressed and almost never equal, so a dictionary and statistics do not help. Both would
    # also make the footer longer, which is read when the data set is opened.
    pq.write_table(
        table,
        stream,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )


def opened(source: Source | Callable[[], Source]) -> Source:
    """The source itself, or what the function opens."""
    if isinstance(source, type) or not hasattr(source, "__len__"):
        return source()  # type: ignore[operator,no-any-return]
    return source  # type: ignore[return-value]


def _item_name(source: Source, item: int) -> str:
    names = getattr(source, "names", None)
    return str(names[item]) if names is not None else str(item)

"""The plan of a run's memory as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from spatialboost.training.plan import CARDS, GB, ONE, STRATEGIES, StagePlan

NOTE = (
    "Peak is the largest memory at one moment of a step, at which not all gradients and activations exist together. "
    "A GB is 10^9 bytes. The 7 % by which a card sold as 24 or 80 GB is larger are left to CUDA and to gaps between "
    "tensors. Scoring and the check before stage 3 are not counted."
)


def plan_tables(stages: Sequence[StagePlan], gpus: int) -> Iterator[RenderableType]:
    """For each stage: what one row is, the parts of the memory on one GPU, the strategies, and what to change.

    Args:
        stages: The result of `spatialboost.training.plan.plan`.
        gpus: Number of GPUs for the strategies that need several.
    """
    for stage in stages:
        trained = f"{stage.trained / 1e6:,.1f} M parameters"
        yield f"[bold]{escape(stage.name)}[/bold] trains {trained}. One row: {escape(stage.example)}"
        yield _parts(stage)
        yield _strategies(stage, gpus)
        yield from _advice(stage, gpus)
        yield ""
    yield NOTE


def _parts(stage: StagePlan) -> Table:
    memory = stage.memory[stage.batch_size]
    table = Table("GB", "weights", "optimiser", "gradients", "activations", "weight copies", "peak")
    sizes = (memory.weights, memory.optimizer, memory.gradients, memory.activations, memory.copies, memory.peak)
    table.add_row(f"batch {stage.batch_size}", *(f"{size / GB:.2f}" for size in sizes))
    return table


def _strategies(stage: StagePlan, gpus: int) -> Table:
    heads = [f"batch in {card} GB" for card in CARDS]
    table = Table("strategy", "GPUs", f"GB a GPU, batch {stage.batch_size}", *heads)
    for strategy, number in ((ONE, 1), *((each, gpus) for each in STRATEGIES)):
        batches = [stage.largest_batch(card * GB, strategy, number) for card in CARDS]
        total = stage.total(strategy, number) / GB
        cells = [f"{size:,}" if size else "none" for size in batches]
        table.add_row(strategy.label, str(number), f"{total:.2f}", *cells)
    return table


def _advice(stage: StagePlan, gpus: int) -> Iterator[str]:
    """What to change so that the stage fits on the smallest card."""
    if not stage.savers:
        return
    steps = ", then ".join(f"{escape(setting)}: {size / GB:.2f} GB" for setting, size in stage.savers.items())
    fits = min(stage.savers.values()) <= CARDS[0] * GB
    end = "" if fits else f". Still more than {CARDS[0]} GB: take a smaller model or a larger GPU, or shard over {gpus}"
    yield f"Batch {stage.batch_size} needs more than {CARDS[0]} GB. With {steps}{end}."

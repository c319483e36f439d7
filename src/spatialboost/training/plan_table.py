"""The plan of a run's memory as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from spatialboost.training.plan import CARDS, GB, ONE, STRATEGIES, StagePlan


def plan_tables(stages: Sequence[StagePlan], gpus: int) -> Iterator[RenderableType]:
    """For each stage: what one row is, the parts of the memory on one GPU, the strategies, and what to change.

    Args:
        stages: The result of `spatialboost.training.plan.plan`.
        gpus: Number of GPUs for the strategies that need several.
    """
    for stage in stages:
        yield f"[bold]{escape(stage.name)}[/bold] trains {stage.trained / 1e6:,.1f} M parameters. A row has {stage.example}"
        yield _parts(stage)
        yield _strategies(stage, gpus)
        yield from _advice(stage, gpus)
        yield ""


def _parts(stage: StagePlan) -> Table:
    memory = stage.memory[stage.batch_size]
    table = Table(
        "GB on one GPU", "weights", "optimiser", "gradients", "activations", "of them copies of weights", "peak"
    )
    sizes = (memory.weights, memory.optimizer, memory.gradients, memory.activations, memory.copies, memory.peak)
    table.add_row(f"batch {stage.batch_size}", *(f"{size / GB:.2f}" for size in sizes))
    return table


def _strategies(stage: StagePlan, gpus: int) -> Table:
    heads = [f"largest batch, {card} GB" for card in CARDS]
    table = Table("strategy", "GPUs", f"GB a GPU, batch {stage.batch_size}", *heads)
    for strategy, number in ((ONE, 1), *((each, gpus) for each in STRATEGIES)):
        batches = [stage.largest_batch(card * GB, strategy, number) for card in CARDS]
        total = stage.total(strategy, number) / GB
        table.add_row(
            strategy.label, str(number), f"{total:.2f}", *(f"{size:,}" if size else "none" for size in batches)
        )
    return table


def _advice(stage: StagePlan, gpus: int) -> Iterator[str]:
    """What to change so that the stage fits on the smallest card."""
    if not stage.savers:
        return
    steps = ", then ".join(f"{escape(setting)}: {size / GB:.2f} GB" for setting, size in stage.savers.items())
    fits = min(stage.savers.values()) <= CARDS[0] * GB
    end = "" if fits else f"; still more than {CARDS[0]} GB: take a smaller model, a larger GPU, or shard over {gpus}"
    yield f"Does not fit {CARDS[0]} GB. {steps}{end}. (A smaller batch_size with more accumulate gives the same steps.)"

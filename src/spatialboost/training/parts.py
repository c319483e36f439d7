"""What a stage trains and what is frozen, by part of the objective, with the memory that each part needs."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spatialboost.boosting.channel import boosted_layers
from spatialboost.teachers.protocol import BAD_DATA
from spatialboost.training.config import StageConfig
from spatialboost.training.data import RowDataset

ATTENTION, GATES, BASE = "Attn+", "gates", "encoder base"
_WORDS = {"llm": "language model"}
_SAMPLED = 4  # rows whose tokens are counted before the first step


@dataclass(frozen=True)
class Part:
    """One part of the objective: the encoder base, Attn+, the gates, or a module that the teacher adds.

    Attributes:
        name: Name of the part.
        parameters: Number of its parameters.
        trained: How many of them the stage trains.
        dtypes: Their types, without ``torch.``.
        weights: Bytes of the weights.
        gradients: Bytes of their gradients.
        states: Bytes of the optimiser's states, such as the two averages of AdamW.
    """

    name: str
    parameters: int
    trained: int
    dtypes: str
    weights: int
    gradients: int
    states: int

    @property
    def bytes(self) -> int:
        """Bytes of weights, gradients and states together."""
        return self.weights + self.gradients + self.states


def part_names(objective: nn.Module) -> dict[str, str]:
    """The name of the part that each parameter belongs to, by the parameter's name.

    Example:
        >>> import spatialboost as sb
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = sb.boost(VisionTransformer(embed_dim=48, depth=1, num_heads=2, num_classes=0))
        >>> objective = nn.ModuleDict({"encoder": encoder, "depth_head": nn.Linear(48, 1)})
        >>> list(dict.fromkeys(part_names(objective).values()))
        ['encoder base', 'Attn+', 'gates', 'depth head']
    """
    encoder = getattr(objective, "encoder", None)
    own, parent = {}, ""
    if isinstance(encoder, nn.Module):
        own = {id(p): BASE for p in encoder.parameters()}
        for _, _, channel in boosted_layers(encoder):
            own |= {id(p): GATES if p is channel.gate else ATTENTION for p in channel.parameters()}
        parent = next((name for name, each in objective.named_modules() if each is encoder), "").rpartition(".")[0]
    found = {}
    for name, parameter in objective.named_parameters():
        if "lora_" in name:
            found[name] = "LoRA"
            continue
        rest = name.removeprefix(f"{parent}.") if parent else name
        first = rest.partition(".")[0]
        found[name] = own.get(id(parameter)) or _WORDS.get(first, first.replace("_", " "))
    return found


def count_parts(objective: nn.Module, groups: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Count parameters and bytes of each part.

    Args:
        objective: The objective of a stage; what it trains has ``requires_grad``.
        groups: The parameter groups of the optimiser. Muon has one state for each parameter, AdamW has two.
    """
    muon = {id(p) for group in groups if group.get("muon") for p in group["params"]}
    names = part_names(objective)
    parts: dict[str, list[Any]] = {}
    for name, parameter in objective.named_parameters():
        parts.setdefault(names[name], []).append(parameter)
    return [_part(name, parameters, muon) for name, parameters in parts.items()]


def _part(name: str, parameters: Sequence[Any], muon: set[int]) -> Part:
    trained = [p for p in parameters if p.requires_grad]
    return Part(
        name,
        sum(map(_count, parameters)),
        sum(map(_count, trained)),
        " and ".join(dict.fromkeys(str(p.dtype).removeprefix("torch.") for p in parameters)),
        sum(map(_bytes, parameters)),
        sum(map(_bytes, trained)),
        sum((1 if id(p) in muon else 2) * _bytes(p) for p in trained),
    )


def _count(parameter: Any) -> int:
    """Number of values; 4-bit weights of bitsandbytes hold two in each byte."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return parameter.numel() if shape is None else math.prod(shape)


def _bytes(parameter: torch.Tensor) -> int:
    return parameter.numel() * parameter.element_size()


def stage_table(
    name: str, objective: nn.Module, parts: Sequence[Part], stage: StageConfig, dataset: Any, *, processes: int
) -> str:
    """What a stage trains, as a table in plain text with a few lines below it.

    Args:
        name: Name of the stage.
        objective: The objective.
        parts: The result of `count_parts`.
        stage: Settings of the stage.
        dataset: The training rows.
        processes: Number of processes of the run.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"What {name} trains", box=None, pad_edge=False, title_justify="left", header_style="")
    for column in ("part", "", "parameters", "trained", "dtype", "weights", "gradients", "optimiser", "together"):
        table.add_column(column, justify="left" if column in ("part", "", "dtype") else "right", no_wrap=True)
    for part in (*parts, _total(parts)):
        state = "frozen" if not part.trained else "trains" if part.trained == part.parameters else "in part"
        sizes = (size(each) if each else "" for each in (part.weights, part.gradients, part.states, part.bytes))
        count = f"{part.trained:,}" if part.trained else ""
        table.add_row(part.name, state, f"{part.parameters:,}", count, part.dtypes, *sizes)
    text = io.StringIO()
    console = Console(file=text, width=200, color_system=None)
    console.print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([*filter(None, lines), *_lines(objective, parts, stage, dataset, processes)])


def _total(parts: Sequence[Part]) -> Part:
    sums = [sum(getattr(p, key) for p in parts) for key in ("parameters", "trained", "weights", "gradients", "states")]
    return Part("all", sums[0], sums[1], "", *sums[2:])


def _lines(
    objective: nn.Module, parts: Sequence[Part], stage: StageConfig, dataset: Any, processes: int
) -> Iterable[str]:
    encoder = getattr(objective, "encoder", None)
    layers = [channel.index for _, _, channel in boosted_layers(encoder)] if isinstance(encoder, nn.Module) else []
    if layers:
        yield f"boosted layers: {spans(layers)} ({len(layers)})"
    rows = len(dataset)
    batch = stage.batch_size * stage.accumulate * processes
    steps = stage.steps or math.ceil(stage.epochs * max(1, math.ceil(rows / batch)))
    product = f"{stage.batch_size} in a pass x {stage.accumulate} passes x {processes} processes"
    seen = f"each row is seen {steps * batch / rows:.2g} times"
    yield f"{rows:,} rows, {steps:,} steps of {batch:,} rows ({product}): {seen}"
    tokens = tokens_of_a_row(dataset)
    if tokens:
        shown = ", ".join(f"{batch * number:,.0f} {kind}" for kind, number in tokens.items())
        yield f"tokens in a step, from a few rows: about {shown}"
    together = size(sum(part.bytes for part in parts))
    yield f"memory: {together} for weights, gradients and optimiser; activations come on top"


def tokens_of_a_row(dataset: Any) -> dict[str, float]:
    """Mean number of visual, text and answer tokens of a row, from a few rows whose images are not decoded."""
    if not isinstance(dataset, RowDataset):
        return {}
    places = range(0, len(dataset), max(1, len(dataset) // _SAMPLED))[:_SAMPLED]
    found = []
    for place in places:
        number = dataset.numbers[place]
        try:
            found.append(count_tokens(dataset.make_example(number, dataset.rows[number])))
        except BAD_DATA:
            continue  # told by training, which reads all rows
    found = [each for each in found if each]
    return {kind: float(sum(each[kind] for each in found)) / len(found) for kind in found[0]} if found else {}


def count_tokens(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Visual, text and answer tokens of an example or a batch of conversations; empty if it has none.

    Example:
        >>> ids, mask = torch.zeros(1, 6), torch.tensor([[True, True, False, False, False, False]])
        >>> labels = torch.tensor([[-100, -100, -100, 5, 6, -100]])
        >>> {kind: int(count) for kind, count in
        ...  count_tokens({"input_ids": ids, "visual_mask": mask, "labels": labels}).items()}
        {'visual': 2, 'text': 4, 'answer': 2}
    """
    if "visual_mask" not in batch or "input_ids" not in batch:
        return {}
    visual, attended = batch["visual_mask"].sum(), batch.get("attention_mask")
    every = batch["input_ids"].numel() if attended is None or attended.dim() != 2 else (attended > 0).sum()
    return {"visual": visual, "text": every - visual, "answer": (batch["labels"] >= 0).sum()}


def moved_line(names: Mapping[str, str], moved: set[str], steps: int) -> str:
    """What the check of the first steps has found, in one line.

    Example:
        >>> moved_line({"head.weight": "head", "encoder.weight": "encoder base"}, {"head.weight"}, steps=1)
        'after step 1, checked bit by bit: moved: head (1 tensor); unchanged: encoder base (1)'

    Args:
        names: The result of `part_names`.
        moved: Names of the parameters that have changed.
        steps: Steps after which they were compared.
    """
    told = []
    for title, chosen in (("moved", moved), ("unchanged", names.keys() - moved)):
        counts: dict[str, int] = {}
        for name in names:
            if name in chosen:
                counts[names[name]] = counts.get(names[name], 0) + 1
        shown = [f"{part} ({count})" for part, count in counts.items()]
        told.append(f"{title}: {', '.join(shown) or 'nothing'}")
    first = told[0].replace("(1)", "(1 tensor)", 1) if "(1)" in told[0] else told[0].replace(")", " tensors)", 1)
    return f"after step {steps}, checked bit by bit: {first}; {told[1]}"


def size(count: float) -> str:
    """A number of bytes in a short form.

    Example:
        >>> size(1_500), size(2_340_000), size(81e9)
        ('1.5 kB', '2.3 MB', '81.0 GB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def spans(numbers: Sequence[int]) -> str:
    """Whole numbers in a short form.

    Example:
        >>> spans([0, 1, 2, 3, 7, 9, 10])
        '0-3, 7, 9-10'
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in found)

"""The boosted layers of a model, and the attention layers that are not boosted: `status`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

import torch
from torch import nn

from spatialboost.boosting.attach import why_not_run
from spatialboost.boosting.channel import SpatialChannel, boosted_layers, channel_parameters, full_value, is_sharded
from spatialboost.boosting.find import find_attention, uncompiled
from spatialboost.boosting.set_kernel import kernel_of
from spatialboost.hosts.adapters import is_adapter
from spatialboost.hosts.registry import family_named

if TYPE_CHECKING:
    from rich.console import Group

RIGHT = ("layer", "trainable", "mean gate")  # the columns that hold numbers


@dataclass(frozen=True)
class LayerStatus:
    """One boosted layer: its index and name, its family, its kernel, how much of it trains, the mean of its gate.

    Attributes:
        problem: Why calls of the layer do not run Attn+, or None.
        stale: Whether Attn+ differs from the base although its gate has never moved: see `spatialboost.reset`.
    """

    index: int
    name: str
    family: str
    kernel: str
    trainable: int
    mean_gate: float
    problem: str | None = None
    stale: bool = False


@dataclass(frozen=True)
class Status:
    """The boosted layers, and the layers that are not boosted (name, class, reason). Prints as a table."""

    layers: tuple[LayerStatus, ...]
    passed_over: tuple[tuple[str, str, str], ...]

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="")
        for name in ("layer", "name", "family", "kernel", "runs", "trainable", "mean gate"):
            table.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=True)
        for layer in self.layers:
            numbers = f"{layer.trainable:,}", f"{layer.mean_gate:.4f}"
            runs = "no" if layer.problem else "yes"
            table.add_row(str(layer.index), Text(layer.name), layer.family, layer.kernel, runs, *numbers)
        return Group(table, *map(Text, self._notes()))

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=10_000, color_system=None).print(self)  # wide enough that no line is broken
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def _notes(self) -> Iterator[str]:
        yield f"{len(self.layers)} layers boosted, {sum(s.trainable for s in self.layers):,} trainable parameters"
        for layer in self.layers:
            if layer.problem:
                yield f"Attn+ is not run in {layer.name}: {layer.problem}"
        if stale := [layer.name for layer in self.layers if layer.stale]:
            yield (
                f"Attn+ differs from the base in {len(stale)} layers ({stale[0]}, ...), although their gates are zero "
                f"as before training. Were weights of the base loaded after boost? reset(model) copies them into Attn+."
            )
        alike: dict[tuple[str, str], list[str]] = {}
        for name, cls, reason in self.passed_over:
            alike.setdefault((cls, reason), []).append(name)
        for (cls, reason), names in alike.items():
            shown = ", ".join(names if len(names) < 4 else [names[0], "...", names[-1]])
            yield f"passed over: {shown} ({len(names)} {cls}): {reason}"


@torch.no_grad()
def is_stale(attention: nn.Module, channel: SpatialChannel) -> bool:
    """Whether Attn+ differs from the base although nothing was trained; only a few values of each weight are read."""
    parameters = [*attention.parameters()]
    if any(p.is_meta or is_sharded(p) for p in parameters) or any(map(is_adapter, attention.modules())):
        return False
    if bool(channel.gate.any()):
        return False
    for name, owner, leaf, share in channel_parameters(attention, family_named(channel.family)):
        own, plus = share.of(owner.get_parameter(leaf)), channel.plus(name)
        if own.shape == plus.shape and not torch.equal(own.flatten()[:64].to(plus.dtype), plus.flatten()[:64]):
            return True
    return False


def status(model: nn.Module) -> Status:
    """List the boosted layers, and the attention layers that are not boosted with the reason.

    Example:
        >>> import timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
        >>> print(sb.status(encoder))
        layer  name           family  kernel  runs  trainable  mean gate
            0  blocks.0.attn  timm    host    yes     148,416     0.5000
        1 layers boosted, 148,416 trainable parameters
    """
    root = uncompiled(model)
    layers = tuple(
        LayerStatus(
            index=channel.index,
            name=name,
            family=channel.family,
            kernel=kernel_of(attention, channel),
            trainable=sum(p.numel() for p in channel.parameters() if p.requires_grad),
            mean_gate=float("nan") if channel.gate.is_meta else torch.sigmoid(full_value(channel.gate)).mean().item(),
            problem=why_not_run(attention),
            stale=is_stale(attention, channel),
        )
        for name, attention, channel in boosted_layers(root)
    )
    taken = {layer.name for layer in layers}
    passed = [(f.name, type(f.module).__name__, f.reason) for f in find_attention(root) if f.name not in taken]
    left = "not among `layers=`" if layers else "not boosted yet"
    return Status(layers, tuple((name, cls, reason or left) for name, cls, reason in passed))

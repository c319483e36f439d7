"""Run a boosted model once and look what becomes of each layer's Attn+: `verify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spatialboost.boosting.attach import why_not_run
from spatialboost.boosting.channel import SpatialChannel, require_boosted
from spatialboost.boosting.find import uncompiled

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class LayerCheck:
    """What one forward and one backward did with the Attn+ of one layer.

    Attributes:
        index: Index of the block.
        name: Name of the attention layer.
        runs: Whether the forward read the gate, that is, whether it merged both channels.
        unread: Names of Attn+'s parameters that the forward did not read.
        without_gradient: Names of trainable parameters that got no gradient, or one that is not finite.
        trainable: Number of parameters that are set to train.
        problem: What is wrong and what to do, or None.
    """

    index: int
    name: str
    runs: bool
    unread: tuple[str, ...]
    without_gradient: tuple[str, ...]
    trainable: int
    problem: str | None


@dataclass(frozen=True)
class Verification:
    """What `verify` found in each boosted layer. True if no layer has a problem; prints as a table."""

    layers: tuple[LayerCheck, ...]

    def __bool__(self) -> bool:
        return all(layer.problem is None for layer in self.layers)

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="")
        for name in ("layer", "name", "runs", "weights read", "gradients", "problem"):
            table.add_column(name, justify="right" if name == "layer" else "left", no_wrap=True)
        for layer in self.layers:
            gradients = "not trainable" if not layer.trainable else "no" if layer.without_gradient else "yes"
            read = "no" if layer.unread else "yes"
            runs = "yes" if layer.runs else "no"
            table.add_row(str(layer.index), Text(layer.name), runs, read, gradients, Text(layer.problem or ""))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = StringIO()
        Console(file=text, width=10_000, color_system=None).print(self)  # wide enough that no line is broken
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def verify(model: nn.Module, *args: Any, **kwargs: Any) -> Verification:
    """Run the model once, forward and backward, and report for each layer whether Attn+ runs and can be trained.

    `status` reads only what is set; this function observes a real call. It finds a forward that another tool has
    replaced, weights that are not read, and whatever keeps the gradients away. The model
    is used as it is (mode, kernel, dtype, `requires_grad`). Afterwards it is unchanged, with its gradients.

    Example:
        >>> import timm, torch, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32, num_classes=0))
        >>> print(sb.verify(encoder, torch.rand(2, 3, 32, 32)))
        layer  name           runs  weights read  gradients  problem
            0  blocks.0.attn  yes   yes           yes

    Args:
        model: A boosted model.
        *args: What the model is called with, for example images (B, 3, H, W).
        **kwargs: The same by name, for example `pixel_values=...`.

    Raises:
        SpatialBoostError: The model is not boosted; or the forward itself refuses.
    """
    root = uncompiled(model)
    layers = require_boosted(root)
    if isinstance(root, DistributedDataParallel):
        root = root.module  # its own forward waits for a backward of all processes
    devices = {p.device for p in root.parameters() if p.device.type == "cuda"}
    inputs = list(_tensors((args, kwargs)))
    with _unchanged(root, inputs), torch.random.fork_rng(devices), torch.enable_grad():
        with _recorded([channel for _, _, channel in layers]) as reads, torch.compiler.set_stance("force_eager"):
            outputs = [output for output in _tensors(root(*args, **kwargs)) if output.requires_grad]
        if outputs:
            # a random direction, because the plain sum of a normalised output is constant
            sum((output.float() * torch.randn_like(output.float())).sum() for output in outputs).backward()  # type: ignore[union-attr]
        found = [_check(*layer, read) for layer, read in zip(layers, reads, strict=True)]
    return Verification(tuple(found))


@contextmanager
def _unchanged(root: nn.Module, inputs: list[Tensor]) -> Iterator[None]:
    """Start without gradients; afterwards restore them, and the buffers, which a batch normalisation updates."""
    tensors = [*root.parameters(), *inputs]
    gradients = [tensor.grad for tensor in tensors]
    buffers = [(buffer, buffer.clone()) for buffer in root.buffers()]
    try:
        for tensor in tensors:
            tensor.grad = None
        yield
    finally:
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


class _RecordedParameters(dict[str, Any]):
    """The parameters of a channel; remembers which of them are read by name."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__(parameters)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


@contextmanager
def _recorded(channels: list[SpatialChannel]) -> Iterator[list[set[str]]]:
    """Within this context, note which parameters of each channel are read by name."""
    before = [channel._parameters for channel in channels]
    recorded = [_RecordedParameters(parameters) for parameters in before]
    try:
        for channel, own in zip(channels, recorded, strict=True):
            channel.__dict__["_parameters"] = own
        yield [own.read for own in recorded]
    finally:
        for channel, parameters in zip(channels, before, strict=True):
            channel.__dict__["_parameters"] = parameters


def _tensors(output: Any) -> Iterator[Tensor]:
    """Every floating-point tensor in what a model returns."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


def _check(name: str, attention: nn.Module, channel: SpatialChannel, read: set[str]) -> LayerCheck:
    parameters = dict(channel.named_parameters())
    trainable = {key: parameter for key, parameter in parameters.items() if parameter.requires_grad}
    runs = "gate" in read
    unread = tuple(key for key in parameters if key not in read)
    missing = tuple(key for key, p in trainable.items() if p.grad is None or not bool(p.grad.isfinite().all()))
    problem = None
    if not runs:
        problem = why_not_run(attention) or "the model does not call this layer, or calls another method of it"
        problem = f"Attn+ is not run: {problem}"
    elif unread:
        problem = f"Attn+ runs without its own {', '.join(unread)}"
    elif len(missing) == len(trainable) > 0:
        problem = "no gradient arrives: look for no_grad or detach in the model"
    elif missing:
        problem = f"no finite gradient arrives in {', '.join(missing)}"
    return LayerCheck(channel.index, name, runs, unread, missing, sum(p.numel() for p in trainable.values()), problem)

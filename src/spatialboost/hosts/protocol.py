"""What a kind of attention (a family) answers, and what it may ask of the attention module and of the channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.hosts.layers import leaves

# Names of the canonical layout. A projection has a weight and may have a bias; a norm may have other parameters too.
PROJECTIONS = ("q", "k", "v", "o")
NORMS = ("q_norm", "k_norm", "norm")  # over q, over k, and between the attention and the output projection


@dataclass(frozen=True)
class Slot:
    """Where a canonical tensor (`q.weight`) lies in a host: one of several equal chunks of a parameter's rows.

    Attributes:
        parameter: Name of the host's parameter.
        chunk: Which of the chunks.
        chunks: Into how many the parameter is cut: 3 for a packed q, k and v.
    """

    parameter: str
    chunk: int = 0
    chunks: int = 1

    def read(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """A view of this slot's rows."""
        return parameters[self.parameter].chunk(self.chunks)[self.chunk]


class Share(NamedTuple):
    """The slice of a parameter that belongs to the attention, where the module is more than attention."""

    dim: int = 0
    start: int = 0
    stop: int | None = None

    def of(self, parameter: Tensor) -> Tensor:
        """A view of the slice, or the parameter itself where the slice is all of it."""
        if self.start == 0 and self.stop is None:
            return parameter
        return parameter.narrow(self.dim, self.start, (self.stop or parameter.shape[self.dim]) - self.start)

    def put(self, parameter: Tensor, value: Tensor) -> Tensor:
        """The parameter with `value` in place of the slice, as a new tensor."""
        pieces = [parameter.narrow(self.dim, 0, self.start), value]
        if self.stop is not None:
            pieces.append(parameter.narrow(self.dim, self.stop, parameter.shape[self.dim] - self.stop))
        return torch.cat(pieces, self.dim)


class BoostedModule(Protocol):
    """What a family may ask of a boosted attention module: all that its host has, and this."""

    training: bool
    host_class: type[nn.Module]  # its class before `boost`
    spatial_channel: Channel

    def view_class(self, host: Any, channel: Channel) -> Any:
        """The module as Attn+ sees it: every attribute is the host's, only parameters are the channel's."""

    def reference(self, channel: Channel, *args: Any, **kwargs: Any) -> Any:
        """The host's own forward once for each channel, merged: for calls that `joint_forward` does not handle."""

    def get_parameter(self, target: str) -> nn.Parameter:
        """The host's parameter of that name."""

    def modules(self) -> Iterator[nn.Module]:
        """The module itself, its children and theirs; the channel is among them."""

    def __getattr__(self, name: str) -> Any:
        """Whatever the host's class defines: `num_heads`, `qkv`, ..."""


class Channel(Protocol):
    """What a family may ask of the spatial channel."""

    index: int
    kernel: str  # as `set_kernel` has set it
    gate: nn.Parameter  # `a`, (D) or (1)
    slots: dict[str, Slot]  # of the host, as `Family.slots` gave them when the layer was boosted
    _parameters: dict[str, nn.Parameter | None]  # Attn+'s and the gate

    def plus(self, name: str) -> nn.Parameter:
        """Attn+'s own parameter for the host's parameter `name`."""

    def merge(self, base: Tensor, plus: Tensor) -> Tensor:
        """The gated mean of both channels' outputs."""


class Family:
    """A kind of attention: how its weights read in the canonical layout, and what may be done with it.

    A new one overrides what its host does differently; nothing is mandatory but `name` and `classes`. The base class is
    what holds for any module that maps tokens to tokens.

    Attributes:
        name: Shown by `status`, and kept in pickles.
        classes: Paths (`module.QualName`) of the host classes that it reads, subclasses included. By path, so that no
            host is imported.
        blocks_fast_path: Whether a module that holds this one may run a kernel of its own and never call it.
        variant_with_biases: Which copy of the encoder has the biases that this one leaves out, for an error message.
    """

    name = "generic"
    classes: tuple[str, ...] = ()
    blocks_fast_path = False
    variant_with_biases = ""

    def reads(self, module: nn.Module) -> bool:
        """Whether a module of a class that no family names is of this kind, by its structure."""
        return False

    def refusal(self, attention: nn.Module) -> str | None:
        """Why this module is not self-attention over tokens (it is passed over then), or None."""
        return None

    # --- its weights

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """Canonical name (`q.weight`, `k_norm.bias`) -> place in the host; {} where the host has no such layout."""
        return {}

    def share(self, attention: nn.Module, parameter: str) -> Share | None:
        """Which slice of a parameter Attn+ has of its own; None where both channels use the host's."""
        return Share()

    def masked_biases(self, attention: nn.Module) -> Sequence[str]:
        """Canonical names of biases that the host holds and multiplies with zero when it computes."""
        return ()

    def heads(self, attention: nn.Module) -> int | None:
        """Number of heads."""
        value = getattr(attention, "num_heads", None) or getattr(attention, "num_attention_heads", None)
        return int(value) if value is not None else None

    def width(self, attention: nn.Module) -> int:
        """Features of the output, which is the length of the gate."""
        path, _, leaf = self.slots(attention)["o.weight"].parameter.rpartition(".")
        return leaves(attention, path)[leaf].shape[0]

    def axis(self, attention: nn.Module) -> int:
        """Dimension of the features in the output: -1 for tokens (B, T, D), 1 for images (B, D, H, W)."""
        return -1

    # --- its forward

    def prepare(self, host_class: type[nn.Module]) -> None:
        """What has to be done once in a process before the first forward of a boosted class."""

    def runner(self, host_class: type[nn.Module]) -> Callable[..., Any]:
        """The host's forward as a function whose first argument is the module or a view of it."""
        return host_class.forward

    def finish(self, attention: nn.Module, merged: Tensor, *args: Any) -> Tensor:
        """What the module does to its merged output, where `runner` leaves that out."""
        return merged

    def other_forwards(self, host_class: type[nn.Module]) -> dict[str, Callable[..., Any]]:
        """Methods beside `forward` by which the host calls this module: name -> the method over both channels."""
        return {}

    def plain_formula(self, attention: nn.Module) -> bool:
        """Whether the host is set to compute attention step by step, without a fused kernel."""
        return False

    def joint_forward(self, attention: BoostedModule, channel: Channel) -> Callable[..., Any] | None:
        """A function `(attention, channel, *args, **kwargs)` over both channels; None where it would not be exact."""
        return None

    # --- export

    def with_heads(self, attention: nn.Module, heads: int) -> nn.Module | None:
        """A plain host module like `attention` with so many heads and unset weights; None where the host has none."""
        return None


def check_slots(family: Family, attention: nn.Module) -> None:
    """Raise for a slot that the canonical layout has no name for, or that lies in no parameter of the host."""
    for name, slot in family.slots(attention).items():
        role, _, leaf = name.partition(".")
        if role not in (*PROJECTIONS, *NORMS):
            raise unknown(f"slot of the family {family.name!r}:", role, (*PROJECTIONS, *NORMS))
        if role in PROJECTIONS and leaf not in ("weight", "bias"):
            raise SpatialBoostError(
                f"the family {family.name!r} has a slot {name!r}; expected {role}.weight or {role}.bias."
            )
        path, _, parameter = slot.parameter.rpartition(".")
        if parameter not in leaves(attention, path):
            raise SpatialBoostError(
                f"the family {family.name!r} places {name!r} in {slot.parameter!r}, which {type(attention).__name__} "
                "has not. Name one of its parameters."
            )

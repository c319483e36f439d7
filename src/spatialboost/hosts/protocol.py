"""The class `Family` (a kind of attention), and what a family may use of the boosted module and of its channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.hosts.layers import leaves, submodule
from spatialboost.hosts.quantised import host_value

# Names of the canonical layout. A projection has a weight and may have a bias; a norm may have other parameters too.
PROJECTIONS = ("q", "k", "v", "o")
NORMS = ("q_norm", "k_norm", "norm")  # of q, of k, and between the attention and the output projection


@dataclass(frozen=True)
class Slot:
    """Where a host keeps a canonical tensor such as `q.weight`: in one of the equal chunks of a parameter's rows.

    Attributes:
        parameter: Name of the host's parameter.
        chunk: Index of the chunk.
        chunks: Number of chunks of the parameter: 3 for a packed q, k and v.
    """

    parameter: str
    chunk: int = 0
    chunks: int = 1

    def read(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """A view of this slot's rows."""
        return parameters[self.parameter].chunk(self.chunks)[self.chunk]


class Share(NamedTuple):
    """The slice of a parameter that belongs to the attention; needed for modules that are more than attention."""

    dim: int = 0
    start: int = 0
    stop: int | None = None

    def of(self, parameter: Tensor) -> Tensor:
        """A view of the slice; the parameter itself if the slice is all of it."""
        if self.start == 0 and self.stop is None:
            return parameter
        return parameter.narrow(self.dim, self.start, (self.stop or parameter.shape[self.dim]) - self.start)

    def put(self, parameter: Tensor, value: Tensor) -> Tensor:
        """A new tensor: the parameter with `value` in place of the slice."""
        pieces = [parameter.narrow(self.dim, 0, self.start), value]
        if self.stop is not None:
            pieces.append(parameter.narrow(self.dim, self.stop, parameter.shape[self.dim] - self.stop))
        return torch.cat(pieces, self.dim)


class BoostedModule(Protocol):
    """What a family may use of a boosted attention module: all attributes of the host, and these."""

    training: bool
    host_class: type[nn.Module]  # its class before `boost`
    spatial_channel: Channel

    def view_class(self, host: Any, channel: Channel) -> Any:
        """The module for Attn+: its parameters are the channel's, all other attributes are the host's."""

    def reference(self, channel: Channel, *args: Any, **kwargs: Any) -> Any:
        """Run the host's own forward once for each channel and merge: for calls that `joint_forward` cannot run."""

    def get_parameter(self, target: str) -> nn.Parameter:
        """The host's parameter of that name."""

    def modules(self) -> Iterator[nn.Module]:
        """The module, its children and their children, with the channel."""

    def __getattr__(self, name: str) -> Any:
        """Any attribute of the host's class: `num_heads`, `qkv`, ..."""


class Channel(Protocol):
    """What a family may use of the spatial channel."""

    index: int
    kernel: str  # set by `set_kernel`
    gate: nn.Parameter  # `a`, (D) or (1)
    slots: dict[str, Slot]  # what `Family.slots` returned when the layer was boosted
    _parameters: dict[str, nn.Parameter | None]  # those of Attn+, and the gate

    def plus(self, name: str) -> nn.Parameter:
        """The parameter of Attn+ that is the copy of the host's parameter `name`."""

    def merge(self, base: Tensor, plus: Tensor) -> Tensor:
        """The weighted mean of both channels' outputs, with the gate as weight."""


class Family:
    """A kind of attention: where its weights are in the canonical layout, and how it runs.

    A new family overrides the methods that differ for its host; only `name` and `classes` are mandatory. The methods of
    this base class are right for any module that maps tokens to tokens.

    Attributes:
        name: Name that `status` shows and that pickles store.
        classes: Paths (`module.QualName`) of the host classes of this kind; their subclasses count, too. Paths need no
            import of the host's library.
        blocks_fast_path: Whether the module around this one may run a fast kernel that never calls this module, so that
            the fast kernel has to be switched off.
        variant_with_biases: For an error message: which variant of the encoder has the biases that this one lacks.
    """

    name = "generic"
    classes: tuple[str, ...] = ()
    blocks_fast_path = False
    variant_with_biases = ""

    def reads(self, module: nn.Module) -> bool:
        """Whether a module is of this kind by its structure; asked only if its class is in no family's `classes`."""
        return False

    def refusal(self, attention: nn.Module) -> str | None:
        """The reason why this module is not self-attention over tokens and is passed over; else None."""
        return None

    # --- weights

    def slots(self, attention: nn.Module) -> dict[str, Slot]:
        """Canonical name (`q.weight`, `k_norm.bias`) -> slot in the host; {} if the host has no such layout."""
        return {}

    def share(self, attention: nn.Module, parameter: str) -> Share | None:
        """The slice of a parameter that Attn+ has its own copy of; None if both channels use the host's parameter."""
        return Share()

    def masked_biases(self, attention: nn.Module) -> Sequence[str]:
        """Canonical names of biases that the host has but multiplies by zero in its forward."""
        return ()

    def heads(self, attention: nn.Module) -> int | None:
        """Number of heads."""
        value = getattr(attention, "num_heads", None) or getattr(attention, "num_attention_heads", None)
        return int(value) if value is not None else None

    def width(self, attention: nn.Module) -> int:
        """Number of features of the output; the gate has the same length."""
        path, _, leaf = self.slots(attention)["o.weight"].parameter.rpartition(".")
        return host_value(submodule(attention, path) or attention, leaf).shape[0]

    def axis(self, attention: nn.Module) -> int:
        """Dimension of the features in the output: -1 for tokens (B, T, D), 1 for images (B, D, H, W)."""
        return -1

    # --- forward

    def prepare(self, host_class: type[nn.Module]) -> None:
        """Prepare this process before the first forward of a boosted class; called once."""

    def runner(self, host_class: type[nn.Module]) -> Callable[..., Any]:
        """The host's forward as a function whose first argument is the module or a view of it."""
        return host_class.forward

    def finish(self, attention: nn.Module, merged: Tensor, *args: Any) -> Tensor:
        """Finish the merged output with the steps that `runner` left out."""
        return merged

    def other_forwards(self, host_class: type[nn.Module]) -> dict[str, Callable[..., Any]]:
        """Methods besides `forward` that the host calls on this module: name -> the method for both channels."""
        return {}

    def plain_formula(self, attention: nn.Module) -> bool:
        """Whether the host is set to compute attention step by step, without a fused kernel."""
        return False

    def joint_forward(self, attention: BoostedModule, channel: Channel) -> Callable[..., Any] | None:
        """A function `(attention, channel, *args, **kwargs)` for both channels; None if it would not be exact."""
        return None

    # --- export

    def with_heads(self, attention: nn.Module, heads: int) -> nn.Module | None:
        """A plain host module like `attention` with `heads` heads and unset weights; None if there is no such class."""
        return None


def check_slots(family: Family, attention: nn.Module) -> None:
    """Raise an error for a slot whose name is not canonical, or whose parameter the host does not have."""
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
                "does not have. Name one of its parameters."
            )

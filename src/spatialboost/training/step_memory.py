"""The memory of one training step, counted by running the step on tensors that have shapes but no values."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from spatialboost.training.config import StageConfig
from spatialboost.training.optimizers import build_optimizer

aten = torch.ops.aten


@dataclass
class StepMemory:
    """Bytes that a training step needs on one device.

    Attributes:
        weights: Parameters and buffers.
        gradients: Gradients of the trained parameters.
        optimizer: State of the optimiser.
        activations: What is kept from the forward for the backward, and the batch itself.
        copies: The part of `activations` that is copies of weights in another dtype, which autocast makes.
        moments: Bytes of gradients -> the largest other memory while there are so many, without weights and optimiser.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    copies: int = 0
    moments: dict[int, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """The largest memory at any moment of a step, with everything on one device."""
        return self.weights + self.optimizer + self.working()

    def working(self, shards: int = 1) -> int:
        """The largest sum of gradients, of which one device holds one in `shards`, and of all that comes and goes."""
        return max((gradients // shards + others for gradients, others in self.moments.items()), default=0)


def shape_only(module: nn.Module) -> FakeTensorMode:
    """Give a module on the meta device tensors of the CPU that have no values, in place.

    Example:
        >>> with torch.device("meta"):
        ...     layer = nn.Linear(4, 4)
        >>> mode = shape_only(layer)
        >>> layer.weight.device, layer(torch.ones(2, 4)).shape
        (device(type='cpu'), torch.Size([2, 4]))
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, tuple[Tensor, Tensor]] = {}  # with the tensor itself, so that its id is not used again

    def convert(old: Tensor) -> Tensor:
        if id(old) not in made:
            with mode:
                new: Tensor = torch.empty_like(old, device="cpu")
            own = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            made[id(old)] = old, own
        return made[id(old)][1]

    for part in module.modules():
        stores: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for tensors in stores:
            tensors.update({name: convert(each) for name, each in tensors.items() if each is not None})
    return mode


class AssumeEqual(TorchDispatchMode):
    """Within it, tensors without values are equal if they are compared; without it, comparing them is an error.

    Example:
        >>> with torch.device("meta"):
        ...     layer = nn.Linear(4, 4)
        >>> mode = shape_only(layer)
        >>> with AssumeEqual():
        ...     torch.equal(layer.weight, layer.weight + 1)
        True
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (aten.equal.default, aten.allclose.default) and isinstance(args[0], FakeTensor):
            return args[0].shape == args[1].shape
        return function(*args, **(kwargs or {}))


def measure_step(
    objective: nn.Module,
    groups: Sequence[dict[str, Any]],
    stage: StageConfig,
    make_batch: Callable[[], Mapping[str, Any]],
) -> StepMemory:
    """Count the memory of one optimiser step: forward, backward, clipping and optimiser.

    Example:
        >>> from spatialboost.training.config import StageConfig
        >>> class Loss(nn.Sequential):
        ...     def forward(self, x):
        ...         return {"loss": super().forward(x).mean()}
        >>> with torch.device("meta"):
        ...     objective = Loss(nn.Linear(100, 100), nn.GELU())
        >>> mode = shape_only(objective)
        >>> groups = [{"params": list(objective.parameters()), "lr": 1e-3}]
        >>> found = measure_step(objective, groups, StageConfig(), lambda: {"x": torch.zeros(50, 100)})
        >>> found.weights == found.gradients == 4 * 10_100, found.optimizer == 8 * 10_100 + 2 * 4
        (True, True)

    The memory that an operator allocates and frees by itself is not counted, nor what the device's allocator adds.

    Args:
        objective: The result of `shape_only`. Exactly the parameters of `groups` require gradients.
        groups: Parameter groups for the optimiser.
        stage: Settings of the stage.
        make_batch: Makes the batch of one forward, with or without values. Flags and numbers of tokens must have
            values; pixels and features need none.
    """
    found = StepMemory(weights=_bytes([*objective.parameters(), *objective.buffers()]))
    parameters = [p for group in groups for p in group["params"]]
    optimizer = build_optimizer(groups, beta2=stage.beta2, fused=True)
    objective.train()
    with _Tracker(objective) as tracker, tracker.following_gradients(parameters):
        batch = make_batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.bf16):
            loss = objective(**batch)["loss"]
        found.activations, found.copies = tracker.others, tracker.copies
        loss.backward()
        del loss, batch
        found.gradients = tracker.gradients
        if stage.clip:
            torch.nn.utils.clip_grad_norm_(parameters, stage.clip)
        before = tracker.others
        early, tracker.moments = tracker.moments, {}
        if stage.accumulate > 1:  # from the second forward on, all gradients are there all the time
            early = {found.gradients: max(early.values())}
        optimizer.step()
        found.optimizer = tracker.others - before
    # from the second step on, the state is there all the time
    late = {gradients: others - found.optimizer for gradients, others in tracker.moments.items()}
    found.moments = {key: max(early.get(key, 0), late.get(key, 0)) for key in early.keys() | late.keys()}
    return found


class _Tracker(TorchDispatchMode):
    """Follows the storages of all tensors that operators return, from creation until they are freed.

    Numbers and flags have values: what depends on the values, such as the positions of answers, is computed for real.
    """

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.others = self.gradients = self.copies = 0
        self.moments: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.kinds: dict[int, str] = {}
        self.weights = {_key(each) for each in (*objective.parameters(), *objective.buffers())}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        keys = {_key(each) for each in given}
        if function is aten.index.Tensor:
            args = (args[0], _numbers_of(args[1]), *args[2:])
        out = function(*args, **(kwargs or {}))
        copied = function is aten._to_copy.default and keys <= self.weights
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                key = _key(tensor)
                if key not in keys and key not in self.sizes and key not in self.weights:
                    self._follow(tensor, "copies" if copied else "others")
        return out

    @contextmanager
    def following_gradients(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Count the gradients of these parameters apart from all other tensors."""

        def accumulated(parameter: Tensor) -> None:
            key = _key(parameter.grad)
            if self.kinds.get(key) == "others":
                self.others -= self.sizes[key]
                self.gradients += self.sizes[key]
                self.kinds[key] = "gradients"

        handles = [each.register_post_accumulate_grad_hook(accumulated) for each in parameters]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _follow(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        key, size = _key(tensor), storage.nbytes()
        self.sizes[key], self.kinds[key] = size, kind
        self.others += size
        self.copies += size * (kind == "copies")
        self.moments[self.gradients] = max(self.moments.get(self.gradients, 0), self.others)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        size, kind = self.sizes.pop(key), self.kinds.pop(key)
        if kind == "gradients":
            self.gradients -= size
            return
        self.others -= size
        self.copies -= size * (kind == "copies")


def _numbers_of(indices: Sequence[Any]) -> list[Any]:
    """Indices with masks replaced by the numbers of their true places, as only their number of places is needed."""
    found: list[Any] = []
    for each in indices:
        mask = isinstance(each, Tensor) and each.dtype == torch.bool and not isinstance(each, FakeTensor)
        found += each.nonzero(as_tuple=True) if mask else [each]
    return found


def _key(tensor: Any) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum({_key(each): each.untyped_storage().nbytes() for each in tensors}.values())

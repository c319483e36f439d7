"""Check one model: where its self-attention is, and whether `boost` does on it what the documentation promises."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode

import spatialboost as sb
from spatialboost.boosting.find import find_attention

KERNELS = {
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
}
# Modules with a softmax over pairs that is not attention, and what they compute.
OTHERS = {
    "DFineLQE": "a distribution over a box's edges",
    "Deimv2LQE": "a distribution over a box's edges",
    "HSMSSD": "a state-space mixer",
    "Ovis2VisionModel": "a choice of visual words",
    "DetrMHAttentionMap": "a map of the objects' attention to the image, without values",
}


@dataclass
class Built:
    """A model with random weights, how to call it, and what was cut to make it small."""

    model: nn.Module
    call: Callable[[nn.Module], Any]
    reduced: str = ""
    tower: str = ""  # path of the part that was built, if it is not the whole model


@dataclass
class Record:
    """The outcome for one model; `verdict` is one of `spatialboost.experiments.coverage_table.VERDICTS`."""

    library: str
    name: str
    verdict: str = ""
    reason: str = ""
    classes: list[str] = field(default_factory=list)  # classes of the boosted attention layers
    layers: int = 0
    passed_over: list[str] = field(default_factory=list)
    reduced: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The record as a dictionary."""
        return asdict(self)


# --- where the self-attention is: found from the computation, without the library that is being checked


class Sites(TorchFunctionMode):
    """Finds the modules in whose forward an attention kernel or a softmax over pairs of tokens runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(module): name for name, module in model.named_modules()}
        self.stack: list[nn.Module] = []
        self.found: dict[str, str] = {}
        self.handles: list[Any] = []

    def __enter__(self) -> Sites:
        self.handles = [
            modules.register_module_forward_pre_hook(lambda module, _: self.stack.append(module)),
            modules.register_module_forward_hook(self._leave, always_call=True),
        ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def _leave(self, *_: Any) -> None:
        self.stack.pop()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in KERNELS or (name == "softmax" and _over_pairs(*args, **kwargs)):
            owner = next(module for module in reversed(self.stack) if id(module) in self.names)
            self.found[self.names[id(owner)]] = type(owner).__name__
        return function(*args, **kwargs)


def _over_pairs(input: Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> bool:
    """Whether a softmax gives weights of several keys for several queries: its matrices have more than one row."""
    return dim is not None and input.dim() > 2 and dim % input.dim() == input.dim() - 1 and input.shape[-2] > 1


def attention_sites(built: Built) -> dict[str, str]:
    """Path -> class of each module in whose forward attention weights are computed."""
    sites = Sites(built.model)
    with torch.no_grad(), sites:
        built.call(built.model)
    return sites.found


# --- the promises


class NotExaminedError(Exception):
    """A model that cannot be built here, or is not an image encoder; it is not checked."""


class BrokenPromiseError(Exception):
    """A promise that does not hold."""


def check(record: Record, built: Built) -> Record:
    """Boost the model and check the promises; writes the outcome into the record."""
    # torch.matmul takes another kernel for a frozen weight, so the base is frozen in every output that is compared
    model = built.model.eval().requires_grad_(False)
    record.reduced = built.reduced
    randomise(model)
    sites = attention_sites(built)
    found = find_attention(model)
    taken = [f.name for f in found if f.reason is None]
    passed = {f.name: f.reason for f in found if f.reason is not None}
    others = {name: OTHERS[cls] for name, cls in sites.items() if cls in OTHERS}
    missed = {n: cls for n, cls in sites.items() if n not in others and not _inside(n, [*taken, *passed])}
    passed |= others
    record.passed_over = sorted({f"{type(model.get_submodule(n)).__name__}: {why}" for n, why in passed.items()})
    if not taken and not missed:
        record.verdict = "no self-attention"
        record.reason = "only " + "; ".join(record.passed_over) if passed else "nothing in its forward weighs tokens"
        return record
    try:
        before = outputs(built)
        for seed in range(1, 5):  # the noise may make a last ReLU always zero; then the output is constant
            if any(t.numel() and bool(t.min() < t.max()) for t in before):
                break
            randomise(model, seed)
            before = outputs(built)
        sb.boost(model)
    except sb.SpatialBoostError as error:
        record.verdict, record.reason = "refused", str(error)
        return record
    layers = sb.status(model).layers
    record.layers = len(layers)
    attention: list[Any] = [type(model.get_submodule(s.name)) for s in layers]
    record.classes = sorted({boosted.host_class.__name__ for boosted in attention})
    try:
        require_promises(built, before)
        if missed:
            raise BrokenPromiseError(f"missed {len(missed)}: {next(iter(missed.items()))}")
    except BrokenPromiseError as error:
        record.verdict, record.reason = "failed", str(error)
    else:
        record.verdict = "boosted"
    return record


def require_promises(built: Built, before: list[Tensor]) -> None:
    """Check the promises on a model that has just been boosted.

    Args:
        built: The boosted model; its Attn+ is changed, and the model is loaded again from its own delta.
        before: The output of the model before `boost`.

    Raises:
        BrokenPromiseError: The first promise that does not hold.
    """
    model = built.model
    _require(_equal(outputs(built), before), "the output is not the same at start")
    _require_gradients_in_the_channel_alone(built)
    moved = outputs(built)
    difference = max((a - b).abs().max() / b.abs().max().clamp(min=1e-6) for a, b in zip(moved, before, strict=True))
    _require(bool(difference > torch.finfo().eps), f"moving Attn+ changed the output by {difference:.1e} only")
    with tempfile.TemporaryDirectory() as folder:
        sb.save_pretrained(model, folder)
        sb.unboost(model)
        _require(_equal(outputs(built), before), "unboost did not give back the original")
        sb.load_pretrained(model, folder)
    _require(_equal(outputs(built), moved), "the loaded delta gives another output")


def _require_gradients_in_the_channel_alone(built: Built) -> None:
    model = built.model
    base = {k: v.clone() for k, v in model.state_dict().items() if "spatial_channel" not in k}
    with torch.no_grad():
        for _, parameter in sb.named_parameters(model):
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.std(correction=0).clamp(min=0.1))
    model.train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower():
            module.eval()  # a dropped path would remove the gradient of a whole layer
    _backward(built)
    model.eval()
    own = dict(sb.named_parameters(model))
    stray = [n for n, p in model.named_parameters() if p.grad is not None and n not in own]
    _require(not stray, f"gradients outside of the channel: {stray[:2]}")
    layers = [s.name for s in sb.status(model).layers]
    idle = [name for name in layers if not _moves(p for n, p in own.items() if n.startswith(f"{name}."))]
    idle = [name for name in idle if _is_read(built, name)]
    _require(not idle, f"{len(idle)} of {len(layers)} layers without a gradient: {idle[:2]}")
    after = model.state_dict()
    moved = [k for k, v in base.items() if not torch.equal(after[k], v)]
    _require(not moved, f"a training step changed the base: {moved[:2]}")


def _backward(built: Built) -> None:
    torch.manual_seed(0)
    given = [t.masked_fill(t.isinf(), 0) for t in _tensors(built.call(built.model)) if t.requires_grad]
    torch.stack([t.float().square().mean() for t in given]).sum().backward()


def _moves(parameters: Iterable[nn.Parameter]) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in parameters)


def _is_read(built: Built, name: str) -> bool:
    """Whether the original's output depends on this layer; some heads do not use the last layers."""
    own = [p for n, p in built.model.get_submodule(name).named_parameters() if "spatial_channel" not in n]
    with sb.disabled(built.model):
        for parameter in own:
            parameter.requires_grad_(True)
        if any(t.requires_grad for t in _tensors(built.call(built.model))):
            _backward(built)
        for parameter in own:
            parameter.requires_grad_(False)
    return _moves(own)


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Add noise to all parameters, so that no branch is zero, as with LayerScale or zero-initialised projections."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def outputs(built: Built) -> list[Tensor]:
    """The floating-point tensors of the model's output, without gradients."""
    torch.manual_seed(0)
    with torch.no_grad():
        found = [t.masked_fill(t.isinf(), 0) for t in _tensors(built.call(built.model))]  # masked logits are infinite
    _require(bool(found), "the model gives no tensor")
    _require(not any(t.isnan().any() for t in found), "the model's own output is not a number")
    return found


def _tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors of an output, which may be a tensor, a sequence, a mapping or a dataclass."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [t for one in value for t in _tensors(one)]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _inside(name: str, outer: list[str]) -> bool:
    return any(o == "" or name == o or name.startswith(f"{o}.") for o in outer)


def _require(held: bool, message: str) -> None:
    if not held:
        raise BrokenPromiseError(message)

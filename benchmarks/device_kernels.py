"""Every kernel of the attention over both channels against the formula in float64: forward and gradients.

Two things are compared: the attention alone, with every kind of mask and with packed sequences (`attend`), and a whole
boosted ViT, whose reference is equation 1 of the paper, taken literally (`NaiveBranches`). An error is the largest
difference as a share of the largest value of the reference. No kernel can be exact in bfloat16. So each error is
compared with that of the formula itself, computed step by step in the same dtype: a kernel agrees if its error is at
most `FACTOR` times as large, plus the rounding of the dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from overhead import naive
from torch import Tensor, nn

import spatialboost as sb
from spatialboost.boosting import set_kernel
from spatialboost.boosting.channel import boosted_layers
from spatialboost.boosting.kernels import Call, attend, choose_kernel, plain_attention

# Shapes: B batch, T tokens, H heads of one channel, C features of a head; q, k, v are (B, 2H, T, C).

ATTENTION = ("auto", "sdpa", "xformers", "math")
MODEL = ("host", *ATTENTION)
FACTOR = 3.0
MASKS = ("none", "bool", "keys", "additive", "per head", "causal", "packed, equal", "packed, unequal")


def sizes(tiny: bool) -> list[tuple[int, int, int, int]]:
    """(B, H, T, C): those of ViT-B/16 at 224 px and of ViT-L/14 at 518 px; tiny ones for a test on a CPU."""
    return [(2, 2, 10, 8)] if tiny else [(4, 12, 197, 64), (1, 16, 1370, 64)]


def measure(kernel: str, dtype: torch.dtype, device: str, tiny: bool) -> list[dict[str, Any]]:
    """One row for each mask and size, and one for the whole model."""
    torch.backends.cudnn.allow_tf32 = False  # for the patch embedding in float32
    rows = []
    for size in sizes(tiny):
        for mask in MASKS if kernel in ATTENTION else ():
            rows.append(
                _guarded(lambda size=size, mask=mask: _attention(kernel, mask, size, dtype, device), mask, size)
            )
    for masked in (False, True):
        name = "whole ViT, keys" if masked else "whole ViT"
        rows.append(_guarded(lambda masked=masked: _model(kernel, masked, dtype, device, tiny), name, None))
    return rows


def _guarded(measure: Any, mask: str, size: tuple[int, ...] | None) -> dict[str, Any]:
    """The row, or the reason why the kernel cannot run this case."""
    about: dict[str, Any] = {"mask": mask, "size": None if size is None else list(size)}
    try:
        return about | measure()
    except (sb.SpatialBoostError, torch.OutOfMemoryError, NotImplementedError, RuntimeError) as error:
        return about | {"failed": " ".join(str(error).split())[:300]}


def _attention(kernel: str, mask: str, size: tuple[int, int, int, int], dtype: Any, device: str) -> dict[str, Any]:
    B, H, T, C = size
    B = 1 if mask.startswith("packed") else B
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(B, T, 2 * H, C, generator=generator).to(device, dtype) for _ in range(3)]
    weight = torch.randn(B, 2 * H, T, C, generator=generator).to(device)
    options = _mask(mask, size, dtype, device, generator)
    found = _run(leaves, weight, lambda q, k, v: attend(q, k, v, _call(kernel, size, options)))
    dense = _dense(options, size, device)
    exact = _run(
        [leaf.double() for leaf in leaves],
        weight,
        lambda q, k, v: plain_attention(q, k, v, dense.double() if _adds(dense) else dense, _call("math", size, {})),
    )
    formula = _run(leaves, weight, lambda q, k, v: plain_attention(q, k, v, dense, _call("math", size, {})))
    ran = choose_kernel(kernel, leaves[0].transpose(1, 2)) if kernel == "auto" else kernel
    return {"ran": ran, **_compared(found, formula, exact, dtype)}


def _call(kernel: str, size: tuple[int, int, int, int], options: dict[str, Any]) -> Call:
    return Call(heads=size[1], scale=size[3] ** -0.5, kernel=kernel, **options)


def _run(leaves: Sequence[Tensor], weight: Tensor, attention: Any) -> list[Tensor]:
    """The output, and the gradients of q, k and v."""
    given = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = attention(*(t.transpose(1, 2) for t in given))
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), given)]


def _mask(name: str, size: tuple[int, int, int, int], dtype: Any, device: str, generator: Any) -> dict[str, Any]:
    """The arguments of `Call` for one kind of mask."""
    B, H, T, _ = size
    if name == "bool":
        mask = torch.rand(B, 1, T, T, generator=generator).gt(0.5) | torch.eye(T, dtype=torch.bool)
    elif name == "keys":
        mask = (torch.arange(T) < T - T // 4).expand(B, 1, 1, T)
    elif name == "additive":
        mask = torch.randn(1, 1, T, T, generator=generator).to(dtype)
    elif name == "per head":
        mask = torch.randn(B, H, T, T, generator=generator).to(dtype)
    else:
        lengths = (T // 2, T // 2, T % 2) if name == "packed, equal" else (T // 5, T // 2, T - T // 5 - T // 2)
        return {"lengths": lengths} if name.startswith("packed") else {"causal": True} if name == "causal" else {}
    return {"mask": mask.to(device)}


def _dense(options: dict[str, Any], size: tuple[int, int, int, int], device: str) -> Tensor | None:
    """The mask of all pairs that the arguments mean."""
    _, H, T, _ = size
    if lengths := options.get("lengths"):
        number_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)
        return number_T[:, None] == number_T
    if options.get("causal"):
        return torch.ones(T, T, dtype=torch.bool, device=device).tril()
    mask = options.get("mask")
    return torch.cat([mask, mask], 1) if mask is not None and mask.shape[1] == H > 1 else mask


def _adds(mask: Tensor | None) -> bool:
    return mask is not None and mask.is_floating_point()


def _model(kernel: str, masked: bool, dtype: Any, device: str, tiny: bool) -> dict[str, Any]:
    """A boosted ViT of two blocks whose Attn+ and gates differ from the start, as after training."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    shape = {"img_size": 32, "embed_dim": 32, "num_heads": 2} if tiny else {"embed_dim": 768, "num_heads": 12}
    base = VisionTransformer(**{"depth": 2, "num_classes": 0, **shape})
    tokens = 1 + base.patch_embed.num_patches
    images = torch.randn(2, 3, *base.patch_embed.img_size, device=device)
    mask = (torch.arange(tokens, device=device) < tokens - tokens // 4).expand(2, 1, 1, tokens) if masked else None
    literal = naive(copy.deepcopy(base))
    boosted = sb.boost(base)
    with torch.no_grad():
        for block, (_, _, channel) in zip(literal.blocks, boosted_layers(boosted), strict=True):
            for name, theirs in block.attn.plus.named_parameters():
                ours = channel.plus(name)
                theirs.copy_(ours.add_(0.2 * ours.std() * torch.randn_like(ours)))
            block.attn.gate.copy_(channel.gate.normal_())
    boosted = set_kernel(boosted.to(device, dtype), kernel)
    trained = [(c.gate, c.plus("qkv.weight"), c.plus("proj.weight")) for _, _, c in boosted_layers(boosted)]
    found = _outputs(boosted, images.to(dtype), mask, trained)
    exact = _literal(copy.deepcopy(literal).to(device, torch.float64), images.to(dtype).double(), mask)
    formula = _literal(literal.to(device, dtype), images.to(dtype), mask)
    return {"ran": sb.status(boosted).layers[0].kernel, **_compared(found, formula, exact, dtype)}


def _literal(model: nn.Module, images: Tensor, mask: Tensor | None) -> list[Tensor]:
    layers = [block.attn for block in model.blocks]
    trained = [(layer.gate, layer.plus.qkv.weight, layer.plus.proj.weight) for layer in layers]
    return _outputs(model.requires_grad_(True), images, mask, trained)


def _outputs(model: nn.Module, images: Tensor, mask: Tensor | None, trained: Sequence[Any]) -> list[Tensor]:
    """The tokens of all patches, and the gradients of what is trained."""
    out = model.forward_features(images, attn_mask=mask)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    gradients = torch.autograd.grad((out * weight).sum(), [each for layer in trained for each in layer])
    return [out.detach(), *gradients]


def _compared(found: Sequence[Tensor], formula: Sequence[Tensor], exact: Sequence[Tensor], dtype: Any) -> dict:
    """The errors of kernel and formula, and whether they agree."""
    rounding = torch.finfo(dtype).eps
    errors = [_error(ours, truth) for ours, truth in zip(found, exact, strict=True)]
    usual = [_error(theirs, truth) for theirs, truth in zip(formula, exact, strict=True)]
    agrees = all(ours <= FACTOR * theirs + rounding for ours, theirs in zip(errors, usual, strict=True))
    return {
        "forward": errors[0],
        "gradients": max(errors[1:]),
        "formula_forward": usual[0],
        "formula_gradients": max(usual[1:]),
        "agrees": agrees,
    }


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())

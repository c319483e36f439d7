"""torch.hub's DINO: test classes with the structure of its attention, without a copy of its code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import spatialboost as sb
from host_models import HEADS, WIDTH, perturb
from spatialboost.boosting import set_kernel
from spatialboost.boosting.xformers_kernel import from_xformers, xformers_ops


class MemEffAttention(nn.Module):
    """DINOv2's attention with a bias of xformers. xformers needs a GPU, so here the bias becomes a dense mask."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x: Tensor, attn_bias=None) -> Tensor:
        B, N, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, WIDTH // self.num_heads).permute(2, 0, 3, 1, 4)
        mask = None if attn_bias is None else attn_bias.materialize((B, HEADS, N, N))
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(B, N, WIDTH)))


class MaskedBias(nn.Linear):
    """DINOv3's `qkv`, which multiplies the bias of the keys by zero."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 3 * WIDTH)
        mask = torch.ones(3 * WIDTH)
        mask[WIDTH : 2 * WIDTH] = 0
        self.register_buffer("bias_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias * self.bias_mask)


class SelfAttention(nn.Module):
    """DINOv3's attention: rotary positions for q and k of the patches, which are the last tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.qkv, self.proj = MaskedBias(), nn.Linear(WIDTH, WIDTH)
        self.attn_drop, self.proj_drop = 0.0, nn.Dropout(0.0)

    def apply_rope(self, q: Tensor, k: Tensor, rope) -> tuple[Tensor, Tensor]:
        sin, cos = rope
        first = q.shape[-2] - sin.shape[-2]

        def turn(t: Tensor) -> Tensor:
            a, b = t[:, :, first:].chunk(2, -1)
            return torch.cat([t[:, :, :first], t[:, :, first:] * cos + torch.cat([-b, a], -1) * sin], dim=2)

        return turn(q), turn(k)

    def forward(self, x: Tensor, attn_bias=None, rope=None) -> Tensor:
        B, N, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, WIDTH // self.num_heads).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = self.apply_rope(q, k, rope)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(B, N, WIDTH)))


# found by class path, like the classes of torch.hub
for stand_in, path in ((MemEffAttention, "dinov2.layers.attention"), (SelfAttention, "dinov3.layers.attention")):
    stand_in.__module__ = path


class Holder(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attn = attention

    def forward(self, *args, **kwargs) -> Tensor:
        return self.attn(*args, **kwargs)


def packed():
    if xformers_ops() is None:
        pytest.skip("xformers is not installed")
    return {"attn_bias": xformers_ops().fmha.attn_bias.BlockDiagonalMask.from_seqlens([2, 4, 4])}


def turned():
    angle = torch.randn(7, WIDTH // HEADS)
    return {"rope": (angle.sin(), angle.cos())}


CALLS = {
    "dinov2": (MemEffAttention, dict),
    "dinov2_packed": (MemEffAttention, packed),
    "dinov3": (SelfAttention, turned),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kernel", ["sdpa", "math", "auto"])
def test_joint_forward_equals_the_reference(name, kernel):
    torch.manual_seed(0)
    host, options = CALLS[name]
    model, options = perturb(sb.boost(Holder(host()))), options()
    assert [layer.family for layer in sb.status(model).layers] == ["dino_hub"]
    x = torch.randn(1, 10, WIDTH, requires_grad=True)
    wanted = model(x, **options)
    found = set_kernel(model, kernel)(x, **options)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    params, weight = [x, *(p for _, p in sb.named_parameters(model))], torch.randn_like(wanted)
    grads = [torch.autograd.grad((out * weight).sum(), params) for out in (found, wanted)]
    top = max(g.abs().max() for g in grads[1])
    assert all((a - b).abs().max() <= 1e-5 * top for a, b in zip(*grads, strict=True))


def test_images_packed_in_one_row_do_not_mix():
    model, options = set_kernel(perturb(sb.boost(Holder(MemEffAttention()))), "auto"), packed()
    x = torch.randn(1, 10, WIDTH)
    changed = x.clone()
    changed[:, 2:6] += 1
    with torch.no_grad():
        before, after = model(x, **options), model(changed, **options)
    assert torch.equal(before[:, :2], after[:, :2]) and torch.equal(before[:, 6:], after[:, 6:])
    assert from_xformers(options["attn_bias"], x[None])[1] == (2, 4, 4)


def test_dropout_in_training_uses_the_reference():
    model = set_kernel(sb.boost(Holder(MemEffAttention())), "auto")
    model.attn.proj_drop.p = 0.1
    assert [layer.kernel for layer in sb.status(model.eval()).layers] == ["sdpa"]
    assert [layer.kernel for layer in sb.status(model.train()).layers] == ["host"]

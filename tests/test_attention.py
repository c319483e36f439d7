"""The fused forward against plain formulas, and the choice of kernel."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

import spatialboost as sb
from hosts import HOSTS, WIDTH, images, output, perturb
from spatialboost.attention import Call, PairedLinear, attend, choose_kernel, fold, interleave
from spatialboost.boosting import set_kernel
from spatialboost.channel import boosted_layers


def weights(rows: int = 4, columns: int = 3) -> list[torch.Tensor]:
    return [torch.randn(rows, columns, dtype=torch.float64) for _ in range(6)]


def test_paired_linear_is_two_linears():
    x, parts = torch.randn(2, 5, 3, dtype=torch.float64), weights()
    bias = torch.randn(24, dtype=torch.float64)
    found = PairedLinear.apply(x, bias, *parts).unflatten(-1, (3, 2, 4))
    for channel in range(2):
        for part in range(3):
            expected = x @ parts[3 * channel + part].T + bias.unflatten(0, (3, 2, 4))[part, channel]
            torch.testing.assert_close(found[..., part, channel, :], expected)


@pytest.mark.parametrize("trains", [(True,) * 6, (False, False, False, True, True, True)])
def test_paired_linear_gradients(trains):
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(24, dtype=torch.float64, requires_grad=True)
    parts = [w.requires_grad_(t) for w, t in zip(weights(), trains, strict=True)]
    assert gradcheck(lambda *a: PairedLinear.apply(*a), (x, bias, *parts))


def test_frozen_half_has_no_weight_gradient():
    """Counted in GEMMs, not only by `grad is None`."""
    from torch.utils.flop_counter import FlopCounterMode

    def backward_flops(trains: bool) -> int:
        x = torch.randn(2, 3, 3)
        parts = [w.float().requires_grad_(trains or i > 2) for i, w in enumerate(weights())]
        out = PairedLinear.apply(x, None, *parts)
        with FlopCounterMode(display=False) as flops:
            out.sum().backward()
        return flops.get_total_flops()

    one_weight = 2 * (2 * 3) * 4 * 3
    assert (backward_flops(False), backward_flops(True)) == (3 * one_weight, 6 * one_weight)


def test_folded_output_projection_is_the_gated_sum():
    base, plus = torch.randn(WIDTH, 8), torch.randn(WIDTH, 8)
    base_bias, plus_bias, g = torch.randn(WIDTH), torch.randn(WIDTH), torch.rand(WIDTH)
    weight, bias = fold(base, base_bias, plus, plus_bias, g)
    left, right = torch.randn(5, 8), torch.randn(5, 8)
    expected = g * (left @ base.T + base_bias) + (1 - g) * (right @ plus.T + plus_bias)
    torch.testing.assert_close(torch.cat([left, right], -1) @ weight.T + bias, expected)
    assert fold(base, None, plus, None, g)[1] is None


@pytest.mark.parametrize("kernel", ["sdpa", "math"])
@pytest.mark.parametrize("kind", ["none", "bool", "float", "per_head", "causal"])
def test_kernels_agree(kernel, kind):
    heads, n = 2, 5
    q, k, v = torch.randn(3, 2, 2 * heads, n, 8, dtype=torch.float64)
    mask, causal = None, kind == "causal"
    if kind == "bool":
        mask = torch.rand(2, 1, n, n) > 0.3
        mask |= torch.eye(n, dtype=torch.bool)
    elif kind == "float":
        mask = torch.randn(1, 1, n, n, dtype=torch.float64)
    elif kind == "per_head":
        mask = torch.randn(2, heads, n, n, dtype=torch.float64)
    found = attend(q, k, v, Call(heads=heads, scale=0.3, kernel=kernel, mask=mask, causal=causal))
    scores = 0.3 * torch.einsum("bhqc,bhkc->bhqk", q, k)
    if causal:
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
    elif mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + (mask.repeat(1, 2, 1, 1) if kind == "per_head" else mask)
    torch.testing.assert_close(found, scores.softmax(-1) @ v)


def test_choice_of_kernel():
    q = torch.randn(1, 4, 5, 8)
    assert choose_kernel("auto", q) == "sdpa"  # xformers has no operator on CPU
    assert choose_kernel("auto", q, fused=False) == "math"  # the host asks for the plain formula
    assert choose_kernel("math", q) == "math"
    with pytest.raises(
        sb.SpatialBoostError, match=r"xformers has no operator for \(1, 4, 5, 8\) torch.float32 on cpu.*'auto'"
    ):
        choose_kernel("xformers", q)


def test_set_kernel_refuses_before_it_changes_anything():
    model = sb.boost(HOSTS["generic"].make())
    for kernel, message in (("sdpa", "blocks.0.attn .generic. cannot"), ("flash", "kernel='flash' is not known")):
        with pytest.raises(sb.SpatialBoostError, match=message):
            set_kernel(model, kernel)
    with pytest.raises(sb.SpatialBoostError, match="kernel='xformers' has no operator here"):
        set_kernel(sb.boost(HOSTS["timm"].make()), "xformers")
    assert {channel.kernel for _, _, channel in boosted_layers(set_kernel(model, "auto"))} == {"auto"}
    assert {layer.kernel for layer in sb.status(model).layers} == {"host"}  # auto: fused only where it is exact


def test_hooks_and_adapters_keep_to_the_reference():
    model = set_kernel(sb.boost(HOSTS["timm"].make()), "auto")
    seen: list[str] = []
    model.blocks[0].attn.qkv.register_forward_hook(lambda *_: seen.append("qkv"))
    assert [layer.kernel for layer in sb.status(model).layers] == ["host", "sdpa"]
    output(model, images())
    assert seen == ["qkv"]


@pytest.mark.parametrize("name", ["timm", "timm_dinov3", "dinov2", "torchvision"])
def test_fused_forward_compiles_and_exports(name):
    host = HOSTS[name]
    model, inputs = perturb(sb.boost(host.make())), host.inputs()
    set_kernel(model, "auto")
    torch._dynamo.reset()
    expected = output(model, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = output(compiled, inputs)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    grads = [p.grad.clone() for _, p in sb.named_parameters(model)]
    model.zero_grad()
    expected.square().sum().backward()
    top = max(g.abs().max() for g in grads)
    assert all(
        (p.grad - g).abs().max() <= 1e-5 * top for (_, p), g in zip(sb.named_parameters(model), grads, strict=True)
    )
    with torch.no_grad():
        program = torch.export.export(model, tuple(inputs.values()))
        torch.testing.assert_close(output(program.module(), inputs), output(model, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_forward_in_half_precision(dtype):
    model, inputs = perturb(sb.boost(HOSTS["timm"].make().to(dtype))), images()["x"].to(dtype)
    expected = model(inputs)
    found = set_kernel(model, "auto")(inputs)
    with torch.no_grad():
        folded = model(inputs)
    tolerance = 2**-5 if dtype == torch.bfloat16 else 2**-8
    for out in (found, folded):
        assert out.dtype == dtype and (out - expected).abs().max() <= tolerance * expected.abs().max()
    found.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for _, p in sb.named_parameters(model))


def test_fused_forward_under_autocast():
    model, inputs = perturb(sb.boost(HOSTS["timm"].make())), images()["x"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(inputs)
        found = set_kernel(model, "auto")(inputs)
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() <= 2**-5 * expected.abs().max()
    found.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in sb.named_parameters(model))


def test_interleave_puts_like_by_like():
    rows = [torch.full((1, 1), float(i)) for i in range(6)]  # q k v q+ k+ v+
    assert interleave(rows).flatten().tolist() == [0, 3, 1, 4, 2, 5]


def test_dropout_after_the_output_projection_is_the_hosts():
    model = perturb(sb.boost(HOSTS["timm"].make())).train()
    set_kernel(model, "auto")
    attention = model.blocks[0].attn
    attention.proj_drop = nn.Dropout(1.0)
    with torch.no_grad():
        assert attention(torch.randn(1, 4, WIDTH)).abs().max() == 0
    assert attention(torch.randn(1, 4, WIDTH)).abs().max() == 0

"""The joint forward compared with plain formulas and the reference: values, gradients, number of operations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.utils.flop_counter import FlopCounterMode

import spatialboost as sb
from host_models import HOSTS, WIDTH, images, output, perturb
from spatialboost.boosting import set_kernel
from spatialboost.boosting.channel import boosted_layers
from spatialboost.boosting.fuse import fuse_output
from spatialboost.boosting.joint import GatedOutput, Projections, attention_of, joint_attention, project_input
from spatialboost.boosting.kernels import Call


def channel(trains: bool = False, packed: bool = True, bias: bool = True, dtype=torch.float64) -> Projections:
    """Random weights of one channel: width 3, inner width 4."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype).requires_grad_(trains)

    qkv = (draw(12, 3),) if packed else tuple(draw(4, 3) for _ in range(3))
    qkv_bias = ((draw(12),) if packed else (draw(4), None, draw(4))) if bias else (None,)
    return Projections(qkv, qkv_bias, draw(3, 4), draw(3) if bias else None)


def thirds(tensors) -> tuple:
    return tensors if len(tensors) == 3 else (None,) * 3 if tensors[0] is None else tensors[0].chunk(3)


KINDS = [(True, True), (False, True), (True, False), (False, False)]


@pytest.mark.parametrize(("packed", "bias"), KINDS)
@pytest.mark.parametrize("joined", [False, True])
def test_input_projection_is_that_of_each_channel(packed, bias, joined):
    x, channels = torch.randn(2, 5, 3, dtype=torch.float64), [channel(packed=p, bias=bias) for p in (True, packed)]
    found = project_input(channels, x, packed=joined)
    for part, out in enumerate(found.chunk(3, -1) if joined else found):
        for own, columns in zip(channels, out.chunk(2, -1), strict=True):
            expected = torch.nn.functional.linear(x, thirds(own.qkv)[part], thirds(own.qkv_bias)[part])
            torch.testing.assert_close(columns, expected)


@pytest.mark.parametrize("concatenated", [False, True], ids=["parts", "concatenated"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients(monkeypatch, concatenated, packed, frozen):
    """Both ways of computing: in parts (CPU), and as one multiplication (elsewhere, and in compiled graphs)."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: concatenated)
    base, plus = channel(not frozen, packed), channel(True, packed)
    x = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    g = torch.rand(3, dtype=torch.float64, requires_grad=True)

    def run(x, g, *_):
        q, k, v = project_input([base, plus], x)
        return GatedOutput.apply(q * k.sigmoid() + v, g, base.out, base.out_bias, plus.out, plus.out_bias)

    tensors = [t for side in (base, plus) for t in side.tensors()]
    assert gradcheck(run, (x, g, *tensors))
    assert gradcheck(lambda x, g: run(x, g), (x, g[:1].detach().requires_grad_()))


def backward_flops(x_trains: bool, base_trains: bool, joint: bool) -> int:
    """Multiplications in one layer: 2 x 3 tokens, width 3, inner width 4, one head."""
    base, plus = channel(base_trains, dtype=torch.float32), channel(True, dtype=torch.float32)
    x, gate = torch.randn(2, 3, 3, requires_grad=x_trains), torch.zeros(3, requires_grad=True)
    call = Call(heads=1, scale=0.5, kernel="math")
    if joint:
        out = joint_attention(x, base, plus, gate, call)
    else:
        sides = [
            torch.nn.functional.linear(attention_of([side], x, call, None), side.out, side.out_bias)
            for side in (base, plus)
        ]
        out = torch.lerp(sides[1], sides[0], gate.sigmoid())
    with FlopCounterMode(display=False) as flops:
        out.sum().backward()
    return flops.get_total_flops()


def test_frozen_half_has_no_weight_gradient():
    """The number of multiplications shows it, not only `grad is None`."""
    weights = 2 * (2 * 3) * 4 * 3 * 4  # the gradient of one channel's four projections
    assert backward_flops(True, True, True) - backward_flops(True, False, True) == weights


@pytest.mark.parametrize("x_trains", [True, False])
@pytest.mark.parametrize("base_trains", [True, False])
def test_backward_computes_no_more_than_autograd_of_two_calls(x_trains, base_trains):
    assert backward_flops(x_trains, base_trains, True) == backward_flops(x_trains, base_trains, False)


def test_first_layer_runs_no_backward_for_the_frozen_channel():
    """No parameter before the first boosted layer is trained, so its frozen channel needs no backward."""
    assert backward_flops(False, False, True) * 2 < backward_flops(True, False, True)


def test_fused_output_projection_is_the_gated_sum():
    base, plus = torch.randn(WIDTH, 8), torch.randn(WIDTH, 8)
    base_bias, plus_bias, g = torch.randn(WIDTH), torch.randn(WIDTH), torch.rand(WIDTH)
    weight, bias = fuse_output(base, base_bias, plus, plus_bias, g)
    left, right = torch.randn(5, 8), torch.randn(5, 8)
    expected = g * (left @ base.T + base_bias) + (1 - g) * (right @ plus.T + plus_bias)
    torch.testing.assert_close(torch.cat([left, right], -1) @ weight.T + bias, expected)
    assert fuse_output(base, None, plus, None, g)[1] is None


def test_set_kernel_refuses_before_it_changes_anything():
    model = sb.boost(HOSTS["generic"].make())
    for kernel, message in (("sdpa", "blocks.0.attn .generic. cannot"), ("flash", "unknown kernel 'flash'")):
        with pytest.raises(sb.SpatialBoostError, match=message):
            set_kernel(model, kernel)
    with pytest.raises(sb.SpatialBoostError, match="kernel='xformers' has no operator here"):
        set_kernel(sb.boost(HOSTS["timm"].make()), "xformers")
    assert {channel.kernel for _, _, channel in boosted_layers(set_kernel(model, "auto"))} == {"auto"}
    assert {layer.kernel for layer in sb.status(model).layers} == {"host"}  # auto: both at once only if that is exact


def test_hooks_and_adapters_use_the_reference():
    model = set_kernel(sb.boost(HOSTS["timm"].make()), "auto")
    seen: list[str] = []
    model.blocks[0].attn.qkv.register_forward_hook(lambda *_: seen.append("qkv"))
    assert [layer.kernel for layer in sb.status(model).layers] == ["host", "sdpa"]
    output(model, images())
    assert seen == ["qkv"]


@pytest.mark.parametrize("name", ["timm", "timm_dinov3", "dinov2", "torchvision"])
def test_joint_forward_compiles_and_exports(name):
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
def test_joint_forward_in_half_precision(dtype):
    model, inputs = perturb(sb.boost(HOSTS["timm"].make().to(dtype))), images()["x"].to(dtype)
    expected = model(inputs)
    found = set_kernel(model, "auto")(inputs)
    with torch.no_grad():
        inferred = model(inputs)
    tolerance = 2**-5 if dtype == torch.bfloat16 else 2**-8
    for out in (found, inferred):
        assert out.dtype == dtype and (out - expected).abs().max() <= tolerance * expected.abs().max()
    found.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for _, p in sb.named_parameters(model))


def test_joint_forward_under_autocast():
    model, inputs = perturb(sb.boost(HOSTS["timm"].make())), images()["x"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(inputs)
        found = set_kernel(model, "auto")(inputs)
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() <= 2**-5 * expected.abs().max()
    found.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in sb.named_parameters(model))


def test_dropout_after_the_output_projection_is_the_hosts():
    model = perturb(sb.boost(HOSTS["timm"].make())).train()
    set_kernel(model, "auto")
    attention = model.blocks[0].attn
    attention.proj_drop = nn.Dropout(1.0)
    with torch.no_grad():
        assert attention(torch.randn(1, 4, WIDTH)).abs().max() == 0
    assert attention(torch.randn(1, 4, WIDTH)).abs().max() == 0


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["padding", "bool", "float", "per_head", "both"])
def test_masks_of_multihead_attention(batch_first, mask):
    """In a bool mask of this host True forbids."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first).eval()
    model = perturb(sb.boost(nn.Sequential(layer), layers=lambda *_: True))
    x = torch.randn(3, 5, WIDTH) if batch_first else torch.randn(5, 3, WIDTH)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [4]])
    square = torch.ones(5, 5, dtype=torch.bool).triu(1)
    masks = {
        "padding": {"key_padding_mask": padding},
        "bool": {"attn_mask": square},
        "float": {"attn_mask": torch.randn(5, 5)},
        "per_head": {"attn_mask": torch.randn(3 * 2, 5, 5)},
        "both": {"attn_mask": square, "key_padding_mask": padding},
    }[mask]
    with torch.no_grad():
        expected = layer(x, x, x, need_weights=False, **masks)[0]
        for kernel in ("sdpa", "math"):
            set_kernel(model, kernel)
            found, maps = layer(x, x, x, need_weights=False, **masks)
            assert maps is None and (found - expected).abs().max() <= 1e-5 * expected.abs().max()
            assert layer(x, x, x, need_weights=True, **masks)[1] is not None  # from the reference forward

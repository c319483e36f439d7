"""Both kernels under torch's transforms: functional calls, torch.func, derivatives of higher order, FSDP1, torch.fx."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacfwd, jvp, vmap
from torch.utils.checkpoint import checkpoint

import spatialboost as sb
from host_models import HOSTS, images, perturb
from spatialboost.boosting import set_kernel
from spatialboost.boosting.channel import boosted_layers

X = images()["x"]
ROWS = pytest.mark.parametrize("host", ["timm", "timm_dinov3", "torchvision", "siglip"])


def make(host: str, kernel: str) -> nn.Module:
    """A boosted model without fused attention, of which torch has no higher derivatives on a CPU."""
    model = set_kernel(perturb(sb.boost(HOSTS[host].make())), kernel)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


def loss_of(model: nn.Module):
    state = dict(model.named_parameters()) | dict(model.named_buffers())

    def loss(x):
        out = functional_call(model, state, (x,))
        return (out if isinstance(out, torch.Tensor) else out.last_hidden_state).square().mean()

    return loss


def second_derivatives(model):
    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss_of(model)(x), x, create_graph=True)
    wanted = [x, *(parameter for _, parameter in sb.named_parameters(model))]
    return torch.cat([g.flatten() for g in torch.autograd.grad(first.square().sum(), wanted)])


CALLS = {
    "functional_call": lambda model: loss_of(model)(X),
    "grad": lambda model: grad(loss_of(model))(X),
    "vmap": lambda model: vmap(lambda x: loss_of(model)(x[None]))(X),
    "vmap of grad": lambda model: vmap(grad(lambda x: loss_of(model)(x[None])))(X),
    "jvp": lambda model: jvp(loss_of(model), (X,), (torch.ones_like(X),))[1],
    "jacfwd": lambda model: jacfwd(lambda scale: loss_of(model)(scale * X))(torch.tensor(1.0)),
    "second derivatives": second_derivatives,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("host", ["timm", "timm_dinov3"])
def test_transforms_give_the_same_with_both_kernels(host, call):
    expected, found = (CALLS[call](make(host, kernel)) for kernel in ("host", "auto"))
    assert expected.abs().max() > 0 and torch.allclose(expected, found, atol=1e-5, rtol=1e-3)


def test_forward_mode_differentiation():
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
        tangents = [torch.autograd.forward_ad.unpack_dual(make("timm", k)(dual)).tangent for k in ("host", "auto")]
    assert torch.allclose(*tangents, atol=1e-4, rtol=1e-3)


@ROWS
@pytest.mark.parametrize("kernel", ["host", "auto"])
def test_functional_calls_with_other_weights(host, kernel):
    """The tensors of the call are used, of Attn and of Attn+ alike."""
    model = make(host, kernel)
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    model_of_zeros = make(host, kernel)
    with torch.no_grad():
        for parameter in model_of_zeros.parameters():
            parameter.zero_()
    outputs = [functional_call(m, state, (X,)) for m in (model, model_of_zeros)]
    outputs = [out if isinstance(out, torch.Tensor) else out.last_hidden_state for out in outputs]
    assert torch.allclose(*outputs, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("original", [True, False], ids=["original parameters", "flat parameters"])
@pytest.mark.parametrize("kernel", ["host", "auto"])
@pytest.mark.parametrize("host", ["timm", "siglip", "torchvision"])
def test_fsdp1_of_one_process(host, kernel, original, tmp_path):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = make(host, kernel)
    expected = loss_of(model)(X)
    model.requires_grad_(True)  # flat parameters need one setting for all
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        sharded = FullyShardedDataParallel(model, use_orig_params=original, device_id=torch.device("cpu"))
        out = sharded(X)
        out = out if isinstance(out, torch.Tensor) else out.last_hidden_state
        assert torch.allclose(out.square().mean(), expected, atol=1e-5)
        assert len(boosted_layers(sharded)) == 2
    finally:
        torch.distributed.destroy_process_group()


def by_block(model):
    for block in model.blocks:
        inner = block.forward
        block.forward = lambda x, inner=inner, **kwargs: checkpoint(inner, x, use_reentrant=True)
    return model


def whole(model):
    return lambda x: checkpoint(model, x, use_reentrant=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("checkpointed", [by_block, whole])
def test_reentrant_checkpoints_that_keep_gradients_away_are_refused(checkpointed):
    model = make("timm", "host").train()
    run = checkpointed(model)
    with pytest.raises(sb.SpatialBoostError, match=r"layer 0 .*use_reentrant=True.*Set use_reentrant=False"):
        run(X)
    with torch.no_grad():
        model.eval()(X)
    x = X.clone().requires_grad_()
    run(x) if checkpointed is whole else checkpointed(make("timm", "host"))(x)
    model.train()
    run(x).sum().backward()
    assert all(parameter.grad is not None for _, parameter in sb.named_parameters(model))


@pytest.mark.parametrize("kernel", ["host", "auto"])
def test_fx_is_refused_by_its_name(kernel):
    with pytest.raises(sb.SpatialBoostError, match=r"traced by torch\.fx"):
        torch.fx.symbolic_trace(make("timm", kernel))


def test_fx_with_attention_as_a_leaf():
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return name.endswith("attn") or super().is_leaf_module(module, name)

    model = make("timm", "host")
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    assert torch.allclose(traced(X), model(X))

"""Models that cannot be boosted raise an error and are not changed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, WIDTH, boosted_names, images, untouched
from spatialboost.boosting.channel import boosted_layers


def with_instance_forward(attention: nn.Module) -> None:
    attention.forward = partial(attention.forward)


def with_computed_weight(attention: nn.Module) -> None:
    nn.utils.weight_norm(attention.proj)


def with_integers(attention: nn.Module) -> None:
    attention.proj.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH, dtype=torch.int8), requires_grad=False)


def with_eight_bit_floats(attention: nn.Module) -> None:
    attention.proj.weight = nn.Parameter(attention.proj.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


class QuantLinear(nn.Module):
    """A linear layer of GPTQ and similar libraries, with packed integers in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(4, WIDTH, dtype=torch.int32))


def with_packed_buffers(attention: nn.Module) -> None:
    attention.proj = QuantLinear()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (with_instance_forward, "has a forward of its own on the instance"),
        (with_computed_weight, "computes weights in a hook"),
        (with_integers, r"quantised weights \(proj.weight: torch.int8\)"),
        (with_eight_bit_floats, r"quantised weights \(proj.weight: torch.float8"),
        (with_packed_buffers, r"projection without a weight of its own \(proj: .*QuantLinear"),
    ],
)
def test_hosts_that_cannot_run_twice_are_refused(spoil, message):
    model = HOSTS["timm"].make()
    spoil(model.blocks[1].attn)
    with pytest.raises(sb.SpatialBoostError, match=rf"blocks.1.attn .*{message}.*`layers="):
        sb.boost(model)
    assert not boosted_layers(model) and model.blocks[0].attn.qkv.weight.requires_grad
    assert boosted_names(sb.boost(model, layers=[0])) == ["blocks.0.attn"]


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda m: nn.DataParallel(m), r"DataParallel is wrapped already.*before it is wrapped"),
        (lambda m: torch.jit.trace(m, images()["x"]), "traced or scripted program"),
        (lambda m: torch.export.export(m, (images()["x"],)).module(), "traced or scripted program"),
    ],
    ids=["data_parallel", "traced", "exported"],
)
def test_a_model_that_can_no_longer_be_boosted_is_refused(wrap, message):
    model = HOSTS["timm"].make()
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.boost(wrap(model))
    assert untouched(model)


def test_wrapped_by_torch_distributed_is_refused():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = HOSTS["timm"].make()
        with pytest.raises(sb.SpatialBoostError, match=r"wrapped already \(DistributedDataParallel\)"):
            sb.boost(nn.parallel.DistributedDataParallel(model))
        assert untouched(model)
        torch.distributed.fsdp.fully_shard(model)  # its blocks' weights are among those that the root shards
        with pytest.raises(sb.SpatialBoostError, match=r"sharded already .*before it is sharded"):
            sb.boost(model)
        assert untouched(model)
    finally:
        torch.distributed.destroy_process_group()


def test_data_parallel_around_a_boosted_model_says_so():
    channel = boosted_layers(sb.boost(HOSTS["timm"].make()))[0][2]
    with pytest.raises(sb.SpatialBoostError, match="Use DistributedDataParallel"):
        channel._replicate_for_data_parallel()


def test_reentrant_checkpointing_is_refused():
    model = HOSTS["vit"].make()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(sb.SpatialBoostError, match="use_reentrant=True"):
        sb.boost(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    sb.boost(model)

"""The table of families: a new host needs one object and one line, and then passes all contract tests."""

from __future__ import annotations

import inspect
import pickle
from typing import get_type_hints

import pytest
import torch
from torch import Tensor, nn

import spatialboost as sb
import test_contract
from host_models import DEPTH, HEADS, HOSTS, WIDTH, Host, Tower, output, perturb, tokens
from spatialboost.boosting.channel import boosted_layers
from spatialboost.boosting.find import find_attention
from spatialboost.boosting.joint import joint_attention
from spatialboost.boosting.kernels import Call
from spatialboost.hosts import (
    FAMILIES,
    BoostedModule,
    Channel,
    Family,
    Share,
    Slot,
    class_path,
    family_named,
    family_of,
)
from spatialboost.hosts.layers import resize_linear
from spatialboost.hosts.protocol import check_slots
from spatialboost.hosts.slots import both_projections


class Mixer(nn.Module):
    """Attention that cannot be found by names, with packed values, queries and keys in this order."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.vqk = nn.Linear(WIDTH, 3 * WIDTH)
        self.back = nn.Linear(WIDTH, WIDTH)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        v, q, k = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in self.vqk(x).chunk(3, -1))
        out = nn.functional.scaled_dot_product_attention(q * self.temperature, k, v)
        return self.back(out.transpose(1, 2).flatten(2))


class MixerFamily(Family):
    """The whole code that a user writes for a new host."""

    name = "mixer"
    classes = (class_path(Mixer),)

    def slots(self, attention):
        slots = {
            f"{name}.{leaf}": Slot(f"vqk.{leaf}", chunk, 3)
            for leaf in ("weight", "bias")
            for chunk, name in enumerate("vqk")
        }
        return slots | {f"o.{leaf}": Slot(f"back.{leaf}") for leaf in ("weight", "bias")}

    def share(self, attention, parameter):
        return None if parameter == "temperature" else Share()

    def with_heads(self, attention, heads):
        host = Mixer().to(attention.back.weight)
        host.num_heads = heads
        host.temperature.data.copy_(attention.temperature)
        resize_linear(host, "vqk", rows=heads / HEADS)
        resize_linear(host, "back", columns=heads / HEADS)
        return host.train(attention.training)


ROW = Host(lambda: Tower(Mixer), "mixer", tokens, linears=("vqk",), joint=False)
CONTRACT = {
    name: test
    for name, test in vars(test_contract).items()
    if name.startswith("test_") and "host" in inspect.signature(test).parameters
}
OPTIONS = {"dtype": torch.float32, "mode": "train", "kernel": "auto"}


@pytest.fixture
def mixer(monkeypatch: pytest.MonkeyPatch) -> Family:
    family = MixerFamily()
    monkeypatch.setitem(FAMILIES, "mixer", family)
    return family


def test_a_host_that_is_not_in_the_table_is_not_found():
    assert family_of(Mixer()) is None


@pytest.mark.parametrize("name", [n for n in CONTRACT if "maps" not in n and "joint" not in n])
def test_a_new_host_passes_the_contract(mixer: Family, name: str, tmp_path):
    """Except those of attention maps and of the joint forward, which this host does not have."""
    options = OPTIONS | {"host": ROW, "tmp_path": tmp_path}
    CONTRACT[name](**{key: options[key] for key in inspect.signature(CONTRACT[name]).parameters})


def test_heads_in_another_order_of_q_k_and_v_are_fused(mixer: Family):
    model, inputs = perturb(sb.boost(ROW.make())), ROW.inputs()
    fused = sb.fuse(model)
    assert [block.attn.num_heads for block in fused.blocks] == [2 * HEADS] * DEPTH
    with torch.no_grad():
        torch.testing.assert_close(output(fused, inputs), output(model, inputs), rtol=1e-4, atol=1e-5)


class PackedAttention(Mixer):
    """A `Mixer` without temperature, so that both channels can run at once; packed in any order."""

    order = "qkv"

    def forward(self, x: Tensor) -> Tensor:
        heads = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in self.vqk(x).chunk(3, -1))
        given = dict(zip(self.order, heads, strict=True))
        out = nn.functional.scaled_dot_product_attention(given["q"], given["k"], given["v"])
        return self.back(out.transpose(1, 2).flatten(2))


class ReversedAttention(PackedAttention):
    order = "vqk"


class PackedFamily(MixerFamily):
    name = "packed"
    classes = (class_path(PackedAttention),)
    with_heads = Family.with_heads

    def slots(self, attention):
        return super().slots(attention) | {
            f"{name}.{leaf}": Slot(f"vqk.{leaf}", chunk, 3)
            for leaf in ("weight", "bias")
            for chunk, name in enumerate(attention.order)
        }

    def joint_forward(self, attention, channel):
        def forward(attention, channel, x):
            call = Call(heads=HEADS, scale=(WIDTH // HEADS) ** -0.5, kernel=channel.kernel)
            return joint_attention(x, *both_projections(attention, channel), channel.gate, call)

        return forward


@pytest.mark.parametrize("kernel", ["auto", "sdpa", "math"])
@pytest.mark.parametrize("attention", [PackedAttention, ReversedAttention])
def test_a_new_host_runs_both_channels_at_once(monkeypatch, attention: type[nn.Module], kernel: str):
    monkeypatch.setitem(FAMILIES, "packed", PackedFamily())
    row = Host(lambda: Tower(attention), "packed", tokens, fuses=False)
    CONTRACT["test_joint_forward_equals_the_reference"](row, kernel)
    with pytest.raises(sb.SpatialBoostError, match="cannot be one attention with twice the heads: in its class"):
        sb.fuse(sb.boost(row.make()))


def test_every_family_has_the_name_of_its_table_entry():
    assert {name: family.name for name, family in FAMILIES.items()} == {name: name for name in FAMILIES}
    paths = [path for family in FAMILIES.values() for path in family.classes]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("name", ["timm", "dinov3", "torchvision", "generic"])
def test_what_a_family_may_use_exists(name: str):
    attention = boosted_layers(sb.boost(HOSTS[name].make()))[0][1]
    for protocol, answers in ((BoostedModule, attention), (Channel, attention.spatial_channel)):
        members = {*get_type_hints(protocol), *(n for n in vars(protocol) if not n.startswith("_"))}
        assert len(members) > 4 and all(hasattr(answers, member) for member in members)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())
def test_slots_of_every_host_are_legal(host: Host):
    for found in find_attention(host.make()):
        check_slots(found.family, found.module)


def test_an_unknown_family():
    with pytest.raises(sb.SpatialBoostError, match=r"unknown family of attention 'tim'; .*Did you mean 'timm'\?"):
        family_named("tim")


def test_a_pickle_of_an_unknown_family(mixer: Family, monkeypatch: pytest.MonkeyPatch):
    pickled = pickle.dumps(sb.boost(ROW.make()))
    monkeypatch.delitem(FAMILIES, "mixer")
    with pytest.raises(sb.SpatialBoostError, match="unknown family of attention 'mixer'"):
        pickle.loads(pickled)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"queries.weight": Slot("vqk.weight", 0, 3)}, "unknown slot of the family 'mixer': 'queries'; known are"),
        ({"q.scale": Slot("vqk.weight", 0, 3)}, "slot 'q.scale'; expected q.weight or q.bias"),
        ({"q.weight": Slot("qkv.weight", 0, 3)}, "places 'q.weight' in 'qkv.weight', which Mixer does not have"),
        ({"q_norm.weight": Slot("")}, "places 'q_norm.weight' in ''"),
    ],
)
def test_a_wrong_slot_is_refused_before_anything_is_changed(mixer: Family, monkeypatch, slots, message: str):
    monkeypatch.setattr(MixerFamily, "slots", lambda self, attention: slots)
    model = ROW.make()
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.boost(model)
    assert not boosted_layers(model) and all(p.requires_grad for p in model.parameters())

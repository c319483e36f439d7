"""Finding, choosing, refusing; what `boost` leaves behind; what `status` shows."""

from __future__ import annotations

import io
import re
from functools import partial

import pytest
import torch
from rich.console import Console
from torch import nn

import spatialboost as sb
from host_models import HOSTS, SIZE, WIDTH, PlainAttention, Tower, images, output, perturb, timm_model
from spatialboost.boosting import set_kernel
from spatialboost.boosting.channel import boosted_layers
from spatialboost.boosting.find import find_attention


def boosted_names(model: nn.Module) -> list[str]:
    return [name for name, _, _ in boosted_layers(model)]


def untouched(model: nn.Module) -> bool:
    return not boosted_layers(model) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("layers", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ([0, 2], [0, 2]),
        (range(1, 3), [1, 2]),
        ([-1], [3]),
        ([3, 1, 1], [1, 3]),
        (-1, [3]),
        (slice(-2, None), [2, 3]),
        ([0, slice(2, 9)], [0, 2, 3]),
        ("blocks.2.attn", [2]),
        ("blocks.2", [2]),
        ("blocks.[13].attn", [1, 3]),
        (re.compile(r"\.[02]\."), [0, 2]),
        (["blocks.0", -1], [0, 3]),
        (lambda name, module: name.startswith("blocks.2"), [2]),
    ],
)
def test_layers(layers, indices):
    model = sb.boost(timm_model("vit_tiny_patch16_224", depth=4), layers=layers)
    assert [layer.index for layer in sb.status(model).layers] == indices


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4], r"block 4 has no self-attention layer; there are layers \[0, 1, 2, 3\]"),
        ([-5], "block -1 has no"),
        ([], "no index given"),
        (slice(4, None), r"is empty; there are layers \[0, 1, 2, 3\]"),
        ("blocks.7", r"no name matches 'blocks.7'; there are the 4 self-attention layers \(blocks.0.attn"),
        (["blocks.0", "head"], "no name matches 'head'"),
        (1.5, "float is no way to choose layers; expected indices, a slice, names or patterns, or a predicate"),
        (True, "bool is no way to choose layers"),
        (lambda name, module: False, "selected none of the 4 self-attention layers"),
    ],
)
def test_layers_that_are_not_there(layers, message):
    model = timm_model("vit_tiny_patch16_224", depth=4)
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.boost(model, layers=layers)
    assert untouched(model)


def test_twice_raises_and_leaves_it_boosted():
    model = perturb(sb.boost(HOSTS["timm"].make()))
    with torch.no_grad():
        before = output(model, images())
        with pytest.raises(sb.SpatialBoostError, match=r"boosted already \(2 layers\).*unboost"):
            sb.boost(model)
        assert torch.equal(output(model, images()), before)


def test_nothing_to_boost_names_what_was_seen():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(sb.SpatialBoostError, match=r"no self-attention layer found in Sequential.*2 Linear"):
        sb.boost(model)
    assert untouched(model)


class CrossAttention(PlainAttention):
    def forward(self, x, context):
        return super().forward(x + context.mean(1, keepdim=True))


def test_only_cross_attention_found():
    with pytest.raises(
        sb.SpatialBoostError, match=r"blocks.0.attn \(CrossAttention\): cross-attention, by its class name"
    ):
        sb.boost(Tower(CrossAttention))


@pytest.mark.parametrize(
    ("options", "message"), [({"gate": "head"}, "unknown gate 'head'"), ({"dtype": torch.int8}, "dtype=torch.int8")]
)
def test_options_that_are_unknown(options, message):
    model = HOSTS["timm"].make()
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.boost(model, **options)
    assert untouched(model)


def with_instance_forward(attention: nn.Module) -> None:
    attention.forward = partial(attention.forward)


def with_computed_weight(attention: nn.Module) -> None:
    nn.utils.weight_norm(attention.proj)


def with_integers(attention: nn.Module) -> None:
    attention.proj.weight = nn.Parameter(torch.zeros(WIDTH, WIDTH, dtype=torch.int8), requires_grad=False)


def with_eight_bit_floats(attention: nn.Module) -> None:
    attention.proj.weight = nn.Parameter(attention.proj.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


def with_torchao(attention: nn.Module) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(attention, torchao.Int8WeightOnlyConfig())


def with_bitsandbytes(attention: nn.Module) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = bitsandbytes.nn.Linear4bit(WIDTH, WIDTH)
    linear.load_state_dict(attention.proj.state_dict())
    attention.proj = linear.to("cpu")  # quantised by the move


class QuantLinear(nn.Module):
    """As GPTQ and its kin lay weights out: packed integers in buffers."""

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
        (with_torchao, r"quantised weights \(qkv.weight: torchao"),
        (with_bitsandbytes, r"quantised weights \(proj.weight: torch.uint8"),
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
def test_a_model_past_boosting_is_refused(wrap, message):
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


@pytest.mark.parametrize(
    "call", [sb.unboost, sb.fuse, lambda m: list(sb.named_parameters(m)), lambda m: sb.param_groups(m, 1.0)]
)
def test_not_boosted(call):
    with pytest.raises(sb.SpatialBoostError, match="is not boosted"):
        call(HOSTS["timm"].make())
    with pytest.raises(sb.SpatialBoostError, match="is not boosted"), sb.disabled(HOSTS["timm"].make()):
        pass


def test_text_tower_and_pooling_head_are_left_alone():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = sizes | {"image_size": SIZE, "patch_size": 16}
    config = transformers.SiglipConfig(text_config=sizes | {"vocab_size": 20}, vision_config=vision)
    model = sb.boost(transformers.SiglipModel(config))
    assert len(boosted_names(model)) == 1 and all("vision" in name for name in boosted_names(model))
    reasons = {name: reason for name, _, reason in sb.status(model).passed_over}
    assert any("text_model" in name and "no image tower" in reason for name, reason in reasons.items())
    assert any("pooling head" in reason for reason in reasons.values())


def test_attention_to_text_and_of_text_is_left_alone_in_a_detector():
    class TextToImageAttention(PlainAttention):
        def forward(self, vision_features, text_features):
            return super().forward(vision_features), super().forward(text_features)

    model = nn.Module()
    model.layers = nn.ModuleList([PlainAttention()])
    model.fusion, model.text_enhancer_layer = TextToImageAttention(), PlainAttention()
    assert boosted_names(sb.boost(model)) == ["layers.0"]
    reasons = {name: reason for name, _, reason in sb.status(model).passed_over}
    assert "asks for `text_features`" in reasons["fusion"] and "no image tower" in reasons["text_enhancer_layer"]


def test_timm_attention_pool_is_left_alone():
    model = timm_model("vit_base_patch16_siglip_224")
    assert {f.name for f in find_attention(model) if f.reason} == {"attn_pool"}
    assert boosted_names(sb.boost(model)) == ["blocks.0.attn", "blocks.1.attn"]


def test_encoder_inside_of_a_model_of_ones_own():
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = HOSTS["timm"].make()
            self.head = nn.Linear(WIDTH, 3)

    model = Probe()
    sb.boost(model.encoder)
    assert model.head.weight.requires_grad  # freezing stops at the encoder
    sb.unboost(model)  # through the outer model as well
    assert untouched(model)


def test_compiled_model_is_boosted_underneath():
    model = HOSTS["timm"].make()
    compiled = torch.compile(model, backend="eager")
    assert sb.boost(compiled) is compiled
    assert boosted_names(model) == ["blocks.0.attn", "blocks.1.attn"]
    assert [name for name, _ in sb.named_parameters(compiled)] == [name for name, _ in sb.named_parameters(model)]
    sb.unboost(compiled)
    assert untouched(model)


def test_freeze_false_leaves_the_base_as_it_is():
    model = HOSTS["timm"].make()
    model.patch_embed.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    sb.boost(model, freeze=False)
    after = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name: after[name] for name in before} == before
    assert all(p.requires_grad for _, p in sb.named_parameters(model))


def test_param_groups_spare_gates_and_biases_the_decay():
    model = sb.boost(HOSTS["timm"].make())
    decayed, spared = sb.param_groups(model, lr=1e-3, weight_decay=0.1)
    names = {id(p): name.rpartition(".")[2] for name, p in sb.named_parameters(model)}
    assert {names[id(p)] for p in decayed["params"]} == {"plus_qkv__weight", "plus_proj__weight"}
    assert {names[id(p)] for p in spared["params"]} == {"plus_qkv__bias", "plus_proj__bias", "gate"}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    optimizer = torch.optim.AdamW([decayed, spared])
    output(perturb(model), images()).square().sum().backward()
    base = {k: v.clone() for k, v in model.state_dict().items() if "spatial" not in k}
    optimizer.step()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in base.items())


def test_scalar_gate():
    model, inputs = HOSTS["timm"].make(), images()
    with torch.no_grad():
        before = output(model, inputs)
        assert torch.equal(output(sb.boost(model, gate="scalar"), inputs), before)
    assert {p.shape for name, p in sb.named_parameters(model) if name.endswith("gate")} == {(1,)}
    perturb(model)
    with torch.no_grad():
        expected = output(model, inputs)
        torch.testing.assert_close(output(set_kernel(model, "auto"), inputs), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(output(sb.fuse(model), inputs), expected, rtol=1e-5, atol=1e-5)


def test_status_prints_a_table():
    model = sb.boost(HOSTS["siglip"].make(), layers=[1])
    status = sb.status(model)
    (layer,) = status.layers
    assert (layer.index, layer.family, layer.kernel, layer.mean_gate) == (1, "transformers", "host", 0.5)
    assert layer.trainable == sum(p.numel() for _, p in sb.named_parameters(model)) == 4 * (WIDTH**2 + WIDTH) + WIDTH
    text = str(status)
    assert "encoder.layers.1.self_attn" in text and "head.attention" in text and "1 layers boosted, 4,256" in text


def test_status_prints_the_same_table_wherever_it_is_printed(monkeypatch):
    """Plain text, columns two spaces apart, no line broken by a narrow or coloured terminal."""
    model = nn.ModuleDict({"a_very_long_name_of_a_part_" * 4: Tower(PlainAttention)})
    sb.boost(model, layers=[1])
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    head, row, total, passed = str(sb.status(model)).splitlines()
    name = "a_very_long_name_of_a_part_" * 4 + ".blocks.1.attn"
    assert head == f"layer  {'name':{len(name)}}  family   kernel  trainable  mean gate"
    assert row == f"    1  {name}  generic  host        4,161     0.5000"
    assert total == "1 layers boosted, 4,161 trainable parameters"
    assert passed == f"passed over: {name.replace('1', '0')} (1 PlainAttention): not among `layers=`"


def test_status_is_drawn_by_rich():
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(status := sb.status(sb.boost(HOSTS["timm"].make())))
    drawn = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert drawn == str(status).splitlines() and len(drawn) == 4


def test_status_says_what_was_not_chosen():
    text = str(sb.status(sb.boost(timm_model("vit_tiny_patch16_224", depth=6), layers="blocks.3")))
    assert "passed over: blocks.0.attn, ..., blocks.5.attn (5 Attention): not among `layers=`" in text


def test_a_name_that_was_passed_over_is_explained():
    model = timm_model("vit_base_patch16_siglip_224")
    with pytest.raises(sb.SpatialBoostError, match=r"layers='attn_pool': attn_pool is passed over: in a pooling head"):
        sb.boost(model, layers="attn_pool")


def test_status_of_a_model_that_is_not_boosted():
    assert str(sb.status(HOSTS["timm"].make())).count("not boosted yet") == 1


def test_disabled_gives_the_channel_back_after_an_error():
    model = sb.boost(HOSTS["timm"].make())
    with pytest.raises(RuntimeError, match="inside"), sb.disabled(model):
        raise RuntimeError("inside")
    assert [type(a).__name__ for _, a, _ in boosted_layers(model)] == ["BoostedAttention"] * 2


def test_indices_of_a_tower_with_stages():
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, depths=(1, 1), num_heads=(2, 2), embed_dim=16, window_size=7
    )
    assert [f.index for f in find_attention(model)] == [0, 1]


def test_old_layout_of_transformers_is_read():
    model = sb.boost(HOSTS["generic_nested"].make())
    assert {f.family.heads(f.module) for f in find_attention(model)} == {2}

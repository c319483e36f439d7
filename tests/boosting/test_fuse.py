"""`fuse`: a plain module of the host's own library, or an error with the reason."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import DEPTH, HEADS, HOSTS, SIZE, WIDTH, output, perturb
from spatialboost.boosting.channel import boosted_layers


def test_result_is_a_plain_host_with_twice_the_heads():
    timm = pytest.importorskip("timm")
    model = perturb(sb.boost(HOSTS["timm"].make(), layers=[1]))
    fused = sb.fuse(model)
    assert type(fused) is type(model)
    assert [type(block.attn) for block in fused.blocks] == [timm.layers.Attention] * 2
    assert [block.attn.num_heads for block in fused.blocks] == [HEADS, 2 * HEADS]
    assert fused.blocks[1].attn.qkv.weight.shape == (6 * WIDTH, WIDTH)


def test_checkpoint_runs_without_spatialboost():
    """A host built by its own library, with the sizes that `fuse` gave it, takes the fused keys strictly."""
    timm = pytest.importorskip("timm")
    host = HOSTS["timm"]
    fused, inputs = sb.fuse(perturb(sb.boost(host.make()))), host.inputs()
    other = host.build().eval()
    for block in other.blocks:
        block.attn = timm.layers.Attention(WIDTH, 2 * HEADS, attn_head_dim=WIDTH // HEADS, qkv_bias=True)
    other.load_state_dict(fused.state_dict())
    with torch.no_grad():
        assert torch.equal(output(other, inputs), output(fused, inputs))


def test_original_stays_boosted_and_shares_nothing():
    model = perturb(sb.boost(HOSTS["vit"].make()))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = sb.fuse(model)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(boosted_layers(model)) == 2 and not boosted_layers(fused)


def test_fused_model_compiles_and_exports():
    host = HOSTS["dinov2"]
    fused, inputs = sb.fuse(perturb(sb.boost(host.make()))), host.inputs()
    with torch.no_grad():
        program = torch.export.export(fused, tuple(inputs.values()))
        torch.testing.assert_close(output(program.module(), inputs), output(fused, inputs))


def test_equal_norms_of_queries_and_keys_can_be_kept():
    host = HOSTS["timm_qk_norm"]
    model, inputs = sb.boost(host.make()), host.inputs()
    with torch.no_grad():
        for _, _, channel in boosted_layers(model):
            channel.plus("qkv.weight").add_(0.1 * torch.randn_like(channel.plus("qkv.weight")))
        torch.testing.assert_close(output(sb.fuse(model), inputs), output(model, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm_qk_norm", "its channels differ in k_norm.bias, k_norm.weight, q_norm.bias, q_norm.weight"),
        ("torchvision", "in its class the heads are always as wide as the input"),
        ("generic", "its channels differ in generic.temperature"),
    ],
)
def test_what_one_attention_cannot_express(name, reason):
    model = perturb(sb.boost(HOSTS[name].make()))
    with pytest.raises(sb.SpatialBoostError, match=f"cannot be one attention with twice the heads: {reason}"):
        sb.fuse(model)
    assert len(boosted_layers(model)) == 2


def test_adapters_have_to_be_merged_first():
    peft = pytest.importorskip("peft")
    model = sb.boost(HOSTS["timm"].make())
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["qkv"]), model)
    with pytest.raises(sb.SpatialBoostError, match="adapters that are not merged"):
        sb.fuse(model)


def test_a_single_layer():
    with pytest.raises(sb.SpatialBoostError, match="itself one attention layer"):
        sb.fuse(sb.boost(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)))


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "spatialboost":
            raise ImportError("spatialboost is blocked")
sys.meta_path.insert(0, Blocked())
import torch
folder = sys.argv[1]
x, expected = torch.load(folder + "/x.pt"), torch.load(folder + "/expected.pt")
with torch.no_grad():
{load}
    assert torch.equal(model(x), expected) if {exact} else torch.allclose(model(x), expected, atol=1e-5)
assert not any(name.partition(".")[0] == "spatialboost" for name in sys.modules)
"""


def run_without_spatialboost(folder, load: str, exact: bool) -> None:
    code = BLOCKED.format(load=textwrap.indent(load, "    "), exact=exact)
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_fused_checkpoint_loads_and_runs_where_spatialboost_cannot_be_imported(tmp_path):
    pytest.importorskip("timm")
    from safetensors.torch import save_file

    host = HOSTS["timm"]
    fused, inputs = sb.fuse(perturb(sb.boost(host.make()))), host.inputs()
    torch.save(inputs["x"], tmp_path / "x.pt")
    with torch.no_grad():
        torch.save(fused(inputs["x"]), tmp_path / "expected.pt")
    save_file(fused.state_dict(), tmp_path / "model.safetensors")
    load = f"""
import timm
from safetensors.torch import load_file
model = timm.create_model("vit_tiny_patch16_224", img_size={SIZE}, depth={DEPTH}, embed_dim={WIDTH}, num_heads={HEADS},
                          num_classes=0).eval()
for block in model.blocks:
    block.attn = timm.layers.Attention({WIDTH}, {2 * HEADS}, attn_head_dim={WIDTH // HEADS}, qkv_bias=True)
model.load_state_dict(load_file(folder + "/model.safetensors"))
"""
    run_without_spatialboost(tmp_path, load, exact=True)


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_exported_program_runs_where_spatialboost_cannot_be_imported(name, tmp_path):
    """A program of a fused model, and of a boosted one that cannot be fused (nn.MultiheadAttention)."""
    host = HOSTS[name]
    model, inputs = perturb(sb.boost(host.make())), host.inputs()
    if host.fuses:
        model = sb.fuse(model)
    torch.save(inputs["x"], tmp_path / "x.pt")
    with torch.no_grad():
        torch.save(model(inputs["x"]), tmp_path / "expected.pt")
        torch.export.save(torch.export.export(model, (inputs["x"],)), tmp_path / "model.pt2")
    run_without_spatialboost(tmp_path, 'model = torch.export.load(folder + "/model.pt2").module()', exact=False)


@pytest.mark.parametrize("name", ["timm", "timm_dinov3", "dinov2"])
def test_fused_model_exports_to_onnx(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    host = HOSTS[name]
    model, inputs = sb.fuse(perturb(sb.boost(host.make()))), host.inputs()
    with torch.no_grad():
        expected = output(model, inputs)
    torch.onnx.export(model, tuple(inputs.values()), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: inputs["x"].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)

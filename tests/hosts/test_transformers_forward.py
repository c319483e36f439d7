"""The hosts' own forwards over both channels: each attention class of transformers, with random weights."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import spatialboost as sb
from host_models import HOSTS, OLD_TRANSFORMERS, perturb
from spatialboost.boosting import set_kernel
from spatialboost.hosts.transformers_forward import ChannelLayers, attention_interface

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(
    OLD_TRANSFORMERS, reason="in transformers before 5.18 each class has a layout of its own"
)

WIDTH, HEADS, LENGTHS = 32, 2, (3, 4, 4)
SIZES = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_heads": HEADS,
    "head_dim": WIDTH // HEADS,
    "embed_dim": WIDTH,
    "attention_heads": HEADS,
    "attention_dropout": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "projection_dropout": 0.0,
}


def angles(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    turned = torch.randn(shape)
    return turned.cos(), turned.sin()


def tokens(**others) -> dict:
    return {"hidden_states": torch.randn(2, 5, WIDTH), **others}


def packed(**others) -> dict:
    ends = torch.tensor([0, *LENGTHS]).cumsum(0, dtype=torch.int32)
    return {"hidden_states": torch.randn(sum(LENGTHS), WIDTH), "cu_seqlens": ends, **others}


def turned() -> dict:
    return packed(position_embeddings=angles(sum(LENGTHS), WIDTH // HEADS))


def mask() -> torch.Tensor:
    return torch.tensor([True, True, True, False, False]).expand(2, 1, 5, 5)


# Attention class -> its config, and the arguments of the call.
CLASSES = {
    "vit.ViTAttention": ("ViTConfig", tokens),
    "deit.DeiTAttention": ("DeiTConfig", lambda: tokens(attention_mask=mask())),
    "vit_mae.ViTMAEAttention": ("ViTMAEConfig", tokens),
    "ijepa.IJepaAttention": ("IJepaConfig", tokens),
    "siglip.SiglipAttention": ("SiglipVisionConfig", lambda: tokens(attention_mask=mask())),
    "aimv2.Aimv2Attention": ("Aimv2VisionConfig", tokens),
    "idefics3.Idefics3VisionAttention": ("Idefics3VisionConfig", tokens),
    "clip.CLIPAttention": ("CLIPVisionConfig", tokens),
    "chinese_clip.ChineseCLIPVisionAttention": ("ChineseCLIPVisionConfig", tokens),
    "kosmos2.Kosmos2VisionAttention": ("Kosmos2VisionConfig", tokens),
    "yolos.YolosAttention": ("YolosConfig", tokens),
    "internvl.InternVLVisionAttention": ("InternVLVisionConfig", tokens),
    "mllama.MllamaVisionAttention": ("MllamaVisionConfig", tokens),
    "dinov3_vit.DINOv3ViTAttention": (
        "DINOv3ViTConfig",
        lambda: tokens(position_embeddings=angles(4, WIDTH // HEADS)),
    ),
    "pixtral.PixtralAttention": ("PixtralVisionConfig", lambda: tokens(position_embeddings=angles(5, WIDTH // HEADS))),
    "qwen2_vl.VisionAttention": ("Qwen2VLVisionConfig", turned),
    "qwen2_5_vl.Qwen2_5_VLVisionAttention": ("Qwen2_5_VLVisionConfig", turned),
    "qwen3_vl.Qwen3VLVisionAttention": ("Qwen3VLVisionConfig", turned),
    "video_llama_3.VideoLlama3VisionAttention": ("VideoLlama3VisionConfig", turned),
    "qwen2_5_omni.Qwen2_5OmniVisionAttention": ("Qwen2_5OmniVisionEncoderConfig", turned),
}


class Holder(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attn = attention

    def forward(self, **inputs):
        out = self.attn(**inputs)
        return out if isinstance(out, torch.Tensor) else out[0]


def build(path: str, **options) -> Holder:
    model, name = path.split(".")
    try:
        cls = getattr(importlib.import_module(f"transformers.models.{model}.modeling_{model}"), name)
        configs = importlib.import_module(f"transformers.models.{model}.configuration_{model}")
    except (ImportError, AttributeError):
        pytest.skip(f"transformers {transformers.__version__} has no {path}")
    config = getattr(configs, CLASSES[path][0])(**(SIZES | options))
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return Holder(cls(config)).eval()


@pytest.mark.parametrize("path", CLASSES)
def test_equals_two_calls(path):
    model = perturb(sb.boost(build(path), layers=lambda *_: True))
    inputs = CLASSES[path][1]()
    inputs["hidden_states"].requires_grad_()
    expected = model(**inputs)
    params = [inputs["hidden_states"], *(p for _, p in sb.named_parameters(model))]
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), params)
    set_kernel(model, "math")  # raises an error if a layer cannot run both channels at once
    for kernel in ("math", "auto"):
        found = set_kernel(model, kernel)(**inputs)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        top = max(g.abs().max() for g in wanted)
        for a, b in zip(torch.autograd.grad((found * weight).sum(), params), wanted, strict=True):
            assert (a - b).abs().max() <= 1e-5 * top
    with torch.no_grad():
        inputs["hidden_states"].requires_grad_(False)
        found, fused = model(**inputs), sb.fuse(model)(**inputs)
    for out in (found, fused):
        assert (out - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("heads", [1, 2])
def test_norms_of_q_and_k_stay_each_channels_own(heads):
    """InternVL has one norm over all heads of a channel."""
    path = "internvl.InternVLVisionAttention"
    model = perturb(sb.boost(build(path, use_qk_norm=True, num_attention_heads=heads), layers=lambda *_: True))
    inputs = tokens()
    with torch.no_grad():
        expected = model(**inputs)
        found = set_kernel(model, "sdpa")(**inputs)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(sb.SpatialBoostError, match="cannot be one attention with twice the heads"):
        sb.fuse(model)


def test_norm_over_each_head_finds_the_heads():
    """There are as many tokens as heads, so only the strides differ."""
    heads, width = 2, 4
    layers = ChannelLayers(
        [SimpleNamespace(out=torch.empty(8, heads * width))] * 2,
        None,
        roles={},
        norms={"q_norm": [lambda t: t, lambda t: t + 1]},
        heads=heads,
        kernel="auto",
        interface="",
    )
    q = torch.zeros(1, 2 * heads, 2 * heads * width).unflatten(-1, (2 * heads, width))  # (B, T, 2H, C)
    for view, dim in ((q, 2), (q.transpose(1, 2), 1)):
        base, plus = layers.norm("q_norm", view).chunk(2, dim)
        assert base.eq(0).all() and plus.eq(1).all()


def test_arguments_that_no_kernel_supports_are_refused():
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(sb.SpatialBoostError, match="uses `softcap`"):
        attention_interface(SimpleNamespace(), q, q, q, softcap=30.0)


def test_attention_maps_come_from_the_reference():
    model = sb.boost(build("vit.ViTAttention"), layers=lambda *_: True)
    set_kernel(model, "auto")
    model.attn.config._attn_implementation = "eager"
    assert [layer.kernel for layer in sb.status(model).layers] == ["host"]
    assert model.attn(torch.randn(1, 3, WIDTH))[1].shape == (1, HEADS, 3, 3)


def test_a_pickled_model_compiles_in_a_process_that_has_not_boosted_anything(tmp_path):
    """Our attention function has to be in transformers' table before the first forward is traced."""
    model = set_kernel(perturb(sb.boost(HOSTS["dinov2"].make())), "auto")
    x = HOSTS["dinov2"].inputs()["x"]
    with torch.no_grad():
        (tmp_path / "model.pkl").write_bytes(pickle.dumps((model, x, model(x).last_hidden_state)))
    code = (
        "import pickle, sys, torch\n"
        "model, x, expected = pickle.load(open(sys.argv[1], 'rb'))\n"
        "with torch.no_grad():\n"
        "    found = torch.compile(model, fullgraph=True, backend='eager')(x).last_hidden_state\n"
        "torch.testing.assert_close(found, expected)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pkl")], check=True)

"""Tiny random encoders of every kind that `boost` supports, for the contract tests; a new host is a new row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn

import hub_dino
from hub_dino import Encoder, MemEffAttention

WIDTH, HEADS, DEPTH, SIZE, PATCH = 32, 2, 2, 32, 16
# before 5.18 each class of transformers has its own layout, and some keys have other names
OLD_TRANSFORMERS = Version(version("transformers")) < Version("5.18")


def images(batch: int = 2) -> dict[str, Any]:
    return {"x": torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))}


def patches() -> dict[str, Any]:
    """The output of SigLIP 2's NaFlex processor: flat patches and a mask; one image has fewer patches."""
    pixels = torch.randn(2, 4, 3 * PATCH * PATCH, generator=torch.Generator().manual_seed(1))
    shapes = torch.tensor([[2, 2], [1, 2]])
    return {
        "pixel_values": pixels,
        "pixel_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
        "spatial_shapes": shapes,
    }


def packed() -> dict[str, Any]:
    """The output of Qwen's processors: the patches of two images in one sequence, and the images' grids."""
    pixels = torch.randn(64, 3 * 4 * 4, generator=torch.Generator().manual_seed(1))
    return {"hidden_states": pixels, "grid_thw": torch.tensor([[1, 4, 8], [1, 8, 4]])}


def tokens() -> dict[str, Any]:
    return {"x": torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))}


class PlainAttention(nn.Module):
    """Attention of no known library: it is of the generic family and has no canonical layout."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.temperature = nn.Parameter(torch.ones(1))
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0))

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) * self.temperature).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.to_qkv(x).chunk(3, -1))
        return self.to_out((self.scores(q, k) @ v).transpose(1, 2).flatten(2))


class InheritedAttention(PlainAttention):
    """Calls `super()` and iterates over `to_out`; both must work with a view in place of `self`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(self.to_out) == 2 else x


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads = HEADS
        self.attention_head_size = WIDTH // HEADS
        self.all_head_size = WIDTH
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.attention_head_size).transpose(1, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        maps = (q @ k.transpose(-1, -2) / self.attention_head_size**0.5).softmax(-1)
        out = (maps @ v).transpose(1, 2)
        return out.reshape(*out.shape[:2], self.all_head_size), maps


class SelfOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)


class NestedAttention(nn.Module):
    """The class layout of transformers 4.57: projections two levels down, a tuple as output."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = SelfAttention()
        self.output = SelfOutput()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, maps = self.attention(x)
        return self.output(out), maps


class Block(nn.Module):
    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attn = attention()

    def forward(self, x: Tensor) -> Tensor:
        out = self.attn(self.norm(x))
        return x + (out[0] if isinstance(out, tuple) else out)


class Tower(nn.Module):
    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(attention) for _ in range(DEPTH)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def timm_model(name: str, **options: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    options = {"img_size": SIZE, "depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "num_classes": 0} | options
    return timm.create_model(name, **options)


def timm_with_inner(**options: bool) -> nn.Module:
    """A ViT whose attention has a norm or a gate on the output of its heads."""
    model = timm_model("vit_tiny_patch16_224")
    from timm.layers import Attention

    for block in model.blocks:
        block.attn = Attention(WIDTH, HEADS, qkv_bias=True, norm_layer=nn.LayerNorm, **options)
    return model


def transformers_model(name: str, config: str, bare: bool = False, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "patch_size": PATCH}
    sizes |= {"intermediate_size": 2 * WIDTH}
    sizes = {"image_size": SIZE} | ({} if bare else sizes)
    return getattr(transformers, name)(getattr(transformers, config)(**(sizes | options)))


def timm_stage(name: str, **options: Any) -> nn.Module:
    """A hierarchical model of one stage of two blocks."""
    timm = pytest.importorskip("timm")
    return timm.create_model(name, img_size=SIZE, num_classes=0, **options)


def qwen_tower() -> nn.Module:
    module = pytest.importorskip("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")
    sizes = {"depth": DEPTH, "hidden_size": WIDTH, "num_heads": HEADS, "intermediate_size": 2 * WIDTH}
    sizes |= {"out_hidden_size": WIDTH, "patch_size": 4, "temporal_patch_size": 1, "window_size": 16}
    config = module.Qwen2_5_VLVisionConfig(**sizes, fullatt_block_indexes=[1])
    return module.Qwen2_5_VisionTransformerPretrainedModel(config)


def swin_v2() -> nn.Module:
    sizes = {"embed_dim": WIDTH, "depths": [DEPTH], "num_heads": [HEADS], "window_size": 4, "patch_size": 4}
    return transformers_model("Swinv2Model", "Swinv2Config", bare=True, **sizes)


def torchvision_vit(mlp_ratio: int = 2) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.VisionTransformer(SIZE, PATCH, DEPTH, HEADS, WIDTH, mlp_ratio * WIDTH)
    model.heads = nn.Identity()
    return model


def torch_encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=batch_first)
    return nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)


@dataclass(frozen=True)
class Host:
    """One row: how to build the model, its inputs, and which optional features it supports."""

    build: Callable[[], nn.Module]
    family: str
    inputs: Callable[[], dict[str, Any]] = images
    fuses: bool = True  # `fuse` works
    joint: bool = True  # both channels run at once
    canonical: bool = True
    linears: tuple[str, ...] = ("q_proj", "v_proj", "query", "value")  # targets for LoRA
    batch_norm: bool = False  # it has batch statistics, which stay frozen while it is boosted
    compiles: bool = True  # False if Dynamo cannot trace `super()` through a view
    exports: bool = True  # False if the host branches on values of a tensor; then it is not one graph
    exact_grad: bool = True  # False if SDPA uses another kernel for a learned bias that is frozen
    # True if torch.matmul uses another kernel for a frozen weight, which rounds differently on some CPUs
    freezing_rounds: bool = False
    exact_half: bool = True  # False if torch rounds half precision differently for a frozen weight
    exact_eval: bool = True  # False if the host uses a special kernel for the whole layer in eval mode

    def make(self, seed: int = 0) -> nn.Module:
        """Build the model with random values, so that no branch is zero (LayerScale, zero-initialised outputs)."""
        torch.manual_seed(seed)
        model = self.build()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.2 * noise if parameter.ndim > 1 else 0.5 + 0.2 * noise)
        return model.eval()


REFERENCE: dict[str, Any] = {"fuses": False, "joint": False}

HOSTS = {
    "timm": Host(lambda: timm_model("vit_tiny_patch16_224"), "timm", linears=("qkv", "proj")),
    "timm_qk_norm": Host(
        lambda: timm_model("vit_tiny_patch16_224", qk_norm=True), "timm", fuses=False, linears=("qkv",)
    ),
    "timm_scale_norm": Host(lambda: timm_with_inner(scale_norm=True), "timm", fuses=False, linears=("qkv",)),
    "timm_gated": Host(lambda: timm_with_inner(gated=True), "timm", fuses=False, linears=("qkv",)),
    "timm_rope": Host(lambda: timm_model("vit_small_patch16_rope_224"), "timm_rope", linears=("qkv",)),
    "timm_dinov3": Host(lambda: timm_model("vit_small_patch16_dinov3"), "timm_eva", linears=("qkv",)),
    # its `qkv` is never called with a bias (`F.linear` on its weight), so a LoRA on it has no effect, boosted or
    # not
    "timm_dinov3_bias": Host(lambda: timm_model("vit_small_patch16_dinov3_qkvb"), "timm_eva", linears=("proj",)),
    "timm_eva02": Host(lambda: timm_model("eva02_tiny_patch14_224", patch_size=PATCH, qkv_fused=False), "timm_eva"),
    "dinov3": Host(lambda: transformers_model("DINOv3ViTModel", "DINOv3ViTConfig"), "transformers"),
    "dinov2": Host(lambda: transformers_model("Dinov2Model", "Dinov2Config"), "transformers"),
    "dinov2_registers": Host(
        lambda: transformers_model("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"), "transformers"
    ),
    "siglip": Host(lambda: transformers_model("SiglipVisionModel", "SiglipVisionConfig"), "transformers"),
    "siglip2": Host(
        lambda: transformers_model("Siglip2VisionModel", "Siglip2VisionConfig", num_patches=4), "transformers", patches
    ),
    "clip": Host(lambda: transformers_model("CLIPVisionModel", "CLIPVisionConfig"), "transformers"),
    "vit": Host(lambda: transformers_model("ViTModel", "ViTConfig"), "transformers"),
    "torchvision": Host(torchvision_vit, "mha", fuses=False, linears=(), exact_half=False),
    "torch_encoder": Host(
        lambda: torch_encoder(True),
        "mha",
        tokens,
        fuses=False,
        linears=(),
        exact_half=False,
        exact_eval=False,
    ),
    "torch_encoder_seq_first": Host(
        lambda: torch_encoder(False),
        "mha",
        tokens,
        fuses=False,
        linears=(),
        exact_half=False,
        exact_eval=False,
    ),
    "dino_hub": Host(
        lambda: Encoder(MemEffAttention, WIDTH, HEADS, DEPTH, PATCH),
        "dino_hub",
        fuses=False,
        joint=False,
        linears=("qkv",),
        compiles=False,
    ),
    "dino_hub_v3": Host(
        lambda: Encoder(hub_dino.SelfAttention, WIDTH, HEADS, DEPTH, PATCH),
        "dino_hub",
        fuses=False,
        joint=False,
        linears=("qkv",),
    ),
    # from here on: one row for each way of computing attention in the generic family
    "timm_swin": Host(
        lambda: timm_stage(
            "swin_tiny_patch4_window7_224", window_size=4, depths=(DEPTH,), num_heads=(HEADS,), embed_dim=WIDTH
        ),
        "generic",
        linears=("qkv",),
        **REFERENCE,
    ),
    "timm_beit": Host(
        lambda: timm_model("beit_base_patch16_224"), "generic", linears=("proj",), exact_grad=False, **REFERENCE
    ),
    "timm_cait": Host(  # talking heads and class attention
        lambda: timm_model("cait_xxs24_224", depth=1, depth_token_only=1),
        "generic",
        linears=("proj",),
        exact_grad=False,
        freezing_rounds=True,
        **REFERENCE,
    ),
    "timm_levit": Host(  # batch norm inside, and a cache of position biases in eval mode
        lambda: timm_stage(
            "levit_128s",
            embed_dim=(WIDTH,),
            key_dim=16,
            depth=(DEPTH,),
            num_heads=(HEADS,),
            attn_ratio=(2,),
            mlp_ratio=2,
        ),
        "generic",
        linears=("linear",),
        batch_norm=True,
        exact_grad=False,
        freezing_rounds=True,
        **REFERENCE,
    ),
    "timm_efficientvit": Host(  # the same on images (B, D, H, W)
        lambda: timm_stage(
            "efficientvit_m0",
            embed_dim=(WIDTH,),
            key_dim=(16,),
            depth=(DEPTH,),
            num_heads=(HEADS,),
            window_size=(2,),
            kernels=(3, 3),
        ),
        "generic",
        linears=(),
        batch_norm=True,
        **REFERENCE,
    ),
    "timm_parallel": Host(  # no attention module
        lambda: timm_model("vit_base_patch16_xp_224"), "parallel", linears=("attn_out_proj",), **REFERENCE
    ),
    "timm_parallel_diff": Host(  # and one output projection for attention and MLP
        lambda: timm_model("vit_dpwee_patch16_reg1_gap_256"), "parallel", linears=(), **REFERENCE
    ),
    "swinv2": Host(swin_v2, "generic", linears=("query", "q_proj"), **REFERENCE),
    "qwen2_5_vl": Host(qwen_tower, "generic", packed, linears=("qkv",), compiles=False, exports=False, **REFERENCE),
    "generic": Host(
        lambda: Tower(PlainAttention), "generic", tokens, fuses=False, joint=False, canonical=False, linears=("to_qkv",)
    ),
    "generic_super": Host(
        lambda: Tower(InheritedAttention),
        "generic",
        tokens,
        fuses=False,
        joint=False,
        canonical=False,
        linears=("to_qkv",),
        compiles=False,
    ),
    "generic_nested": Host(
        lambda: Tower(NestedAttention), "generic", tokens, fuses=False, joint=False, linears=("query", "dense")
    ),
}


def output(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The features of a model: its output, or the last hidden state of a transformers model."""
    out = model(*inputs.values()) if set(inputs) == {"x"} else model(**inputs)
    return out if isinstance(out, Tensor) else out.last_hidden_state


def perturb(model: nn.Module, amount: float = 0.1, seed: int = 2) -> nn.Module:
    """Change the weights of Attn+ and the gates, as training does."""
    import spatialboost as sb

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sb.named_parameters(model):
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model


def boosted_names(model: nn.Module) -> list[str]:
    """Names of the boosted layers."""
    from spatialboost.boosting.channel import boosted_layers

    return [name for name, _, _ in boosted_layers(model)]


def untouched(model: nn.Module) -> bool:
    """Whether the model has no channels and no parameter frozen by `boost`."""
    return not boosted_names(model) and all(p.requires_grad for p in model.parameters())

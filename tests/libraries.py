"""The same random encoder in several libraries: five encoders, built by timm, transformers and as torch.hub has it.

The random weights are drawn for timm's copy; the others get the same weights under their own names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from host_models import DEPTH, PATCH, SIZE, Host, images, patches, timm_model, torchvision_vit, transformers_model
from hub_models import REGISTERS, ClipVisionTransformer, DinoVisionTransformer

State = dict[str, Tensor]
Names = dict[str, str]  # part of a name in timm -> part of it there


def rename(state: State, names: Names, *, split_qkv: str | None = None) -> State:
    """The state under other names: each name's first match counts; `{}` in a pattern is the number of the block."""
    out: State = {}
    for key, value in state.items():
        for old, new in names.items():
            if match := re.fullmatch(re.escape(old).replace(r"\{\}", r"(\d+)") + r"(.*)", key):
                number = match[1] if "{}" in old else ""
                target = new.replace("{}", number) + match[match.lastindex or 0]
                break
        else:
            raise KeyError(key)
        if split_qkv and "QKV" in target:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                out[target.replace("QKV", split_qkv.format(name))] = part
        else:
            out[target] = value
    return out


def blocks(there: str, attention: str, out: str, norms: tuple[str, str], mlp: tuple[str, str]) -> Names:
    """Names inside of a block."""
    inside = {"attn.qkv.": f"{attention}QKV.", "attn.proj.": f"{attention}{out}.", "norm1.": f"{norms[0]}."}
    inside |= {"norm2.": f"{norms[1]}.", "mlp.fc1.": f"{mlp[0]}.", "mlp.fc2.": f"{mlp[1]}."}
    inside |= {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    inside |= {"gamma_1": "layer_scale1.lambda1", "gamma_2": "layer_scale2.lambda1"}
    return {f"blocks.{{}}.{old}": f"{there}.{{}}.{new}" for old, new in inside.items()}


PLAIN = ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2")
ATTENTION = "attention."


def transformers_dinov2(state: State) -> State:
    names = blocks("encoder.layer", ATTENTION, "o_proj", *PLAIN)
    names |= {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    names |= {"patch_embed.proj.": "embeddings.patch_embeddings.projection.", "norm.": "layernorm."}
    mask = {"embeddings.mask_token": torch.zeros(1, state["cls_token"].shape[-1])}
    return rename(state, names, split_qkv="{}_proj") | mask


def transformers_dinov3(state: State) -> State:
    names = blocks("model.layer", ATTENTION, "o_proj", PLAIN[0], ("mlp.up_proj", "mlp.down_proj"))
    names |= {"cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens", "norm.": "norm."}
    names |= {"patch_embed.proj.": "embeddings.patch_embeddings."}
    width = state["cls_token"].shape[-1]
    # timm's has no biases of q and v where they are zero; transformers' has them
    biases = {f"model.layer.{i}.attention.{n}_proj.bias": torch.zeros(width) for i in range(DEPTH) for n in "qv"}
    mask = {"embeddings.mask_token": torch.zeros(1, 1, width)}
    return rename(state, names, split_qkv="{}_proj") | biases | mask


def transformers_siglip(state: State) -> State:
    names = blocks("encoder.layers", "self_attn.", "out_proj", ("layer_norm1", "layer_norm2"), PLAIN[1])
    names |= {"pos_embed": "embeddings.position_embedding.weight", "norm.": "post_layernorm."}
    names |= {"patch_embed.proj.": "embeddings.patch_embedding."}
    out = rename({k: v for k, v in state.items() if "attn_pool" not in k}, names, split_qkv="{}_proj")
    return out | {"embeddings.position_embedding.weight": state["pos_embed"][0]}


def transformers_siglip2(state: State) -> State:
    out = transformers_siglip(state)
    weight = out["embeddings.patch_embedding.weight"]  # there a linear layer on patches, colours last
    return out | {"embeddings.patch_embedding.weight": weight.permute(0, 2, 3, 1).flatten(1)}


def transformers_clip(state: State) -> State:
    names = blocks("encoder.layers", "self_attn.", "out_proj", ("layer_norm1", "layer_norm2"), PLAIN[1])
    names |= {"pos_embed": "embeddings.position_embedding.weight", "cls_token": "embeddings.class_embedding"}
    names |= {"patch_embed.proj.": "embeddings.patch_embedding.", "norm_pre.": "pre_layrnorm."}
    out = rename(state, names | {"norm.": "post_layernorm."}, split_qkv="{}_proj")
    flat = {"embeddings.class_embedding": state["cls_token"].flatten()}
    return out | flat | {"embeddings.position_embedding.weight": state["pos_embed"][0]}


def transformers_vit(state: State) -> State:
    names = blocks("layers", ATTENTION, "o_proj", ("layernorm_before", "layernorm_after"), PLAIN[1])
    names |= {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    names |= {"patch_embed.proj.": "embeddings.patch_embeddings.projection.", "norm.": "layernorm."}
    return rename(state, names, split_qkv="{}_proj")


def hub_dinov2(state: State) -> State:
    return dict(state)


def hub_dinov3(state: State) -> State:
    names = {"blocks.{}.gamma_1": "blocks.{}.ls1.gamma", "blocks.{}.gamma_2": "blocks.{}.ls2.gamma"}
    out = rename(state, names | {"reg_token": "storage_tokens", "": ""})
    width = state["cls_token"].shape[-1]
    mask = torch.cat([torch.ones(width), torch.zeros(width), torch.ones(width)])
    for i in range(DEPTH):
        # the mask sets these to zero, so their values must not matter
        out[f"blocks.{i}.attn.qkv.bias"] = 0.3 * (1 - mask)
        out[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    return out


def timm_dinov3_with_biases(state: State) -> State:
    width = state["cls_token"].shape[-1]
    return state | {f"blocks.{i}.attn.{n}_bias": torch.zeros(width) for i in range(DEPTH) for n in "qv"}


def hub_clip(state: State) -> State:
    names = blocks("transformer.resblocks", "attn.", "out_proj", ("ln_1", "ln_2"), ("mlp.c_fc", "mlp.c_proj"))
    names |= {"pos_embed": "positional_embedding", "cls_token": "class_embedding", "patch_embed.proj.": "conv1."}
    out = rename(state, names | {"norm_pre.": "ln_pre.", "norm.": "ln_post."})
    out = {key.replace("QKV.", "in_proj_"): value for key, value in out.items()}
    flat = {"class_embedding": state["cls_token"].flatten(), "positional_embedding": state["pos_embed"][0]}
    return out | flat


def torchvision_names(state: State) -> State:
    names = blocks("encoder.layers.encoder_layer_", "self_attention.", "out_proj", ("ln_1", "ln_2"), ("mlp.0", "mlp.3"))
    names |= {"pos_embed": "encoder.pos_embedding", "cls_token": "class_token", "patch_embed.proj.": "conv_proj."}
    out = rename(state, names | {"norm.": "encoder.ln."})
    return {k.replace("QKV.", "in_proj_").replace("encoder_layer_.", "encoder_layer_"): v for k, v in out.items()}


@dataclass(frozen=True)
class Copy:
    """An encoder as one library builds it: how, its weights from timm's, and its tokens."""

    build: Callable[[], nn.Module]
    convert: Callable[[State], State]
    features: Callable[[nn.Module], Tensor]


def timm_tokens(model: nn.Module) -> Tensor:
    return model.forward_features(images()["x"])


def hidden(model: nn.Module) -> Tensor:
    return model(pixel_values=images()["x"]).last_hidden_state


def hidden_normed(model: nn.Module) -> Tensor:
    return model.post_layernorm(hidden(model))


def torchvision_tokens(model: nn.Module) -> Tensor:
    x = model._process_input(images()["x"])
    return model.encoder(torch.cat([model.class_token.expand(len(x), -1, -1), x], 1))


def naflex_tokens(model: nn.Module) -> Tensor:
    x, side = images()["x"], SIZE // PATCH
    flat = x.unflatten(2, (side, PATCH)).unflatten(4, (side, PATCH)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    inputs = patches() | {"pixel_values": flat, "pixel_attention_mask": torch.ones(2, 4, dtype=torch.long)}
    return model(**(inputs | {"spatial_shapes": torch.tensor([[side, side]] * 2)})).last_hidden_state


def call(model: nn.Module) -> Tensor:
    return model(images()["x"])


def timm(name: str) -> Copy:
    return Copy(lambda: timm_model(name, patch_size=PATCH), dict, timm_tokens)


def hf(name: str, config: str, convert: Callable[[State], State], features=hidden, **options) -> Copy:
    options = {"mlp_ratio": 4, "intermediate_size": 128} | options
    return Copy(lambda: transformers_model(name, config, **options), convert, features)


ENCODERS: dict[str, dict[str, Copy]] = {
    "DINOv2": {
        "timm": timm("vit_small_patch14_dinov2"),
        "transformers": hf("Dinov2Model", "Dinov2Config", transformers_dinov2),
        "torch.hub": Copy(lambda: DinoVisionTransformer(rope=False), hub_dinov2, call),
    },
    "DINOv3": {
        "timm": timm("vit_small_patch16_dinov3"),
        "transformers": hf(
            "DINOv3ViTModel", "DINOv3ViTConfig", transformers_dinov3, num_register_tokens=REGISTERS
        ),
        "torch.hub": Copy(lambda: DinoVisionTransformer(rope=True), hub_dinov3, call),
        "timm qkvb": Copy(timm("vit_small_patch16_dinov3_qkvb").build, timm_dinov3_with_biases, timm_tokens),
    },
    "SigLIP 2": {
        "timm": timm("vit_base_patch16_siglip_224"),
        "transformers": hf("SiglipVisionModel", "SiglipVisionConfig", transformers_siglip, hidden_act="gelu"),
        "transformers NaFlex": hf(
            "Siglip2VisionModel", "Siglip2VisionConfig", transformers_siglip2, naflex_tokens, hidden_act="gelu",
            num_patches=4,
        ),
    },
    "CLIP": {
        "timm": timm("vit_base_patch16_clip_quickgelu_224"),
        "transformers": hf("CLIPVisionModel", "CLIPVisionConfig", transformers_clip, hidden_normed),
        "torch.hub": Copy(ClipVisionTransformer, hub_clip, call),
    },
    "ViT": {
        "timm": timm("vit_tiny_patch16_224"),
        "transformers": hf("ViTModel", "ViTConfig", transformers_vit, layer_norm_eps=1e-6),
        "torch.hub": Copy(lambda: torchvision_vit(4), torchvision_names, torchvision_tokens),
    },
}  # fmt: skip


def build(encoder: str, library: str, seed: int = 0) -> nn.Module:
    """One library's copy of an encoder; with the same seed, the same weights in each."""
    copies = ENCODERS[encoder]
    state = Host(copies["timm"].build, "timm").make(seed).state_dict()
    model = copies[library].build().eval()
    if library == "timm":
        model.load_state_dict(state)
        return model
    found = model.load_state_dict(copies[library].convert(state), strict=False)
    assert not found.unexpected_keys, found
    # poolers, whose output is not compared here, and constants
    assert all(re.match(r"pooler|head\.|rope_embed|.*attn.k_bias", key) for key in found.missing_keys), found
    return model


# A delta with biases has no place in the copy without: refused, with what to do.
REFUSED = {("DINOv3", copy, "timm") for copy in ("transformers", "torch.hub", "timm qkvb")}


def features(encoder: str, library: str, model: nn.Module) -> Tensor:
    """All tokens of the two images of `hosts.images`."""
    with torch.no_grad():
        return ENCODERS[encoder][library].features(model)

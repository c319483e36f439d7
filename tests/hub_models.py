"""Encoders that name and shape their modules as torch.hub's do (DINOv2, DINOv3, CLIP), small and written for the tests.

Only what matters to a delta is like the originals: class paths, names of modules, packed projections, DINOv3's masked
bias of k, its registers and its rotary position embedding.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from host_models import DEPTH, HEADS, PATCH, SIZE, WIDTH

REGISTERS = 4


class LinearKMaskedBias(nn.Linear):
    """q, k and v of DINOv3: a bias for all three, of which a buffer takes k's out."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width)
        mask = torch.ones(3 * width)
        mask[width : 2 * width] = 0
        self.register_buffer("bias_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias * self.bias_mask)


class Attention(nn.Module):
    """DINOv2's."""

    def __init__(self, qkv: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv = qkv(WIDTH) if qkv else nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = (self.turn(t, *rope) for t in (q, k))
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def turn(self, t: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        prefix = t.shape[-2] - sin.shape[-2]
        head, t = t[:, :, :prefix], t[:, :, prefix:]
        first, second = t.chunk(2, -1)
        return torch.cat([head, t * cos + torch.cat([-second, first], -1) * sin], 2)


class SelfAttention(Attention):
    """DINOv3's."""

    def __init__(self) -> None:
        super().__init__(LinearKMaskedBias)


Attention.__module__ = "dinov2.layers.attention"
SelfAttention.__module__ = "dinov3.layers.attention"


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, attention: type[nn.Module], eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps), nn.LayerNorm(WIDTH, eps)
        self.ls1, self.ls2 = LayerScale(), LayerScale()
        self.attn = attention()
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(WIDTH, 4 * WIDTH), act=nn.GELU(), fc2=nn.Linear(4 * WIDTH, WIDTH))
        )

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope) if rope else self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Rope(nn.Module):
    """Angles of DINOv3: patch centres in [-1, 1], rows before columns, the two halves of a head turned alike."""

    def __init__(self) -> None:
        super().__init__()
        quarter = WIDTH // HEADS // 4
        self.register_buffer("periods", 100.0 ** (torch.arange(quarter) / quarter))

    def forward(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        centres = [2 * (torch.arange(n) + 0.5) / n - 1 for n in (height, width)]
        coordinates = torch.stack(torch.meshgrid(*centres, indexing="ij"), -1).flatten(0, 1)
        angles = (2 * math.pi * coordinates[:, :, None] / self.periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()


class DinoVisionTransformer(nn.Module):
    """DINOv2 (`rope=False`) or DINOv3."""

    def __init__(self, *, rope: bool) -> None:
        super().__init__()
        eps = 1e-5 if rope else 1e-6
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        if rope:
            self.storage_tokens = nn.Parameter(torch.zeros(1, REGISTERS, WIDTH))
            self.rope_embed = Rope()
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIZE // PATCH) ** 2, WIDTH))
        self.blocks = nn.ModuleList(Block(SelfAttention if rope else Attention, eps) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed["proj"](x)
        grid, x = x.shape[-2:], x.flatten(2).transpose(1, 2)
        cls, rope = self.cls_token.expand(len(x), -1, -1), None
        if hasattr(self, "rope_embed"):
            x = torch.cat([cls, self.storage_tokens.expand(len(x), -1, -1), x], 1)
            rope = self.rope_embed(*grid)
        else:
            x = torch.cat([cls, x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x, rope)
        return self.norm(x)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(WIDTH, 4 * WIDTH), gelu=QuickGELU(), c_proj=nn.Linear(4 * WIDTH, WIDTH))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock() for _ in range(DEPTH)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class ClipVisionTransformer(nn.Module):
    """The image tower of CLIP, tokens first as there; gives all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + (SIZE // PATCH) ** 2, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x).transpose(0, 1)).transpose(0, 1))

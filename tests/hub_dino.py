"""Encoders laid out as torch.hub gives DINOv2 and DINOv3: what their attention is called with, written anew.

DINOv2: `attn(x, attn_bias=mask)`, where the mask is a BlockDiagonalMask over several images packed into one row.
DINOv3: `attn(x, rope=(sin, cos))` for one batch, `attn.forward_list([x, ...], rope_list=[...])` for several sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """One packed projection for q, k and v, one for the output."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, attn_bias: Any = None) -> Tensor:
        out = scaled_dot_product_attention(*self.heads(self.qkv(x)))
        return self.proj(out.transpose(1, 2).flatten(2))


class MemEffAttention(Attention):
    """With a mask over packed images, which is a matrix only once it is asked for."""

    def forward(self, x: Tensor, attn_bias: Any = None) -> Tensor:
        if attn_bias is None:
            return super().forward(x)
        mask = attn_bias.materialize((x.shape[1], x.shape[1])).to(x)
        out = scaled_dot_product_attention(*self.heads(self.qkv(x)), attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    """With rotary positions, and a second door for batches of different sizes."""

    def rotated(self, t: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        if rope is None:
            return t
        sin, cos = rope
        prefix, (a, b) = t[:, :, : t.shape[2] - len(sin)], t[:, :, t.shape[2] - len(sin) :].chunk(2, -1)
        return torch.cat([prefix, torch.cat([a, b], -1) * cos + torch.cat([-b, a], -1) * sin], dim=2)

    def attend(self, qkv: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        q, k, v = self.heads(qkv)
        out = scaled_dot_product_attention(self.rotated(q, rope), self.rotated(k, rope), v)
        return out.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, attn_bias: Any = None, rope: Any = None) -> Tensor:
        return self.proj(self.attend(self.qkv(x), rope))

    def forward_list(self, x_list: list[Tensor], attn_bias: Any = None, rope_list: Any = None) -> list[Tensor]:
        sizes = [x.shape[:2] for x in x_list]
        flat = self.qkv(torch.cat([x.flatten(0, 1) for x in x_list]))
        parts = flat.split([b * n for b, n in sizes])
        outs = [
            self.attend(part.unflatten(0, size), rope)
            for part, size, rope in zip(parts, sizes, rope_list or [None] * len(sizes), strict=True)
        ]
        flat = self.proj(torch.cat([out.flatten(0, 1) for out in outs]))
        return [
            part.unflatten(0, size) for part, size in zip(flat.split([b * n for b, n in sizes]), sizes, strict=True)
        ]


class Block(nn.Module):
    def __init__(self, attention: type[Attention], dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention(dim, num_heads)

    def forward(self, x: Tensor | list[Tensor], **positions: Any) -> Tensor | list[Tensor]:
        if isinstance(x, Tensor):
            return x + self.attn(self.norm1(x), **positions)
        if isinstance(self.attn, SelfAttention):
            outs = self.attn.forward_list([self.norm1(t) for t in x])
            return [t + out for t, out in zip(x, outs, strict=True)]
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask

        assert isinstance(self.attn, MemEffAttention)
        mask = BlockDiagonalMask.from_seqlens([t.shape[1] for t in x for _ in range(t.shape[0])])
        row = torch.cat([t.reshape(1, -1, t.shape[-1]) for t in x], dim=1)
        row = row + self.attn(self.norm1(row), attn_bias=mask)
        parts = row.split([t.shape[0] * t.shape[1] for t in x], dim=1)
        return [part.reshape(t.shape) for part, t in zip(parts, x, strict=True)]


class Encoder(nn.Module):
    def __init__(self, attention: type[Attention], dim: int, num_heads: int, depth: int, patch: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(attention, dim, num_heads) for _ in range(depth))
        self.head_dim = dim // num_heads if attention is SelfAttention else 0

    def embed(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        options = {}
        if self.head_dim:
            angles = torch.arange(tokens.shape[1] - 1, device=x.device, dtype=x.dtype)[:, None] / 10
            angles = angles.expand(-1, self.head_dim)
            options = {"rope": (angles.sin(), angles.cos())}
        for block in self.blocks:
            tokens = block(tokens, **options)
        return tokens

    def forward_list(self, x_list: list[Tensor]) -> list[Tensor]:
        """Images of several sizes at once, as in the training of both."""
        tokens = [self.embed(x) for x in x_list]
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

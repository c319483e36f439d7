"""The transformer of the field's encoder and decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatialboost.teachers.field.positions import Positions

# Shape legend: B batch, T tokens, W width, H heads, C channels of a head.

REGISTERS = 4
EPSILON = 1e-6


class FieldAttention(nn.Module):
    """Self-attention with normalised queries and keys (RMS over a head), whose positions are given with each call.

    Example:
        >>> layer = FieldAttention(16, 2)
        >>> layer(torch.zeros(1, 5, 16)).shape
        torch.Size([1, 5, 16])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query_norm = nn.RMSNorm(width // heads, eps=EPSILON)
        self.key_norm = nn.RMSNorm(width // heads, eps=EPSILON)

    def forward(self, x: Tensor, positions: Positions | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend: tokens ``(B, T, W)``, their positions, and a mask that torch's attention takes."""
        q, k, v = self.inward(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.query_norm(q).to(v.dtype), self.key_norm(k).to(v.dtype)
        if positions is not None:
            q, k, v = positions.queries(q), positions.keys(k), positions.values(v)
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out if positions is None else positions.outputs(out)
        return self.outward(out.transpose(1, 2).flatten(2))


class FieldBlock(nn.Module):
    """A block: attention and two layers, each after a norm and beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width, eps=EPSILON), nn.LayerNorm(width, eps=EPSILON)
        self.attention = FieldAttention(width, heads)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, positions: Positions | None = None, mask: Tensor | None = None) -> Tensor:
        """Transform tokens ``(B, T, W)``, as in `FieldAttention`."""
        x = x + self.attention(self.first_norm(x), positions, mask)
        return x + self.layers(self.second_norm(x))


class FieldTransformer(nn.Module):
    """Registers before the tokens, blocks, and a final norm.

    Example:
        >>> transformer = FieldTransformer(width=16, depth=2, heads=2)
        >>> transformer(torch.zeros(3, 7, 16)).shape
        torch.Size([3, 7, 16])

    Args:
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Heads of the attention.

    Source: Spa3R (arXiv 2602.21186).
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.registers = nn.Parameter(torch.empty(REGISTERS, width))
        self.blocks = nn.ModuleList(FieldBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        nn.init.normal_(self.registers, std=1e-6)
        self.apply(start_linear)

    def forward(self, x: Tensor, positions: Positions | None = None, known_BT: Tensor | None = None) -> Tensor:
        """Transform tokens.

        Args:
            x: Tokens ``(B, T, W)``.
            positions: Positions of the registers and of the tokens, in this order.
            known_BT: Which tokens there are; the others only fill up the batch. None: all.
        """
        mask = None
        if known_BT is not None:
            mask = nn.functional.pad(known_BT, (REGISTERS, 0), value=True)[:, None, None]
        x = torch.cat([self.registers.to(x.dtype).expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x, positions, mask)
        return self.norm(x[:, REGISTERS:])


def start_linear(module: nn.Module) -> None:
    """Start the weights of a linear layer: a normal distribution of width 0.02, cut off at 2; biases are zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

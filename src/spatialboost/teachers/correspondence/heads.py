"""The heads: a small network for each supervised layer, started from that layer's query projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError

# Shape legend: D width of the tokens, Q width of the queries of all heads, E width of an embedding.

Start = Literal["paired", "truncated", "random"]


class Head(nn.Module):
    """Two linear layers with a GELU between them: token -> embedding. They know nothing of where tokens are from.

    Example:
        >>> head = Head(48, 16)
        >>> head(torch.zeros(2, 9, 48)).shape, head.first.out_features
        (torch.Size([2, 9, 16]), 32)

    Args:
        width: Width of the tokens.
        embedding: Width of an embedding; between the layers it is twice as wide.
        norm: Normalise each token first, without weights: single channels of a vision transformer can be very large.

    Source: GASP (arXiv 2605.30231).
    """

    def __init__(self, width: int, embedding: int, *, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if norm else nn.Identity()
        self.first, self.second = nn.Linear(width, 2 * embedding), nn.Linear(2 * embedding, embedding)

    def forward(self, tokens: Tensor) -> Tensor:
        """The embeddings, not normalised ``(..., E)``."""
        return self.second(nn.functional.gelu(self.first(self.norm(tokens))))


@torch.no_grad()
def start_head(head: Head, query_QD: Tensor, start: Start = "paired") -> None:
    """Set the weights of a head from the singular vectors of a query projection. Biases become zero.

    Example:
        >>> head, query = Head(8, 4, norm=False), torch.randn(8, 8)
        >>> start_head(head, query)
        >>> token = torch.randn(8)
        >>> _, values, vectors = torch.linalg.svd(query)
        >>> torch.allclose(head(token).abs(), (values[:4].sqrt() * (vectors[:4] @ token)).abs(), atol=1e-5)
        True

    With rows v of the largest singular values s, ``sqrt(s) v`` each:

    - ``paired``: the first layer has these rows and their negatives, the second one subtracts the second half from the
      first. As gelu(x) - gelu(-x) = x, the head is exactly the projection of a token to these directions.
    - ``truncated``: the first layer has twice as many of these rows, the second one keeps the first half.
    - ``random``: the weights stay as they are.

    Args:
        head: The head.
        query_QD: Weight of the query projection.
        start: How the head starts. The paper names the decomposition only, not how it fills two layers.

    Raises:
        SpatialBoostError: The projection has fewer directions than the head needs.
    """
    if start == "random":
        return
    embedding, width = head.second.out_features, head.first.in_features
    needed = embedding if start == "paired" else 2 * embedding
    if needed > min(query_QD.shape):
        raise SpatialBoostError(
            f"teacher.width is {embedding}, and a head that starts {start!r} needs {needed} directions of a query "
            f"projection of {query_QD.shape[0]} x {query_QD.shape[1]}: take teacher.width of at most "
            f"{embedding * min(query_QD.shape) // needed}, or teacher.head_start: random"
        )
    if query_QD.shape[1] != width:
        raise SpatialBoostError(f"the query projection takes tokens of width {query_QD.shape[1]}, the head {width}")
    if query_QD.is_meta:
        return  # a plan needs no values
    _, values, vectors = torch.linalg.svd(query_QD.float(), full_matrices=False)
    rows = (values[:needed].sqrt()[:, None] * vectors[:needed]).to(head.first.weight)
    identity = torch.eye(embedding).to(rows)
    head.first.weight.copy_(torch.cat([rows, -rows]) if start == "paired" else rows)
    other = -identity if start == "paired" else torch.zeros_like(identity)
    head.second.weight.copy_(torch.cat([identity, other], 1))
    head.first.bias.zero_()
    head.second.bias.zero_()


def build_heads(
    queries: Mapping[int, Tensor], embedding: int, *, norm: bool = True, start: Start = "paired"
) -> nn.ModuleDict:
    """A head for each layer.

    Args:
        queries: Layer -> weight of its query projection.
        embedding: Width of an embedding.
        norm: Normalise tokens first.
        start: How each head starts, see `start_head`.
    """
    heads = nn.ModuleDict()
    for layer, query_QD in queries.items():
        head = Head(query_QD.shape[1], embedding, norm=norm)
        start_head(head, query_QD, start)
        heads[str(layer)] = head
    return heads

"""The two losses on embeddings of patches: contrast between points, and agreement in depth."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

# Shape legend: L layers, F views of one sequence (the first has the query points), G = F - 1 other views, T points,
# N patches, E width of an embedding, R further negatives of a point.

LOW = -1e4  # in the place of minus infinity, whose gradient is not a number


def at_points(
    maps_LFNE: Tensor, grid: tuple[int, int], points_FT2: Tensor, sample: Literal["bilinear", "nearest"] = "bilinear"
) -> Tensor:
    """Embeddings at places of the views, with length 1 ``(L, F, T, E)``.

    Example:
        >>> maps = torch.eye(4)[None, None]  # four patches in a row, each with its own direction
        >>> at_points(maps, (1, 4), torch.tensor([[[0.625, 0.5]]])).round(decimals=3).tolist()
        [[[[0.0, 0.0, 1.0, 0.0]]]]

    Args:
        maps_LFNE: Embeddings of patches.
        grid: Rows and columns of patches.
        points_FT2: (x, y) as shares of each view's width and height.
        sample: From the four patches around a place, or from the nearest one.
    """
    layers, views = maps_LFNE.shape[:2]
    maps = maps_LFNE.flatten(0, 1).transpose(1, 2).unflatten(2, grid)
    places = (2 * points_FT2 - 1).repeat(layers, 1, 1)[:, :, None]
    found = nn.functional.grid_sample(maps, places, mode=sample, padding_mode="border", align_corners=False)
    return nn.functional.normalize(found[..., 0].transpose(1, 2), dim=-1).unflatten(0, (layers, views))


def counted_negatives(points_FT2: Tensor, visible_FT: Tensor, grid: tuple[int, int], apart: float) -> Tensor:
    """Which point s of a view is a negative of point t: bool ``(G, T, T)``, in the order view, t, s.

    It is seen there, is another point, and is at least `apart` patches away from the place of t.

    Args:
        points_FT2: (x, y) as shares of each view's width and height.
        visible_FT: Whether a view sees a point.
        grid: Rows and columns of patches.
        apart: Distance in patches.
    """
    places_GT2 = points_FT2[1:] * points_FT2.new_tensor([grid[1], grid[0]])
    distance_GTT = (places_GT2[:, :, None] - places_GT2[:, None]).norm(dim=-1)
    others_TT = ~torch.eye(points_FT2.shape[1], dtype=torch.bool, device=points_FT2.device)
    return visible_FT[1:, None] & others_TT & (distance_GTT >= apart)


def contrast(
    points_LFTE: Tensor,
    visible_FT: Tensor,
    negatives_GTT: Tensor,
    *,
    temperature: float,
    across: bool = False,
    far_LGTRE: Tensor | None = None,
    far_valid_GTR: Tensor | None = None,
) -> Tensor:
    """Contrastive loss of each layer, summed over all matches ``(L,)``.

    Example:
        >>> points = torch.eye(3)[None, None].expand(1, 2, 3, 3)  # two views, three points, matches are equal
        >>> others = ~torch.eye(3, dtype=torch.bool)[None]
        >>> round(float(contrast(points, torch.ones(2, 3, dtype=torch.bool), others, temperature=0.05)), 6)
        0.0

    For point i of the first view and its match in another one: ``-log(exp(s_ii) / (exp(s_ii) + sum_k exp(s_ik)))``,
    with s the cosine divided by the temperature, and k over the negatives.

    Args:
        points_LFTE: Embeddings at the points, with length 1.
        visible_FT: Whether a view sees a point.
        negatives_GTT: The result of `counted_negatives`.
        temperature: Temperature.
        across: Take the negatives of all views except the first, instead of those of the match's own view.
        far_LGTRE: Embeddings of further negatives, with length 1.
        far_valid_GTR: Which of these count.

    Source: GASP (arXiv 2605.30231).
    """
    first_LTE, others_LGTE = points_LFTE[:, 0], points_LFTE[:, 1:]
    scores_LGTT = torch.einsum("lte,lgse->lgts", first_LTE, others_LGTE) / temperature
    right_LGT = scores_LGTT.diagonal(dim1=2, dim2=3)
    wrong_LGT = scores_LGTT.masked_fill(~negatives_GTT, LOW).logsumexp(-1)
    if across:
        wrong_LGT = wrong_LGT.logsumexp(1, keepdim=True)
    if far_LGTRE is not None and far_valid_GTR is not None:
        far_LGTR = torch.einsum("lte,lgtre->lgtr", first_LTE, far_LGTRE) / temperature
        wrong_LGT = torch.logaddexp(wrong_LGT, far_LGTR.masked_fill(~far_valid_GTR, LOW).logsumexp(-1))
    loss_LGT = nn.functional.softplus(wrong_LGT - right_LGT)
    return torch.where(matches(visible_FT), loss_LGT, 0.0).sum((1, 2))


def depth_agreement(
    points_LFTE: Tensor,
    maps_LFNE: Tensor,
    visible_FT: Tensor,
    depths_FT: Tensor,
    patch_depths_FN: Tensor,
    *,
    temperature: float,
    epsilon: float = 1e-6,
) -> Tensor:
    """Depth loss of each layer, summed over all matches ``(L,)``. It does not depend on the unit of the depths.

    A point's depth in another view is guessed as the mean depth of that view's patches, weighted by the softmax of
    their similarity to the point. The error is ``|d - guess| / (d + guess + epsilon)``. Gradients reach the embeddings
    only. It can be small with wrong matches whose depths average to the right one: it helps beside `contrast`.

    Args:
        points_LFTE: Embeddings at the points, with length 1.
        maps_LFNE: Embeddings of patches.
        visible_FT: Whether a view sees a point.
        depths_FT: z of each point in each view.
        patch_depths_FN: Depth of each patch, 0 where unknown: such a patch has no part in the mean.
        temperature: Temperature.
        epsilon: Added to the denominator.

    Source: GASP (arXiv 2605.30231).
    """
    patches_LGNE = nn.functional.normalize(maps_LFNE[:, 1:], dim=-1)
    scores_LGTN = torch.einsum("lte,lgne->lgtn", points_LFTE[:, 0], patches_LGNE) / temperature
    depth_GN, true_GT = patch_depths_FN[1:], depths_FT[1:]
    weights_LGTN = scores_LGTN.masked_fill(depth_GN[:, None] <= 0, LOW).softmax(-1)
    guess_LGT = torch.einsum("lgtn,gn->lgt", weights_LGTN, depth_GN)
    error_LGT = (true_GT - guess_LGT).abs() / (true_GT + guess_LGT + epsilon)
    known_GT = matches(visible_FT) & (depth_GN > 0).any(1, keepdim=True)
    return torch.where(known_GT, error_LGT, 0.0).sum((1, 2))


def matches(visible_FT: Tensor) -> Tensor:
    """Where there is a match: points that the first view and another one see ``(G, T)``."""
    return visible_FT[:1] & visible_FT[1:]

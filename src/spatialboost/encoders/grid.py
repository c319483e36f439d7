"""Whether each token of an encoder is where the grid says that it is."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from spatialboost.encoders.libraries import find_reader
from spatialboost.encoders.tokens import read_tokens
from spatialboost.errors import SpatialBoostError

# Shape legend: H and W pixels, R and C rows and columns of patches.

_passed: WeakKeyDictionary[nn.Module, set[tuple[int, int]]] = WeakKeyDictionary()


@torch.no_grad()
def check_grid(encoder: nn.Module, size: tuple[int, int] | int | None = None) -> None:
    """See that the token which changes most is the one whose patch of the image has changed.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> check_grid(VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2))

    A count of tokens that fits says nothing of their order. So noise is shown to the encoder, then the same noise with
    another patch at one place, for two places that no flip, transposition or shift exchanges. What the first layer
    gives is compared, since there a token still is mostly its own patch. It is done once for an encoder and a size, and
    not at all for an encoder on the meta device, which has no values.

    Args:
        encoder: Anything that `read_tokens` reads.
        size: Height and width in pixels, or one number for both; None is the size that the encoder was built for.

    Raises:
        SpatialBoostError: Another token changes most, or none does: the tokens cannot be placed on a grid.
    """
    library, inner = find_reader(encoder)
    height, width = library.native_size(inner) if size is None else (size, size) if isinstance(size, int) else size
    done = _passed.setdefault(encoder, set())
    weight = next(encoder.parameters(), None)
    if (height, width) in done or weight is None or weight.is_meta:
        return
    layer = -1 if library.hierarchical(inner) else 0
    was_training = encoder.training
    encoder.eval()
    try:
        for place, change_RC in _changes(encoder, (height, width), layer, weight):
            found = divmod(int(change_RC.argmax()), change_RC.shape[1])
            if found != place or not change_RC.max() > 0:
                moved = f"the token of row {found[0]}, column {found[1]}" if change_RC.max() > 0 else "no token"
                raise SpatialBoostError(
                    f"the tokens of {type(encoder).__name__} cannot be placed on a grid of "
                    f"{change_RC.shape[0]}x{change_RC.shape[1]}: the patch of row {place[0]}, column {place[1]} was "
                    f"changed, and {moved} changed most"
                )
    finally:
        encoder.train(was_training)
    done.add((height, width))


def _changes(
    encoder: nn.Module, size: tuple[int, int], layer: int, like: Tensor
) -> list[tuple[tuple[int, int], Tensor]]:
    """For two places of the grid: how much each token ``(R, C)`` changes with the patch at that place."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *size, generator=generator).to(like)
    before = read_tokens(encoder, image, layer=layer)
    rows, columns = before.grid
    found = []
    for row, column in {(0, columns - 1), (rows // 2, columns // 3)}:
        top, bottom = (size[0] * edge // rows for edge in (row, row + 1))
        left, right = (size[1] * edge // columns for edge in (column, column + 1))
        changed = image.clone()
        patch = torch.randn(3, bottom - top, right - left, generator=generator)
        changed[0, :, top:bottom, left:right] = 2 * patch.to(like)
        difference = read_tokens(encoder, changed, layer=layer).patches.float() - before.patches.float()
        found.append(((row, column), difference[0].norm(dim=-1).view(rows, columns)))
    return found

"""Whether each token of an encoder is where the grid says that it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from spatialboost.encoders.libraries import find_reader
from spatialboost.encoders.tokens import read_tokens
from spatialboost.errors import SpatialBoostError

# Shape legend: N patches, D width of the encoder, R and C rows and columns of the grid.

DRAWS, DRAWS_DEEP = 2, 4  # patches of noise tried at each place, and where only a deep layer can be read
ALIKE = 0.95  # cosine between the changes for two places, above which they tell nothing of the place
SHARE = 1 / 3  # of the largest change, which the right token has to reach

HOOKED = "_output_capturing_hooks_installed"  # how transformers marks a model that it has hooked

_passed: WeakKeyDictionary[nn.Module, set[tuple[int, int]]] = WeakKeyDictionary()


def check_grid(encoder: nn.Module, size: tuple[int, int] | int | None = None) -> None:
    """See that a token changes with the patch of the image that it stands for.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> check_grid(VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2))

    A count of tokens that fits says nothing of their order. So an image of noise is shown to the encoder, then the same
    with other noise in one patch, and the changes of the tokens are compared, less what all tokens have in common.
    Both places that are tried would be found elsewhere if the grid were flipped, transposed or shifted.

    What the first layer gives is read, since there a token still is mostly its own patch: a wrong one moves a hundred
    times less. Of a hierarchical encoder only the last layer can be read, and its convolutions spread a patch over the
    neighbours: hence it is enough that the right token reaches a third of the largest change.

    It is done once for an encoder and a size, and not for an encoder on the meta device, which has no values.

    Args:
        encoder: Anything that `read_tokens` reads.
        size: Height and width in pixels, or one number for both; None is the size that the encoder was built for.

    Raises:
        SpatialBoostError: Another token changes, or none does: the tokens cannot be placed on a grid.
    """
    library, inner = find_reader(encoder)
    size = library.native_size(inner) if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    done = _passed.setdefault(encoder, set())
    weight = next(encoder.parameters(), None)
    if size in done or weight is None or weight.is_meta:
        return
    layer = -1 if library.hierarchical(inner) else 0
    try:
        with _as_it_was(encoder):
            changes = token_changes(encoder.eval(), size, layer, weight)
    except (RuntimeError, IndexError) as error:  # position tables of another size
        reason = " ".join(str(error).split())[:200]
        raise SpatialBoostError(
            f"{type(encoder).__name__} cannot read images of {size[0]}x{size[1]} pixels: {reason}. Give `image_size`"
        ) from error
    if not _knows_no_place([change_RC for _, change_RC in changes]):
        for place, change_RC in changes:
            _compare(type(encoder).__name__, place, change_RC)
    done.add(size)


@contextmanager
def _as_it_was(encoder: nn.Module) -> Iterator[None]:
    """Give each module its mode back, and take away the hooks that transformers leaves, with which nothing pickles."""
    before = {module: (module.training, set(module._forward_hooks), set(vars(module))) for module in encoder.modules()}
    try:
        yield
    finally:
        for module, (training, hooks, names) in before.items():
            module.training = training
            for key in set(module._forward_hooks) - hooks:
                del module._forward_hooks[key]
            if HOOKED not in names:
                vars(module).pop(HOOKED, None)


def _knows_no_place(changes: list[Tensor]) -> bool:
    """Whether the tokens change alike wherever the image does: deep stages with random weights do that.

    Then nothing can be said about their order, and nothing is refused.
    """
    if len(changes) < 2:
        return False
    first, second = (change_RC.flatten() for change_RC in changes)
    return float(nn.functional.cosine_similarity(first, second, dim=0)) > ALIKE  # not where nothing changes, or is nan


def _compare(name: str, place: tuple[int, int], change_RC: Tensor) -> None:
    largest = float(change_RC.max())
    if not bool(change_RC.isfinite().all()):
        raise SpatialBoostError(f"the tokens of {name} are not finite: see that its weights are loaded")
    if largest > 0 and float(change_RC[place]) >= SHARE * largest:
        return
    row, column = divmod(int(change_RC.argmax()), change_RC.shape[1])
    moved = f"the token of row {row}, column {column} changed most" if largest > 0 else "no token changed"
    raise SpatialBoostError(
        f"the tokens of {name} cannot be placed on a grid of {change_RC.shape[0]}x{change_RC.shape[1]}: the patch of "
        f"row {place[0]}, column {place[1]} was changed, and {moved}"
    )


@torch.no_grad()
def token_changes(
    encoder: nn.Module, size: tuple[int, int], layer: int, like: Tensor
) -> list[tuple[tuple[int, int], Tensor]]:
    """For two places of the grid: the share ``(R, C)`` that each token has in the change with the patch there."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *size, generator=generator)
    before = read_tokens(encoder, image.to(like), layer=layer)
    rows, columns = before.grid
    found = []
    for row, column in sorted({(0, columns - 1), (rows // 2, columns // 3)}):
        top, bottom = (size[0] * edge // rows for edge in (row, row + 1))
        left, right = (size[1] * edge // columns for edge in (column, column + 1))
        change_N = torch.zeros(rows * columns)
        for draw in range(DRAWS if layer == 0 else DRAWS_DEEP):
            # noise of pixels and whole colours by turns: encoders differ in which of them they see
            shape = (3, bottom - top, right - left) if draw % 2 else (3, 1, 1)
            changed = image.clone()
            changed[0, :, top:bottom, left:right] = 3 * torch.randn(shape, generator=generator)
            tokens = read_tokens(encoder, changed.to(like), layer=layer).patches
            difference_ND = (tokens.float() - before.patches.float())[0].cpu()
            if rows * columns > 1:
                difference_ND = difference_ND - difference_ND.mean(0)
            change_N += difference_ND.norm(dim=-1) / (difference_ND.norm() + 1e-30)
        found.append(((row, column), change_N.view(rows, columns)))
    return found

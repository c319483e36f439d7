"""Check that the tokens of an encoder lie on the grid of patches in the expected order."""

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

DRAWS, DRAWS_DEEP = 2, 4  # noise patches that are tried at each place: in the first layer, and in a deep layer
SAME_CHANGE = 0.95  # if the cosine between the changes for two places is higher, they do not depend on the place
REQUIRED_SHARE = 1 / 3  # the change of the right token, divided by the largest change, must be at least this

HOOK_MARK = "_output_capturing_hooks_installed"  # transformers sets this attribute when it has added its hooks

_passed: WeakKeyDictionary[nn.Module, set[tuple[int, int]]] = WeakKeyDictionary()


def check_grid(encoder: nn.Module, size: tuple[int, int] | int | None = None) -> None:
    """Check that each token changes when its patch of the image changes.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> check_grid(VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2))

    The right number of tokens does not prove the right order. So the encoder reads an image of noise, and then the same
    image with other noise in one patch. The changes of the tokens are compared, less the median change of all tokens.
    Two places are tried: if the grid were flipped, transposed or shifted, another token would change most.

    The tokens of the first layer are read, because there each token depends mostly on its own patch: other tokens
    change a hundred times less. In a hierarchical encoder only the last layer can be read, and its convolutions spread
    a patch over its neighbours. So the right token needs only a third of the largest change.

    The check runs once for each encoder and size. It skips an encoder on the meta device, which has no values.

    Args:
        encoder: An encoder that `read_tokens` can read.
        size: Height and width in pixels, or one number for both; None is the size that the encoder was built for.

    Raises:
        SpatialBoostError: Another token changes most, or no token changes: the tokens cannot be placed on a grid.
    """
    library, inner = find_reader(encoder)
    size = library.native_size(inner) if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    done = _passed.setdefault(encoder, set())
    weight = next(encoder.parameters(), None)
    if size in done or weight is None or weight.is_meta:
        return
    layer = -1 if library.hierarchical(inner) else 0
    try:
        with _state_restored(encoder):
            changes = token_changes(encoder.eval(), size, layer, weight)
    except SpatialBoostError:
        raise
    except Exception as error:  # for example position embeddings for another image size, or sizes of a wrong type
        reason = " ".join(str(error).split())[:200]
        raise SpatialBoostError(
            f"{type(encoder).__name__} cannot read images of {size[0]}x{size[1]} pixels: {reason}. "
            "Give the size that it can read as `image_size`"
        ) from error
    if not _changes_are_alike([change_RC for _, change_RC in changes]):
        for place, change_RC in changes:
            _check_change(type(encoder).__name__, place, change_RC)
    done.add(size)


@contextmanager
def _state_restored(encoder: nn.Module) -> Iterator[None]:
    """Afterwards restore each module's mode and remove the hooks that transformers added: they prevent pickling."""
    before = {module: (module.training, set(module._forward_hooks), set(vars(module))) for module in encoder.modules()}
    try:
        yield
    finally:
        for module, (training, hooks, names) in before.items():
            module.training = training
            for key in set(module._forward_hooks) - hooks:
                del module._forward_hooks[key]
            if HOOK_MARK not in names:
                vars(module).pop(HOOK_MARK, None)


def _changes_are_alike(changes: list[Tensor]) -> bool:
    """Whether the tokens change in the same way wherever the image changes, as in deep stages with random weights.

    Then the order of the tokens cannot be checked, and no error is raised.
    """
    if len(changes) < 2:
        return False
    first, second = (change_RC.flatten() for change_RC in changes)
    return float(nn.functional.cosine_similarity(first, second, dim=0)) > SAME_CHANGE  # false for no change and for nan


def _check_change(name: str, place: tuple[int, int], change_RC: Tensor) -> None:
    largest = float(change_RC.max())
    if not bool(change_RC.isfinite().all()):
        raise SpatialBoostError(f"the tokens of {name} are not finite: check that its weights are loaded")
    if largest > 0 and float(change_RC[place]) >= REQUIRED_SHARE * largest:
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
    """Two places of the grid, and how much each token ``(R, C)`` changes when the patch at that place changes."""
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
            # noise pixels and uniform colours in turn: some encoders react only to one of the two
            shape = (3, bottom - top, right - left) if draw % 2 else (3, 1, 1)
            changed = image.clone()
            changed[0, :, top:bottom, left:right] = 3 * torch.randn(shape, generator=generator)
            tokens = read_tokens(encoder, changed.to(like), layer=layer).patches
            difference_ND = (tokens.float() - before.patches.float())[0].cpu()
            if rows * columns > 1:
                difference_ND = difference_ND - difference_ND.median(0).values
            change_N += difference_ND.norm(dim=-1) / (difference_ND.norm() + 1e-30)
        found.append(((row, column), change_N.view(rows, columns)))
    return found

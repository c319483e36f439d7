"""Record the outputs of chosen blocks while an encoder runs its own forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn


def block_outputs(blocks: Sequence[nn.Module], layers: Sequence[int], run: Callable[[], Any]) -> dict[int, Any]:
    """The outputs of the blocks with these indices during `run()`, by index."""
    found: dict[int, Any] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[index] = output

        return hook

    handles = [blocks[index].register_forward_hook(keep(index)) for index in set(layers)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {index: output[0] if isinstance(output, (tuple, list)) else output for index, output in found.items()}

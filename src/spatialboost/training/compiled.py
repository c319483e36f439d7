"""Compile the blocks of a model with `torch.compile` for the time of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of the models inside a module: the members of its lists and sequences of modules of one class.

    Example:
        >>> [block.in_features for block in repeated_blocks(nn.ModuleDict({"a": nn.ModuleList([nn.Linear(2, 2)] * 3)}))]
        [2]
    """
    found: dict[int, nn.Module] = {}
    for part in module.modules():
        if isinstance(part, (nn.ModuleList, nn.Sequential)) and len({type(block) for block in part}) == 1:
            found |= {id(block): block for block in part}
    inner = {id(each) for block in found.values() for each in block.modules() if each is not block}
    return [block for block in found.values() if id(block) not in inner]


@contextmanager
def compiled(module: nn.Module, *, backend: str = "inductor") -> Iterator[None]:
    """Compile each block inside a module, and undo it at the end. Names of parameters do not change.

    Blocks are compiled, and not the whole module: they have one shape of code, which is compiled once for all of them,
    and what is between them (reading tokens from a block, putting visual tokens into the text) depends on the data.

    Example:
        >>> with compiled(objective):  # doctest: +SKIP
        ...     train(objective)
    """
    blocks = repeated_blocks(module)
    for block in blocks:
        block.compile(backend=backend)
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None

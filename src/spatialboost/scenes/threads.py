"""How many threads the numerical libraries use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import torch


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Let torch and the libraries of linear algebra use so many threads inside of the block.

    Rendering and superpixels make many short calls. More threads do not make them faster, but each thread waits for the
    others in a loop that keeps its core busy: on a machine with other work, builds then become many times slower.

    Example:
        >>> with limited_threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    with ExitStack() as stack:
        with suppress(ModuleNotFoundError):  # part of the extra "data"; rooms alone do without it
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(count, "blas"))
        torch.set_num_threads(count)
        stack.callback(torch.set_num_threads, before)
        yield

"""A language model without its weights, from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.llms import Conversation, _smollm2_file, load_llm
from spatialboost.weights.hub import HubOptions


def outline_llm(
    name_or_path: str | Path = "smollm2",
    *,
    conversations: Iterable[Conversation] = (),
    dtype: torch.dtype = torch.float32,
    with_tokenizer: bool = False,
    **options: Any,
) -> tuple[Any, Any]:
    """The model that `load_llm` would load, on the meta device, and its tokenizer, or None without `with_tokenizer`.

    Example:
        >>> llm, tokenizer = outline_llm("small", width=32, layers=1, heads=2)
        >>> llm.config.n_embd, tokenizer.decode(tokenizer("2.341")["input_ids"])
        (32, '2.341')

    Of a model on the Hub only the configuration, and the tokenizer if it is asked for, are downloaded. A ``small``
    model is made as a whole.

    Args:
        name_or_path: As for `load_llm`.
        conversations: Lists of messages, for the vocabulary of ``"small"``.
        dtype: Type of the weights.
        with_tokenizer: Open the tokenizer too.
        **options: As for `load_llm`.

    Raises:
        SpatialBoostError: There is no such model, or its configuration is neither in the cache nor to be reached.
    """
    from spatialboost.encoders.foreign import load_tokenizer, outline_text_model

    if name_or_path == "small":
        return load_llm("small", conversations=conversations, dtype=dtype, **options)
    path, gguf, hub = str(name_or_path), options.pop("gguf_file", None), HubOptions.taken_from(options)
    if name_or_path == "smollm2":
        file = _smollm2_file()
        path, gguf = str(file.parent), file.name
    try:
        llm = outline_text_model(path, hub, gguf=gguf, dtype=dtype, kwargs=options)
        tokenizer = load_tokenizer(path, hub, gguf=gguf) if with_tokenizer else None
    except Exception as error:  # whatever a library raises for a config or arguments that it does not expect
        reason = " ".join(str(error).split())[:500]
        raise SpatialBoostError(
            f'cannot read the configuration of the language model "{name_or_path}": {reason} '
            'Expected "smollm2", "small", a folder or a Hub id'
        ) from error
    return llm, tokenizer

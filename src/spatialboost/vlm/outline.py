"""A language model without its weights, from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.llms import Conversation, _smollm2_file, load_llm
from spatialboost.weights.hub import HubOptions


def outline_llm(
    name_or_path: str | Path = "smollm2",
    *,
    conversations: Iterable[Conversation] = (),
    dtype: torch.dtype = torch.float32,
    quantization: Literal["8bit", "4bit"] | None = None,
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
        quantization: As for `load_llm`; bitsandbytes is not needed.
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
    if quantization is not None:
        _quantise(llm, quantization, dtype)
    return llm, tokenizer


def _quantise(llm: Any, bits: Literal["8bit", "4bit"], dtype: torch.dtype) -> None:
    """Put layers of the size of bitsandbytes' in the place of all linear layers but the output head."""
    head = llm.get_output_embeddings()
    for part in list(llm.modules()):
        for name, layer in list(part.named_children()):
            if isinstance(layer, nn.Linear) and layer is not head:
                setattr(part, name, _Quantised(layer, bits, dtype))
    llm.hf_quantizer = bits  # by which such a model is known


class _Quantised(nn.Module):
    """A linear layer whose weights have the size of those of bitsandbytes, and which needs the same memory in a step.

    Both unpack the weights for a moment, in forward and backward. The one with 8 bits also keeps its input.
    """

    def __init__(self, layer: nn.Linear, bits: Literal["8bit", "4bit"], dtype: torch.dtype) -> None:
        super().__init__()
        self.bits, self.dtype, self.shape = bits, dtype, tuple(layer.weight.shape)
        size, rows = layer.weight.numel(), layer.out_features
        packed, scales = (size, rows) if bits == "8bit" else (-(-size // 2), -(-size // 64))
        device = layer.weight.device
        self.register_buffer("packed", torch.empty(packed, dtype=torch.uint8, device=device))
        self.register_buffer("scales", torch.empty(scales, dtype=torch.float32, device=device))
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        own = x.to(self.dtype) if self.bits == "4bit" else x
        out = _Unpack.apply(own, self.packed, self.shape, self.bits == "8bit")
        return (out if self.bias is None else out + self.bias.to(out.dtype)).to(x.dtype)


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, shape: tuple[int, int], keep: bool) -> Tensor:
        ctx.shape, ctx.packed, ctx.x = shape, packed, x if keep else None
        return x @ packed.new_empty(shape, dtype=x.dtype).T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient @ ctx.packed.new_empty(ctx.shape, dtype=gradient.dtype), None, None, None

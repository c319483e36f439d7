"""The projector: features of the encoder become visual tokens that a language model can read."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from spatialboost.encoders import feature_dim
from spatialboost.encoders.standardise import Standardise
from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.llm_checks import word_scale

# Shape legend: I images, N patches or squares of pooled patches, D width of the encoder, E of the language model.

_GELU_RMS = 0.652  # root mean square of gelu(z) for standard normal z


def build_projector(
    encoder: nn.Module, llm: Any, *, tokens_per_cell: int = 1, standardise: bool = False
) -> nn.Sequential:
    """Two linear layers with a GELU between them, from the encoder's width to that of `tokens_per_cell` visual tokens.

    The weights are scaled so that tokens of unit variance get the root mean square of the language model's embeddings.
    With torch's default initialisation they would be ten times larger than the embeddings of a new GPT-2. With
    `standardise`, a `Standardise` comes first, which has measured nothing yet.
    """
    table = llm.get_input_embeddings()
    embeddings = table.weight
    width_in, width = feature_dim(encoder), embeddings.shape[1]
    into, out = nn.Linear(width_in, width), nn.Linear(width, tokens_per_cell * width)
    with torch.no_grad():
        # of what the module returns, not of its weights: Gemma's multiplies them by the root of the width
        ids = torch.arange(0 if embeddings.is_meta else len(embeddings), device=embeddings.device)
        squares = [float(table(part).float().square().mean()) for part in ids.split(8192) if len(part)]
        embedding_rms = word_scale(llm) * (sum(squares) / len(squares)) ** 0.5 if squares else 0.02
        nn.init.normal_(into.weight, std=width_in**-0.5)
        nn.init.normal_(out.weight, std=embedding_rms / (_GELU_RMS * width**0.5))
        nn.init.zeros_(into.bias)
        nn.init.zeros_(out.bias)
    layers = [into, nn.GELU(), out]
    return nn.Sequential(*([Standardise(width_in)] if standardise else []), *layers).to(embeddings.device)


@torch.no_grad()
def begin_at_digits(projector: nn.Sequential, llm: Any, tokenizer: Any) -> None:
    """Set the last bias to the mean embedding of the ten digits, once for each token of a cell.

    So visual tokens begin among the words with which depths are answered, and not at zero, where a language model has
    no words.

    Raises:
        SpatialBoostError: The tokenizer has no tokens for digits.
    """
    numbers = {each for digit in "0123456789" for each in _ids_of_digit(digit, tokenizer)}
    if not numbers:
        raise SpatialBoostError(
            "projector_start: digits needs a tokenizer with a token for a digit, and this one has none: use "
            "projector_start: random"
        )
    table = llm.get_input_embeddings()
    ids = torch.tensor(sorted(numbers), device=table.weight.device)
    mean_E = word_scale(llm) * table(ids).float().mean(0)
    bias = projector[-1].get_parameter("bias")
    bias.copy_(mean_E.repeat(bias.numel() // mean_E.numel()))


def _ids_of_digit(digit: str, tokenizer: Any) -> list[int]:
    """The token of a digit in a number such as 4.4: the whole digit, without a blank before it."""
    encoded = tokenizer(f"{digit}.{digit}", add_special_tokens=False)["input_ids"]
    texts = [tokenizer.decode([each]).strip() for each in encoded]
    return [each for each, text in zip(encoded, texts, strict=True) if re.fullmatch(digit, text)]

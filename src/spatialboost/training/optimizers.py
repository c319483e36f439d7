"""AdamW, and Muon for the matrices of a new language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer


def build_optimizer(groups: Sequence[dict[str, Any]], *, beta2: float, fused: bool) -> Optimizer:
    """An optimiser for parameter groups; those marked ``muon`` go to `torch.optim.Muon`, the rest to AdamW.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> groups = [{"params": [layer.weight], "lr": 0.02, "muon": True}, {"params": [layer.bias], "lr": 1e-3}]
        >>> [type(part).__name__ for part in build_optimizer(groups, beta2=0.95, fused=False).parts]
        ['Muon', 'AdamW']
    """
    plain = [{key: value for key, value in group.items() if key != "muon"} for group in groups]
    matrices = [group for group, marked in zip(plain, groups, strict=True) if marked.get("muon")]
    others = [group for group, marked in zip(plain, groups, strict=True) if not marked.get("muon")]
    adamw = AdamW(others, betas=(0.9, beta2), fused=fused)
    return MuonAdamW(torch.optim.Muon(matrices, weight_decay=0.0), adamw) if matrices else adamw


def muon_groups(module: Any, matrix_lr: float, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of a language model: the matrices of its blocks for Muon, embeddings and vectors for AdamW.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> llm = LlamaForCausalLM(LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...                                    num_attention_heads=2))
        >>> [(len(group["params"]), group.get("muon", False)) for group in muon_groups(llm, 0.02, 1e-3, 0.0)]
        [(7, True), (2, False), (3, False)]

    Source: Muon (Jordan et al., 2024): embeddings and the output head are not for it.
    """
    head = module.get_output_embeddings()
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding) or part is head}
    parameters: Iterable[nn.Parameter] = list(module.parameters())
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in tables]
    embeddings = [p for p in parameters if id(p) in tables]
    taken = {id(p) for p in (*matrices, *embeddings)}
    rest = [p for p in parameters if id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "lr": matrix_lr, "weight_decay": weight_decay, "muon": True},
        {"params": embeddings, "lr": lr, "weight_decay": weight_decay},
        {"params": rest, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class MuonAdamW(Optimizer):
    """Two optimisers as one: each has its own parameters, a schedule sees the groups of both.

    Example:
        >>> a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
        >>> both = MuonAdamW(torch.optim.Muon([a], lr=0.1), AdamW([b], lr=0.1))
        >>> (a.sum() + b.sum()).backward()
        >>> both.step()
        >>> bool((a < 1).all()), bool((b < 1).all())
        (True, True)
    """

    def __init__(self, muon: Optimizer, adamw: Optimizer) -> None:
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of both, one after the other."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # loading makes new group dictionaries
        self.param_groups = [*self.parts[0].param_groups, *self.parts[1].param_groups]

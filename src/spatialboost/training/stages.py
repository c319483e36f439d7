"""The three stages: what each trains, what it keeps frozen, and what it reads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from spatialboost.boosting import boost, param_groups, set_kernel, status
from spatialboost.boosting.channel import boosted_layers
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language import LanguageObjective
from spatialboost.training.config import AlignConfig, BoostConfig, InstructConfig, StageConfig
from spatialboost.training.data import ChatDataset
from spatialboost.training.engine import Fit, fit
from spatialboost.training.optimizers import muon_groups
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.model import SpatialVLM

logger = logging.getLogger(__name__)


def align(vlm: SpatialVLM, dataset: ChatDataset, stage: AlignConfig | None = None, **options: Any) -> Fit:
    """Stage 1, feature alignment: train the projector; encoder and language model are frozen.

    The encoder is run once over the images, not once a step.

    Example:
        >>> align(vlm, dataset, AlignConfig(steps=100), folder=Path("run/stage1"))  # doctest: +SKIP

    Args:
        vlm: Changed in place.
        dataset: Conversations.
        stage: How to train; None takes the defaults.
        **options: ``folder`` for checkpoints (needed), ``seed``, ``device``.

    Source: the paper's section 3.1; LLaVA-1.5.
    """
    stage = stage or AlignConfig()
    vlm.requires_grad_(False)
    vlm.projector.requires_grad_(True)
    return _teach(vlm, dataset, stage, decay_groups(vlm.projector, stage.lr, stage.weight_decay), "stage 1", **options)


def instruct(vlm: SpatialVLM, dataset: ChatDataset, stage: InstructConfig | None = None, **options: Any) -> Fit:
    """Stage 2, instruction tuning: train projector and language model; the encoder is frozen and run once.

    Example:
        >>> instruct(vlm, dataset, InstructConfig(epochs=1), folder=Path("run/stage2"))  # doctest: +SKIP

    Args:
        vlm: Changed in place.
        dataset: Conversations.
        stage: How to train; None takes the defaults.
        **options: ``folder`` for checkpoints (needed), ``seed``, ``device``.

    Source: the paper's section 3.1; LLaVA-1.5.
    """
    stage = stage or InstructConfig()
    vlm.requires_grad_(True)
    vlm.encoder.requires_grad_(False)
    groups = decay_groups(vlm.projector, stage.projector_lr or stage.lr, stage.weight_decay)
    groups += decay_groups(vlm.llm, stage.lr, stage.weight_decay)
    return _teach(vlm, dataset, stage, groups, "stage 2", **options)


def boost_encoder(vlm: SpatialVLM, dataset: ChatDataset, stage: BoostConfig | None = None, **options: Any) -> Fit:
    """Stage 3: boost the encoder and train Attn+ and the gates; its own weights and the language model are frozen.

    Only the blocks that the language model reads through are boosted. An encoder that is boosted is gone on with.

    Example:
        >>> boost_encoder(vlm, dataset, BoostConfig(epochs=1), folder=Path("run/stage3"))  # doctest: +SKIP

    Args:
        vlm: Changed in place, its encoder too.
        dataset: Conversations.
        stage: How to train; None takes the defaults.
        **options: ``folder`` for checkpoints (needed), ``seed``, ``device``.

    Source: the paper's section 3.1 (what is trained), equation 1 (the gates).
    """
    stage = stage or BoostConfig()
    vlm.requires_grad_(False)
    read = vlm.feature_layer
    if not boosted_layers(vlm.encoder):
        boost(vlm.encoder, layers=range(read + 1), gate=stage.gate)
    beyond = [layer.index for layer in status(vlm.encoder).layers if layer.index > read]
    if beyond:
        raise SpatialBoostError(
            f"layers {beyond} are boosted, but the language model reads the output of layer {read}, so nothing would "
            f"teach them: unboost the encoder, or boost it with layers=range({read + 1})"
        )
    set_kernel(vlm.encoder, stage.kernel)
    groups = param_groups(vlm.encoder, stage.lr, stage.weight_decay)
    if stage.train_projector:
        groups += decay_groups(vlm.projector, stage.lr, stage.weight_decay)
    for group in groups:
        for parameter in group["params"]:  # type: ignore[attr-defined]
            parameter.requires_grad_(True)
    logger.info("the encoder:\n%s", status(vlm.encoder))
    return _teach(vlm, dataset, stage, groups, "stage 3", features=False, **options)


def decay_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups for AdamW: matrices, and apart from them biases and norms, which do not decay.

    Example:
        >>> [(len(g["params"]), g["weight_decay"]) for g in decay_groups(nn.Linear(2, 2), 1e-3, 0.1)]
        [(1, 0.1), (1, 0.0)]
    """
    parameters = list(module.parameters())
    groups: list[dict[str, object]] = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _teach(
    vlm: SpatialVLM,
    dataset: ChatDataset,
    stage: StageConfig,
    groups: list[dict[str, object]],
    name: str,
    *,
    folder: Path,
    features: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> Fit:
    if features:
        dataset.images.cache_features(vlm.encoder, vlm.layer, file=folder.parent / "features.npy")
    if stage.matrix_lr is not None:
        groups = muon_groups(groups, stage.matrix_lr, tables=vlm.llm)
    if stage.checkpointing:
        _recompute_activations(vlm)
    return fit(
        LanguageObjective(vlm),
        dataset.with_features(features),
        groups,
        stage,
        folder=folder,
        collate=Collator(dataset.pad_token_id),
        seed=seed,
        device=device,
        name=name,
    )


def _recompute_activations(vlm: SpatialVLM) -> None:
    """Trade time for memory. Not reentrant: reentrant checkpoints give a frozen trunk no gradient (pitfall 8)."""
    parts: tuple[Any, Any] = (vlm.llm, vlm.encoder)
    for part in parts:
        if hasattr(part, "activation_checkpointing_enable"):  # the name since transformers 5.2x
            part.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        elif hasattr(part, "gradient_checkpointing_enable"):
            part.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif hasattr(part, "set_grad_checkpointing"):
            part.set_grad_checkpointing(True)

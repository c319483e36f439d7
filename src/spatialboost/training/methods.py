"""How a stage that boosts changes the encoder: Attn+, or in its place LoRA or all weights (the paper's Figure 6)."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spatialboost.boosting import boost, param_groups, set_kernel, status
from spatialboost.boosting.channel import boosted_layers, full_value
from spatialboost.boosting.find import find_attention
from spatialboost.boosting.select import select
from spatialboost.encoders import feature_layer, num_layers, read_tokens
from spatialboost.encoders.build import seeded
from spatialboost.encoders.learnt import FOLDERS, PREFIX, WHOLE, keep_precision
from spatialboost.errors import SpatialBoostError
from spatialboost.training.config import BoostStageConfig
from spatialboost.training.optimizers import groups_of
from spatialboost.weights.pretrained import save_pretrained
from spatialboost.weights.write import is_main

logger = logging.getLogger(__name__)

Groups = list[dict[str, Any]]


class Method(ABC):
    """One way to change the encoder; `METHODS` has all of them by name."""

    @abstractmethod
    def groups(
        self, encoder: nn.Module, layer: int, config: BoostStageConfig, *, size: tuple[int, int], seed: int
    ) -> Groups:
        """Prepare the encoder, in place; returns the parameter groups that the stage trains in it.

        Args:
            encoder: The encoder; all its parameters are frozen.
            layer: The block whose output is read.
            config: Settings of the stage.
            size: Height and width of the images in pixels.
            seed: Seed of new weights.
        """

    @abstractmethod
    def save(self, encoder: nn.Module, folder: Path, *, base: str | None, training: Mapping[str, Any]) -> None:
        """Save what was learnt, for `spatialboost.encoders.learnt.load_learnt`. Every process has to call it."""


class AttnPlus(Method):
    """Attn+ and gates beside the attention layers; see `spatialboost.boost`."""

    def groups(
        self, encoder: nn.Module, layer: int, config: BoostStageConfig, *, size: tuple[int, int], seed: int
    ) -> Groups:
        """Boost the blocks up to the one that is read. An encoder that is already boosted is not boosted again."""
        read = feature_layer(encoder, layer)
        if not boosted_layers(encoder):
            boost(encoder, layers=_blocks(encoder, read, config.layers), gate=config.gate)
        beyond = [each.index for each in status(encoder).layers if each.index > read]
        if beyond:
            raise SpatialBoostError(
                f"layers {beyond} are boosted, but the teacher reads the output of layer {read}, so they would get "
                f"no gradient: unboost the encoder, or boost it with layers=range({read + 1})"
            )
        set_kernel(encoder, config.kernel)
        logger.info("the encoder:\n%s", status(encoder))
        left = _left_out(encoder, config.projections)
        groups: list[dict[str, Any]] = [{**group} for group in param_groups(encoder, config.lr, config.weight_decay)]
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in left]
        return [group for group in groups if group["params"]]

    def save(self, encoder: nn.Module, folder: Path, *, base: str | None, training: Mapping[str, Any]) -> None:
        """Save a delta."""
        save_pretrained(encoder, folder, base=base, training=training)


class Lora(Method):
    """LoRA in the projections of the same attention layers, by peft.

    The paper compares it with Attn+ in Figure 6 and does not say which rank and which layers it takes.
    """

    def groups(
        self, encoder: nn.Module, layer: int, config: BoostStageConfig, *, size: tuple[int, int], seed: int
    ) -> Groups:
        """Add a LoRA to the chosen projections; one that the encoder already has is trained further."""
        from peft import LoraConfig, inject_adapter_in_model

        _check_plain(encoder, "lora")
        if not _lora_weights(encoder):
            blocks = _blocks(encoder, feature_layer(encoder, layer), config.layers)
            names = lora_targets(encoder, blocks, config.projections)
            options = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=names)
            with seeded(seed):
                inject_adapter_in_model(options, encoder)
            keep_precision(encoder)
            logger.info("LoRA of rank %d in %d layers: %s ...", config.lora_rank, len(names), names[0])
        return groups_of(_lora_weights(encoder), config.lr, config.weight_decay)

    def save(self, encoder: nn.Module, folder: Path, *, base: str | None, training: Mapping[str, Any]) -> None:
        """Save it in peft's own format: ``adapter_config.json`` and ``adapter_model.safetensors``."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        state = get_peft_model_state_dict(encoder, adapter_name="default")
        values = {f"{PREFIX}{name}": full_value(value).cpu().contiguous() for name, value in state.items()}
        if not is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_file(values, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config: Any = encoder.peft_config["default"]  # type: ignore[index]
        config.base_model_name_or_path, config.inference_mode = base, True
        config.save_pretrained(str(folder))


class Full(Method):
    """All weights of the encoder on which the tokens that are read depend: full fine-tuning."""

    def groups(
        self, encoder: nn.Module, layer: int, config: BoostStageConfig, *, size: tuple[int, int], seed: int
    ) -> Groups:
        """The parameters that get a gradient, found by one backward pass through a black image."""
        _check_plain(encoder, "full")
        odd = next((name for name, p in encoder.named_parameters() if not p.is_floating_point()), None)
        if odd is not None:
            raise SpatialBoostError(
                f"method: full cannot train {odd}, which is quantised; load the encoder without quantisation, or take "
                "attn+ or lora"
            )
        return groups_of(_read_parameters(encoder, layer, size), config.lr, config.weight_decay)

    def save(self, encoder: nn.Module, folder: Path, *, base: str | None, training: Mapping[str, Any]) -> None:
        """Save the whole encoder as one safetensors file, which ``encoder.weights`` takes."""
        from safetensors.torch import save_file

        values = {name: full_value(value).cpu().contiguous() for name, value in encoder.state_dict().items()}
        if is_main():
            folder.mkdir(parents=True, exist_ok=True)
            save_file(values, folder / WHOLE, metadata={"format": "pt"})


METHODS: dict[str, Method] = {"attn+": AttnPlus(), "lora": Lora(), "full": Full()}
assert METHODS.keys() == FOLDERS.keys()


def lora_targets(encoder: nn.Module, blocks: Sequence[int], projections: Sequence[str]) -> list[str]:
    """The names of the linear layers that hold these projections in these blocks.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> lora_targets(VisionTransformer(embed_dim=48, depth=2, num_heads=2), [1], ["q", "k", "v", "o"])
        ['blocks.1.attn.proj', 'blocks.1.attn.qkv']

    Raises:
        SpatialBoostError: A projection is no linear layer of its own.
    """
    names = set()
    for found in select(find_attention(encoder), list(blocks), encoder):
        kind = type(found.module).__name__
        slots = {role: slot for role, slot in found.family.slots(found.module).items() if role.endswith(".weight")}
        chosen = {slot.parameter for role, slot in slots.items() if role[0] in projections and role[1] == "."}
        _check_packed({role.partition(".")[0]: slot.parameter for role, slot in slots.items()}, projections, kind)
        for parameter in chosen:
            path = parameter.rpartition(".")[0]
            # peft runs nn.MultiheadAttention by changing its weights before each forward and back after it: they round
            if not path or isinstance(found.module, nn.MultiheadAttention):
                raise SpatialBoostError(
                    f"method: lora needs projections that are linear layers, and {found.name} ({kind}) has "
                    f"{parameter}: open this encoder from timm or transformers, or take attn+ or full"
                )
            names.add(f"{found.name}.{path}")
        if not chosen:
            raise SpatialBoostError(
                f"method: lora: the projections of {found.name} ({kind}) are not known: take attn+ or full"
            )
    return sorted(names)


def _blocks(encoder: nn.Module, read: int, wanted: Sequence[int] | None) -> list[int]:
    """The numbers of the blocks to change: those wanted, or all up to the one that is read."""
    if wanted is None:
        return list(range(read + 1))
    count = num_layers(encoder)
    chosen = sorted({number + count if number < 0 else number for number in wanted})
    wrong = [number for number in chosen if not 0 <= number <= read]
    if wrong:
        raise SpatialBoostError(
            f"layers are {list(wanted)}; expected blocks from 0 to {read}, the one whose output the teacher reads, or "
            f"negative numbers that count from the end of all {count}"
        )
    return chosen


def _left_out(encoder: nn.Module, projections: Sequence[str]) -> set[int]:
    """The parameters of Attn+ that belong to none of these projections. The norm of q belongs to q, and so on."""
    left: set[int] = set()
    for name, _, channel in boosted_layers(encoder):
        if {"q", "k", "v", "o"} <= set(projections):
            continue
        if not channel.slots:
            raise SpatialBoostError(
                f"projections are {list(projections)}, and which weights of {name} are which is not known: train all"
            )
        roles = {role: slot.parameter for role, slot in channel.slots.items()}
        _check_packed(roles, projections, name)
        owners = {"q_norm": "q", "k_norm": "k", "norm": "o"}  # the last is between the attention and the projection
        kept = {
            id(channel.plus(parameter))
            for role, parameter in roles.items()
            if owners.get(role.partition(".")[0], role.partition(".")[0]) in projections
        }
        left |= {id(p) for p in channel.parameters() if p is not channel.gate and id(p) not in kept}
    return left


def _check_packed(roles: Mapping[str, str], projections: Sequence[str], name: str) -> None:
    """Raise an error if one parameter holds a projection that is chosen and one that is not."""
    by_parameter: dict[str, set[str]] = {}
    for role, parameter in roles.items():
        by_parameter.setdefault(parameter, set()).add(role.partition(".")[0])
    for parameter, inside in by_parameter.items():
        if inside & set(projections) and inside - set(projections):
            raise SpatialBoostError(
                f"projections are {list(projections)}, and {parameter} of {name} holds {', '.join(sorted(inside))} "
                "together: choose all of them or none"
            )


def _lora_weights(encoder: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in encoder.named_parameters() if ".lora_" in name]


def _check_plain(encoder: nn.Module, method: str) -> None:
    if boosted_layers(encoder):
        raise SpatialBoostError(
            f"method: {method} goes in the place of Attn+, and the encoder is boosted: call unboost(encoder) first"
        )


def _read_parameters(encoder: nn.Module, layer: int, size: tuple[int, int]) -> list[nn.Parameter]:
    """The parameters on which the patch tokens after a block depend."""
    parameters = list(encoder.parameters())
    before = [p.requires_grad for p in parameters]
    first = parameters[0]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            patches = read_tokens(encoder, first.new_zeros(1, 3, *size), layer=layer).patches
            gradients = torch.autograd.grad(patches.sum(), parameters, allow_unused=True)
    finally:
        for parameter, needed in zip(parameters, before, strict=True):
            parameter.requires_grad_(needed)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]

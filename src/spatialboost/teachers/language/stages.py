"""The three stages as functions, to call from a script."""

from __future__ import annotations

from typing import Any

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language.chats import ChatDataset
from spatialboost.teachers.language.config import AlignConfig, BoostConfig, InstructConfig
from spatialboost.teachers.language.teacher import LanguageTeacher
from spatialboost.training.fit import Fit
from spatialboost.training.movement import state_digest
from spatialboost.training.stage import check_new_weights, check_ready, train_stage
from spatialboost.vlm.image_prompt import ImagePrompt
from spatialboost.vlm.model import SpatialVLM


def align(vlm: SpatialVLM, dataset: ChatDataset, stage: AlignConfig | None = None, **options: Any) -> Fit:
    """Stage 1, feature alignment: train the projector; encoder and language model are frozen.

    The encoder reads each image only once; its features are stored.

    Example:
        >>> align(vlm, dataset, AlignConfig(steps=100), folder=Path("run/stage1"))  # doctest: +SKIP

    Args:
        vlm: The model; it is changed in place.
        dataset: Training conversations.
        stage: Settings of the stage; None uses the defaults.
        **options: Arguments of `spatialboost.training.stage.train_stage`: ``folder`` for checkpoints (required),
            ``seed``, ``device``, ``workers``.

    Source: the paper's section 3.1; LLaVA-1.5.
    """
    return train_stage(_teacher(vlm, dataset), "stage1", stage or AlignConfig(), dataset, **options)


def instruct(vlm: SpatialVLM, dataset: ChatDataset, stage: InstructConfig | None = None, **options: Any) -> Fit:
    """Stage 2, instruction tuning: train projector and language model; the encoder is frozen.

    The encoder reads each image only once; its features are stored.

    Example:
        >>> instruct(vlm, dataset, InstructConfig(epochs=1), folder=Path("run/stage2"))  # doctest: +SKIP

    Args:
        vlm: The model; it is changed in place.
        dataset: Training conversations.
        stage: Settings of the stage; None uses the defaults.
        **options: The same as for `align`.

    Source: the paper's section 3.1; LLaVA-1.5.
    """
    return train_stage(_teacher(vlm, dataset), "stage2", stage or InstructConfig(), dataset, **options)


def boost_encoder(
    vlm: SpatialVLM,
    dataset: ChatDataset,
    stage: BoostConfig | None = None,
    *,
    held_out: ChatDataset | None = None,
    **options: Any,
) -> Fit:
    """Stage 3: boost the encoder and train Attn+ and the gates; its base weights and the language model are frozen.

    Only the blocks up to the one that the language model reads are boosted. An encoder that is already boosted is not
    boosted again.

    Example:
        >>> boost_encoder(vlm, dataset, BoostConfig(epochs=1), held_out=test, folder=Path("stage3"))  # doctest: +SKIP

    Args:
        vlm: The model; it and its encoder are changed in place.
        dataset: Training conversations.
        stage: Settings of the stage; None uses the defaults.
        held_out: Conversations that no stage trains on. The language model has to answer them better from the image
            than without it, or the stage is not begun (`BoostConfig.require_answers`). None does not measure it.
        **options: The same as for `align`.

    Raises:
        SpatialBoostError: The projector is new, and nothing has trained or loaded it: call `align` or `instruct` first,
            load its weights, or set `train_projector`. Or the language model does not answer from the image.

    Source: the paper's section 3.1 (what is trained), equation 1 (the gates).
    """
    stage = stage or BoostConfig()
    teacher = _teacher(vlm, dataset)
    new = {f"vlm.{name}": state_digest(weight) for name, weight in vlm.new_weights().items()}
    check_new_weights(teacher, {"stage3": stage}, "stage3", new)
    if held_out is not None:
        check_ready("stage3", teacher.readiness("stage3", stage, held_out))
    return train_stage(teacher, "stage3", stage, dataset, **options)


def _names(prompt: ImagePrompt | None) -> ImagePrompt | None:
    """The prompt, if it has names of cells; None is a plain one."""
    return None if prompt is None or prompt.form == "plain" else prompt


def _teacher(vlm: SpatialVLM, dataset: ChatDataset) -> LanguageTeacher:
    if _names(dataset.make_example.prompt) != _names(vlm.prompt):
        raise SpatialBoostError(
            f"the conversations have the prompt {dataset.make_example.prompt}, and the model has {vlm.prompt}: give "
            "both the same, as in ChatDataset(..., prompt=vlm.prompt)"
        )
    return LanguageTeacher(vlm, dataset.make_example.tokenizer, dataset.make_example.num_tokens)

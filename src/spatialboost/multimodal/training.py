"""Train a scene adapter, alone or with the language model, on visual instructions (Spa3-VLM)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from spatialboost.encoders.build import seeded
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.multimodal.adapter_file import load_adapter, save_adapter
from spatialboost.multimodal.attach import (
    ADAPTER,
    attach_adapter,
    check_adds_zero,
    find_adapter,
    require_adapter,
    scenes,
)
from spatialboost.multimodal.batches import MAX_LENGTH, InstructionCollator
from spatialboost.multimodal.conversations import Sample
from spatialboost.multimodal.latents import SceneEncoder
from spatialboost.multimodal.seam import Seam, find_seam, inner_model

logger = logging.getLogger(__name__)

LanguageModel = Literal["full", "lora", "frozen"]
FILE, TRAINED = "adapter.safetensors", "trained.safetensors"  # of a checkpoint; the second has all but the adapter
LORA, WHOLE = "lora", "model"  # folders of a finished training
MEASURED = 64  # samples by which the latents are standardised


def training_arguments(out: Path | str, **changes: Any) -> TrainingArguments:
    """The settings of Spa3-VLM, as arguments of transformers' Trainer.

    Example:
        >>> arguments = training_arguments("runs/spa3", max_steps=100)
        >>> arguments.learning_rate, arguments.gradient_accumulation_steps
        (1e-05, 8)

    A GPU takes one conversation at a time, and 8 before each step. With 8 GPUs, 64 conversations make a step; the
    number of GPUs is not in the released script.

    Args:
        out: Folder of the training.
        **changes: Arguments of `TrainingArguments` with other values.

    Source: Spa3R (arXiv 2602.21186), released training script of Spa3-VLM.
    """
    on_gpu = torch.cuda.is_available()
    warmup = "warmup_ratio" if "warmup_ratio" in TrainingArguments.__dataclass_fields__ else "warmup_steps"
    settings: dict[str, Any] = {
        "learning_rate": 1e-5,  # one rate for all that is trained
        "weight_decay": 0.01,
        warmup: 0.03,  # of all steps
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "max_grad_norm": 1.0,
        "bf16": on_gpu and torch.cuda.is_bf16_supported(),
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},  # else frozen layers would stop the gradient
        "save_steps": 500,
        "save_total_limit": 1,
        "logging_steps": 10,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    return TrainingArguments(output_dir=str(out), **{**settings, **changes})


def train_adapter(
    model: nn.Module,
    processor: Any,
    scene_encoder: SceneEncoder,
    samples: Sequence[Sample],
    arguments: TrainingArguments,
    *,
    llm: LanguageModel = "full",
    lora_rank: int = 64,
    max_length: int = MAX_LENGTH,
    resume: bool = False,
) -> Path:
    """Train the adapter of a vision-language model, and its language model; the vision tower stays as it is.

    Args:
        model: A vision-language model of transformers. It gets a new adapter, unless it has one.
        processor: Its processor.
        scene_encoder: Makes the scene latents; it is not trained.
        samples: Such as `VisualInstructions`.
        arguments: From `training_arguments`.
        llm: What is trained beside the adapter: ``full`` (embeddings, layers and head, as in the paper), ``lora``, or
            ``frozen``.
        lora_rank: Rank of the LoRA.
        max_length: Most tokens of a conversation.
        resume: Continue from the last checkpoint in the folder of the training, if there is one.

    Returns:
        The file of the adapter. Beside it lie ``lora/`` in peft's format, or ``model/``, the whole model without the
        adapter.

    Raises:
        SpatialBoostError: The latents do not fit the adapter, or the weights to train are in half precision.
    """
    if llm not in ("full", "lora", "frozen"):
        raise unknown("way to train the language model", llm, ("full", "lora", "frozen"))
    seam, out = find_seam(model), Path(str(arguments.output_dir))
    trained = _language_model(model, seam) if llm == "full" else []
    if any(p.dtype.itemsize < 4 for p in trained) and not arguments.deepspeed:
        raise SpatialBoostError(
            f"the language model is in half precision, in which steps of {arguments.learning_rate} are lost: load it "
            "with dtype=torch.float32 (bf16 computes in half precision nevertheless), or train it with llm='lora'"
        )
    if find_adapter(model) is None:
        attach_adapter(model, scene_encoder.width, seed=arguments.seed)
        check_adds_zero(require_adapter(model))
    adapter = require_adapter(model)
    if adapter.latent_width != scene_encoder.width:
        raise SpatialBoostError(
            f"the adapter reads latents of width {adapter.latent_width}; the scene encoder gives {scene_encoder.width}"
        )
    if adapter.adds_zero():  # it is new
        adapter.standard.measure(_some_latents(scene_encoder, samples))
    inner_model(model).requires_grad_(False)
    adapter.requires_grad_(True)
    if llm == "lora":
        trained = _add_lora(seam, lora_rank, arguments.seed)
    for parameter in trained:
        parameter.requires_grad_(True)
    trainer = _Trainer(
        scene_encoder,
        model=model,
        args=arguments,
        train_dataset=samples,
        data_collator=InstructionCollator(processor, max_length=max_length),
    )
    logger.info("%.2f M parameters are trained", sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6)
    checkpoint = _last_checkpoint(out) if resume else None
    trainer.train(resume_from_checkpoint=checkpoint)
    if not arguments.should_save:
        return out / FILE
    facts = {"steps": trainer.state.global_step, "llm": llm, "learning_rate": arguments.learning_rate}
    if left_out := getattr(samples, "left_out", None):
        logger.warning("%d rows were left out: %s", len(left_out), ", ".join(list(left_out)[:10]))
    if llm == "lora":
        _save_lora(seam, out / LORA)
    if llm == "full":
        whole: Any = inner_model(model)
        kept = {name: value for name, value in whole.state_dict().items() if f"{ADAPTER}." not in name}
        whole.save_pretrained(out / WHOLE, state_dict=kept)
        processor.save_pretrained(out / WHOLE)
    return save_adapter(model, out / FILE, training=facts)


@torch.no_grad()
def _some_latents(scene_encoder: SceneEncoder, samples: Sequence[Sample]) -> Tensor:
    """The latents ``(S, K, D)`` of evenly spaced samples that have frames."""
    places = sorted({round(i * (len(samples) - 1) / (MEASURED - 1)) for i in range(MEASURED)})
    found = [scene_encoder([sample.frames]) for place in places if (sample := samples[place]).frames]
    if not found:
        raise SpatialBoostError(f"none of {len(places)} samples has a frame, so there is no scene to read")
    return torch.cat(found)


class _Trainer(Trainer):
    """A Trainer that gives the scene latents of each batch to the model, and saves only what is trained."""

    def __init__(self, scene_encoder: SceneEncoder, **options: Any) -> None:
        super().__init__(**options)
        self.scene_encoder = scene_encoder

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a batch, whose `views` become its scene latents."""
        views = inputs.pop("views")
        width = self.scene_encoder.width
        with torch.no_grad():
            # A row without frames has no visual tokens that could read its latents
            found = iter(self.scene_encoder([each for each in views if each])) if any(views) else iter(())
            rows = [next(found) if each else None for each in views]
        like = next((row for row in rows if row is not None), torch.zeros(1, width))
        latents = torch.stack([torch.zeros_like(like) if row is None else row for row in rows])
        with scenes(model, latents):
            return super().compute_loss(model, inputs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        save_adapter(self.model, folder / FILE)  # type: ignore[arg-type]
        if others := _others(self.model):  # type: ignore[arg-type]
            save_file({name: p.detach().cpu().contiguous() for name, p in others.items()}, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_adapter(self.model, folder / FILE)  # type: ignore[type-var]
        others = _others(self.model)  # type: ignore[arg-type]
        saved = load_file(folder / TRAINED) if (folder / TRAINED).is_file() else {}
        if saved.keys() != others.keys():
            raise SpatialBoostError(
                f"{folder} is a checkpoint of a training with other trained weights: start it with the same `llm` and "
                "`lora_rank`, or in another folder"
            )
        with torch.no_grad():
            for name, parameter in others.items():
                parameter.copy_(saved[name])


def _others(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained beside the adapter, by name."""
    named = inner_model(model).named_parameters()
    return {name: p for name, p in named if p.requires_grad and f"{ADAPTER}." not in name}


def _language_model(model: nn.Module, seam: Seam) -> list[nn.Parameter]:
    """Embeddings, layers and head."""
    head: Any = inner_model(model).get_output_embeddings()  # type: ignore[operator]
    return [*seam.text.parameters(), *(head.parameters() if head is not None else ())]


def _add_lora(seam: Seam, rank: int, seed: int) -> list[nn.Parameter]:
    """Put LoRA into the linear layers of the language model, unless it has one; returns its weights."""
    from peft import LoraConfig, inject_adapter_in_model

    def weights() -> list[nn.Parameter]:
        return [p for name, p in seam.text.named_parameters() if ".lora_" in name]

    if not weights():
        names = [name for name, module in seam.text.named_modules() if isinstance(module, nn.Linear)]
        with seeded(seed):
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), seam.text)
    return weights()


def _save_lora(seam: Seam, folder: Path) -> None:
    """In peft's own format; the names are those inside of the language model."""
    from peft import get_peft_model_state_dict

    text: Any = seam.text
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(text, adapter_name="default")
    save_file({name: v.cpu().contiguous() for name, v in state.items()}, folder / "adapter_model.safetensors")
    text.peft_config["default"].save_pretrained(str(folder))


def _last_checkpoint(out: Path) -> str | None:
    """The last checkpoint that was written completely."""
    found = [path for path in out.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    last = max(found, key=lambda path: int(path.name.partition("-")[2]), default=None)
    return None if last is None else str(last)

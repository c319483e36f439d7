"""What answers questions: a vision-language model of transformers, a run of ours, or any function."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from spatialboost.encoders.device import to_device
from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError, StoppedError

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Answerer(Protocol):
    """A function from a prompt and images to a reply.

    `facts`, if it has such an attribute, is a dictionary for the result: replies of other facts are not resumed from.
    """

    def __call__(self, prompt: str, images: Sequence[Any], *, max_new_tokens: int) -> str:
        """The reply to a prompt about PIL images, in order; there may be none."""


class TransformersAnswerer:
    """A vision-language model of transformers with its processor; replies are the most likely tokens (greedy).

    Example:
        >>> answerer = TransformersAnswerer(model, processor)  # doctest: +SKIP
        >>> answerer("Which is closer?", [image], max_new_tokens=16)  # doctest: +SKIP

    The images come first in the message, then the prompt, as in lmms-eval.

    Args:
        model: A model that generates from images and text. Parts of it may be changed, such as a boosted vision tower.
        processor: Its processor, with a chat template.
        name: Its name in the result.

    Raises:
        SpatialBoostError: The processor has no chat template.
    """

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        self.model, self.processor = model.eval(), processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        if not getattr(processor, "chat_template", None) and not getattr(self.tokenizer, "chat_template", None):
            raise SpatialBoostError(
                f"{name or type(model).__name__} has no chat template: give a model that was trained to answer"
            )
        weight = next(model.parameters())
        self.facts = {
            "model": name or type(model).__name__,
            "class": type(model).__name__,
            "dtype": str(weight.dtype).removeprefix("torch."),
        }

    @torch.inference_mode()
    def __call__(self, prompt: str, images: Sequence[Any], *, max_new_tokens: int) -> str:
        """The reply; what the processor or the model refuses is an error that names the reason."""
        content: list[dict[str, Any]] = [{"type": "image"} for _ in images]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
        try:
            text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            shown = {"images": [list(images)]} if images else {}
            inputs = self.processor(text=[text], **shown, return_tensors="pt")
            weight = next(self.model.parameters())
            inputs = {name: _placed(value, weight) for name, value in inputs.items()}
            # Sampling settings of a model's own file do not count, and would only make transformers warn
            plain = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
            ids = self.model.generate(
                **inputs, **plain, max_new_tokens=max_new_tokens, pad_token_id=self.tokenizer.pad_token_id
            )
        except torch.OutOfMemoryError as error:
            raise StoppedError(
                f"the memory of {next(self.model.parameters()).device} is full: use fewer frames"
            ) from error
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SpatialBoostError(f"the model cannot be asked with {len(images)} images: {reason}") from error
        return self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def open_answerer(model: str | Path | Answerer, *, dtype: str = "auto", device: str = "auto") -> Answerer:
    """The answerer of a model.

    Example:
        >>> open_answerer(lambda prompt, images, *, max_new_tokens: "A")("Which?", [], max_new_tokens=4)
        'A'

    Args:
        model: The folder of a vision-language model of transformers, or its id, if it is in the Hub's cache on this
            machine; nothing is downloaded. Or the folder of a run of ``spatialboost train`` with the teacher
            ``language``, or of one stage of it. Or a function, see `Answerer`.
        dtype: Dtype of the weights of a model of transformers: ``auto`` as they are stored, or ``float32``,
            ``bfloat16``, ``float16``. A run of ours keeps its own.
        device: ``auto``, or a name of torch.

    Raises:
        SpatialBoostError: It cannot be opened.
    """
    if callable(model):
        return model
    if dtype not in DTYPES:
        raise SpatialBoostError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    folder = user_path(model)
    if folder.is_dir():
        from spatialboost.evaluation.run_answerer import is_run, open_run

        if is_run(folder):
            return open_run(folder, device=device)
    return _of_transformers(str(folder if folder.is_dir() else model), folder.is_dir(), dtype, device)


def _of_transformers(name: str, is_folder: bool, dtype: str, device: str) -> TransformersAnswerer:
    from transformers import AutoModelForImageTextToText

    from spatialboost.encoders.foreign import load_transformers, load_whole_processor
    from spatialboost.weights.hub import HubOptions

    if is_folder and not (Path(name) / "config.json").is_file():
        raise SpatialBoostError(
            f"{name} has no config.json; expected the folder of a model of transformers, or of a run of "
            "`spatialboost train`"
        )
    options = HubOptions(local_files_only=True)
    wanted: Any = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        model = load_transformers(
            name, options, cls=AutoModelForImageTextToText, pretrained=True, dtype=wanted, kwargs={}
        )
        processor = load_whole_processor(name, options)
    except SpatialBoostError:
        raise
    except Exception as error:  # whatever transformers raises for a config or for weights that it does not expect
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SpatialBoostError(f"cannot load the vision-language model {name!r}: {reason}") from error
    return TransformersAnswerer(to_device(model, device), processor, name=Path(name).name if is_folder else name)


def facts_of(answerer: Answerer) -> dict[str, Any]:
    """What an answerer says of itself, or the name of a function."""
    facts: Mapping[str, Any] | None = getattr(answerer, "facts", None)
    if facts is None:
        return {"model": getattr(answerer, "__qualname__", type(answerer).__name__)}
    return dict(json.loads(json.dumps(facts)))


def _placed(value: Any, weight: torch.Tensor) -> Any:
    """A tensor on the model's device; images also in its dtype."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)

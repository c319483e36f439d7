"""The extractor that runs a language model of transformers on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from spatialboost.errors import SpatialBoostError, StoppedError
from spatialboost.scenes.extract.language import prompts
from spatialboost.scenes.extract.language.requests import Reply, Request, check_options, make_additions, make_requests
from spatialboost.scenes.extract.networks import Network, run_in_groups
from spatialboost.scenes.extract.protocol import Addition, PartialCues

MAX_TOKENS = {"caption": 200, "vqa": 1500, "scene_vqa": 1500}  # of one answer


class LocalVlm:
    """Captions and question-answer pairs of a language model of transformers, with images or from text.

    Example::

        extractor = open_extractor("local-vlm", model="HuggingFaceTB/SmolVLM-256M-Instruct", device="cuda")
        views = Extracted(source, [extractor])

    Answers are the most likely ones (no sampling), so that the same views give the same texts. A view whose answer
    cannot be used keeps its other turns, and ``facts["dropped"]`` counts the reasons.

    Args:
        model: a folder, or ``user/name`` on the Hub: a model of ``AutoModelForImageTextToText`` that chats.
        images: False takes a model that reads only text (``AutoModelForCausalLM``). It gets what is known of the
            objects.
        what: "caption", "vqa" (question-answer pairs) or "both".
        pairs: number of pairs of each of the three styles.
        batch_size: number of requests that the model answers together.
        revision, device, dtype: see `Network`.

    Raises:
        SpatialBoostError: the model cannot be used, or an option is wrong.
    """

    kind = "text"

    def __init__(
        self,
        *,
        model: str = "",
        images: bool = True,
        what: str = "both",
        pairs: int = 2,
        batch_size: int = 8,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        check_options(what, pairs, images)
        if not model:
            raise SpatialBoostError("the extractor local-vlm needs a model: local-vlm:model=FOLDER_OR_HUB_ID")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise SpatialBoostError(f"batch_size is {batch_size!r}; expected at least 1")
        self.what, self.images, self.pairs, self.batch_size = what, images, pairs, batch_size
        task = "AutoModelForImageTextToText" if images else "AutoModelForCausalLM"
        self.network = Network(task, model, revision=revision, device=device, dtype=dtype, words=True)
        self.provenance = {**self.network.provenance, "prompts": prompts.VERSION}
        self.name = f"{what} of {self.network.label}" + ("" if what == "caption" else f" with {pairs} pairs of a style")

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        requests = make_requests(views, what=self.what, pairs=self.pairs, images=self.images)
        # Requests of one kind and with one number of images go through together
        replies = run_in_groups(
            requests, lambda request: (request.key, len(request.images_HW3)), self._answer, self.batch_size
        )
        return make_additions(views, requests, replies)

    def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answers to requests of one kind."""
        processor = self.network.processor
        tokenizer = getattr(processor, "tokenizer", processor)
        if not getattr(processor, "chat_template", None) and not getattr(tokenizer, "chat_template", None):
            raise StoppedError(
                f"{self.network.name} has no chat template: give a model that was trained to answer (an instruct model)"
            )
        tokenizer.padding_side = "left"  # so that every prompt ends where its answer begins
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        texts = [
            processor.apply_chat_template(_messages(request), tokenize=False, add_generation_prompt=True)
            for request in requests
        ]
        inputs: dict[str, Any] = {"text": texts, "padding": True, "return_tensors": "pt"}
        if requests[0].images_HW3:
            inputs["images"] = [[Image.fromarray(image) for image in request.images_HW3] for request in requests]
        limit = MAX_TOKENS[requests[0].key]
        with self.network.running():
            tensors = processor(**inputs)
            tensors = self.network.place(tensors) if self.images else tensors.to(self.network.device)
            ids = self.network.model.generate(
                **tensors, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )[:, tensors["input_ids"].shape[1] :]
        ends = _end_tokens(self.network.model, tokenizer)
        return [
            Reply(tokenizer.decode(row, skip_special_tokens=True).strip(), cut=not ends & set(row.tolist()))
            for row in ids.cpu()
        ]


def _messages(request: Request) -> list[dict[str, Any]]:
    """The conversation in the form of chat templates. A system message is left out: many templates refuse it."""
    text = f"{prompts.SYSTEM}\n\n{request.prompt}"
    if not request.images_HW3:
        return [{"role": "user", "content": text}]
    content: list[dict[str, Any]] = [{"type": "image"} for _ in request.images_HW3]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens with which an answer ends."""
    found = model.generation_config.eos_token_id
    ends = {found} if isinstance(found, int) else set(found or ())
    return ends | {tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}

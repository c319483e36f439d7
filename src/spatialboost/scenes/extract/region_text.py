"""What each object is, said by a network that captions the part of the image where it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from spatialboost.scenes.cues import SceneObject
from spatialboost.scenes.extract.naming import name_objects
from spatialboost.scenes.extract.networks import Network, run_in_groups
from spatialboost.scenes.extract.protocol import Addition, PartialCues

PROMPT = (
    "One thing in this picture is sharp and everything around it is blurred. Name that thing in two to six words, with "
    "its colour or material, such as: red wooden chair. Answer with the name only."
)

_AT_ONCE = 8  # crops in one call of the network
_MARGIN = 0.15  # of the longer side of an object's box, on each side of the crop
_BLUR = 0.04  # radius over the longer side of the crop
_MAX_WORDS = 8
_TOKENS = 24

_MARKUP = re.compile(r"<[^<>]*>|\[/?[A-Z_]+\]|&[a-z]+;|&#\d+;")  # <image>, <|im_end|>, </b>, [INST], &lt;
_QUOTES = re.compile("[\"`*_\u2018-\u201f\u00ab\u00bb]|(?<![^\\W\\d_])'|'(?![^\\W\\d_])")  # not the one in "man's"
_ROLE = re.compile(r"^\s*(assistant|user|system|answer)\s*:\s*", re.IGNORECASE)
_INTRODUCTION = re.compile(
    r"^(there (is|are)|this is|it is|it's|the (picture|image|photo|sharp thing|thing) (shows|is|of)"
    r"|(an? |the )?(blurry |close[ -]?up )?(picture|image|photo|photograph|close[ -]?up|view|name)( view)? (of|is))\s+"
)
_ARTICLE = re.compile(r"^(an?|the|this|that|these|those|some|one|its?|his|her|their|my|your)\s+")
# What follows says where the thing is, or begins a second statement. Places are those in the crop, not in the image.
_REST = re.compile(
    r"\s*([.,:!?]\s|\s(that|which|who|is|are|was|sits|sitting there)\s|\s(against|in front of) (a|the)\s"
    r"|\s(on|at|in|to) the (far )?(left|right|top|bottom|middle|cent(er|re)|corner|side|foreground|background)\b"
    r"|\swith (a|the)? ?blur).*$"
)


class RegionText:
    """The extractor ``region-text``: objects get the names that a captioning network gives them.

    Each object is cut out of the image with a margin, and what does not belong to it is blurred. A name is cleaned, see
    `clean_phrase`, and made unique in the view with colour and place. An object without a usable name keeps the
    description that it has. ``facts["region_text"]`` counts the names that had ``markup`` (such as ``<image>``) and
    those that were ``unusable``.

    Args:
        model: a vision-language model with a chat template, or a captioner such as BLIP: a folder, or ``user/name`` on
            the Hub.
        prompt: what a model that chats is asked. For a captioner, the beginning of its text; Florence-2 needs
            ``"<CAPTION>"``.
        revision, device, dtype: see `Network`.

    Raises:
        SpatialBoostError: the model cannot be loaded.
    """

    kind = "text"

    def __init__(
        self,
        *,
        model: str = "HuggingFaceTB/SmolVLM-256M-Instruct",
        prompt: str = "",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        self.network = Network(
            "AutoModelForImageTextToText", model, revision=revision, device=device, dtype=dtype, words=True
        )
        self.provenance = self.network.provenance
        self.prompt = prompt
        self.name = f"region-text ({self.network.label}{f', prompt {prompt!r}' if prompt else ''})"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        """The objects of each view with their names, and the counts in ``facts``."""
        crops = [cut_out(view.image_HW3, thing.mask_HW) for view in views for thing in view.objects]
        said = run_in_groups(crops, lambda _: None, self.captions, _AT_ONCE)
        additions: list[Addition] = []
        for view in views:
            own, said = said[: len(view.objects)], said[len(view.objects) :]
            additions.append(_renamed(view, own))
        return additions

    def captions(self, crops: Sequence[np.ndarray]) -> list[str]:
        """What the network says to each crop, as it says it; greedy, so that the same crops give the same texts."""
        if not crops:
            return []
        processor, model = self.network.processor, self.network.model
        images = [Image.fromarray(crop) for crop in crops]
        texts, chats = self._texts(len(images)), self._chats()
        if chats:
            processor.tokenizer.padding_side = "left"
        more: dict[str, Any] = {} if texts is None else {"text": texts, "padding": True}
        with self.network.running():
            nested = [[image] for image in images] if chats else images
            inputs = self.network.place(processor(images=nested, return_tensors="pt", **more))
            ids = model.generate(**inputs, max_new_tokens=_TOKENS, do_sample=False)
        if chats and not model.config.is_encoder_decoder:
            ids = ids[:, inputs["input_ids"].shape[1] :]  # without the question
        return processor.batch_decode(ids, skip_special_tokens=True)

    def _chats(self) -> bool:
        return bool(getattr(self.network.processor, "chat_template", None))

    def _texts(self, num: int) -> list[str] | None:
        """What the network is asked with each crop; None for a captioner without a prompt."""
        if not self._chats():
            return [self.prompt] * num if self.prompt else None
        content = [{"type": "image"}, {"type": "text", "text": self.prompt or PROMPT}]
        message = [{"role": "user", "content": content}]
        return [self.network.processor.apply_chat_template(message, add_generation_prompt=True)] * num


def cut_out(image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The part of an image around a mask; what is not in the mask is blurred.

    Example:
        >>> mask = np.zeros((100, 200), bool)
        >>> mask[40:60, 100:140] = True
        >>> cut_out(np.zeros((100, 200, 3), np.uint8), mask).shape
        (32, 52, 3)
    """
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    margin = round(_MARGIN * max(np.ptp(rows) + 1, np.ptp(columns) + 1))
    top, left = max(rows[0] - margin, 0), max(columns[0] - margin, 0)
    window = np.s_[top : rows[-1] + 1 + margin, left : columns[-1] + 1 + margin]
    crop_HW3 = np.ascontiguousarray(image_HW3[window])
    blur = ImageFilter.GaussianBlur(max(1.0, _BLUR * max(crop_HW3.shape[:2])))
    around_HW3 = np.asarray(Image.fromarray(crop_HW3).filter(blur))
    return np.where(mask_HW[window][..., None], crop_HW3, around_HW3)


def clean_phrase(text: str) -> tuple[str, bool]:
    r"""A short noun phrase without an article, and whether the text had markup.

    Example:
        >>> clean_phrase('<image>A photo of a "red chair" on the left.\nIt is old.<|im_end|>')
        ('red chair', True)

    Only the first line is used. Markup, quotes and control characters are removed, as are an introduction, the article,
    a place, and what follows the first comma or full stop. The phrase is "" if nothing is left, if it has more than
    eight words or no letter, or if it still contains a character that markup begins with.
    """
    found = _MARKUP.sub(" ", text)
    markup = found != text
    lines = [line for line in re.split(r"[\r\n\u2028\u2029]|\\n", found) if line.strip()]
    line = _ROLE.sub("", lines[0]) if lines else ""
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    phrase = " ".join(_QUOTES.sub(" ", line.replace("\u2019", "'")).split()).lower()
    for pattern in (_INTRODUCTION, _ARTICLE):
        phrase = pattern.sub("", phrase)
    phrase = _REST.sub("", f"{phrase} ").strip(" .,;:!?-")
    usable = re.search(r"[^\W\d_]", phrase) and not re.search(r"[<>{}|\[\]&]", phrase)
    return (phrase if usable and len(phrase.split()) <= _MAX_WORDS else ""), markup


def _renamed(view: PartialCues, texts: Sequence[str]) -> dict[str, Any]:
    cleaned = [clean_phrase(text) for text in texts]
    phrases = [phrase for phrase, _ in cleaned]
    asked = [(thing.mask_HW, phrase) for thing, phrase in zip(view.objects, phrases, strict=True) if phrase]
    named = {id(thing.mask_HW): thing for thing in name_objects(view.image_HW3, asked)}
    taken = {thing.description for thing in named.values()}
    objects: list[SceneObject] = []
    for thing in view.objects:
        new = named.get(id(thing.mask_HW))
        if new is not None:
            objects.append(new)
        elif thing.description not in taken:
            objects.append(thing)
    counts = {"markup": sum(markup for _, markup in cleaned), "unusable": phrases.count("")}
    return {"objects": objects, "facts": {**view.facts, "region_text": counts}}

"""Keep views that show several kinds of things, as CLIP or SigLIP sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.grounded import read_names
from spatialboost.scenes.extract.networks import Network, run_by_size
from spatialboost.scenes.extract.panoptic import check_threshold
from spatialboost.scenes.extract.protocol import Addition, PartialCues

# Shape legend: B = images, N = names.

_THINGS = (
    "person. dog. cat. bird. horse. car. bus. bicycle. motorcycle. boat. train. traffic light. bench. chair. sofa. "
    "bed. table. desk. lamp. plant. picture. mirror. window. door. shelf. cabinet. book. television. laptop. "
    "telephone. clock. bag. bottle. cup. bowl. plate. food. fruit. toy. ball. umbrella. box"
)
_TEMPLATE, _NEUTRAL = "a photo of a {}", "a photo"


class OpenVocabulary:
    """The extractor ``open-vocabulary``: views in which a network sees too few kinds of things are left out.

    The paper filters its images so that several objects are present; its prompts and its threshold are not known. Here
    a thing counts as seen if the network finds the text "a photo of a THING" more likely than ``threshold``: for SigLIP
    and SigLIP 2 by the probability that they give, for CLIP, which only compares texts, against "a photo".
    ``facts["seen"]`` has the probability of each thing.

    Args:
        prompts: things: a list, or a text with full stops or semicolons between them. Default: 42 everyday things.
        threshold: smallest probability of a thing that counts as seen, 0 to 1. Those of SigLIP are low: try 0.05.
        least: smallest number of things that must be seen.
        model: CLIP, SigLIP or SigLIP 2: a folder, or ``user/name`` on the Hub.
        revision, device, dtype: see `Network`.

    Raises:
        SpatialBoostError: there is no prompt, the model cannot be loaded, or a number is out of its range.
    """

    kind = "filter"

    def __init__(
        self,
        *,
        prompts: str | Sequence[str] = _THINGS,
        threshold: float = 0.05,
        least: int = 2,
        model: str = "google/siglip2-base-patch16-224",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        check_threshold(threshold)
        self.prompts = read_names(prompts)
        if not 1 <= least <= len(self.prompts):
            raise SpatialBoostError(f"least is {least}; expected 1 to {len(self.prompts)}, the number of prompts")
        self.threshold, self.least = threshold, least
        self.network = Network(
            "AutoModelForZeroShotImageClassification",
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            words=True,
        )
        self.provenance = self.network.provenance
        asked = f"at least {least} above {threshold:g} of: {', '.join(self.prompts)}"
        self.name = f"open-vocabulary ({self.network.label}, {asked})"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        found = run_by_size([view.image_HW3 for view in views], lambda images: list(self.probabilities(images)))
        return [self._judge(view, scores_N) for view, scores_N in zip(views, found, strict=True)]

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The probability of each thing in each image: float ``(B, N)``."""
        import torch

        texts = [_TEMPLATE.format(name) for name in self.prompts] + [_NEUTRAL]
        model, processor = self.network.model, self.network.processor
        # SigLIP was trained with texts of one length
        length: dict[str, Any] = {"padding": True}
        if sigmoid := hasattr(model, "logit_bias"):
            length = {"padding": "max_length", "max_length": model.config.text_config.max_position_embeddings}
        with self.network.running():
            inputs = processor(text=texts, images=list(images), return_tensors="pt", truncation=True, **length)
            logits = model(**self.network.place(inputs)).logits_per_image.float()
            things, neutral = logits[:, :-1], logits[:, -1:]
            return torch.sigmoid(things if sigmoid else things - neutral).cpu().numpy()

    def _judge(self, view: PartialCues, scores_N: np.ndarray) -> Addition:
        if not np.isfinite(scores_N).all():
            return CuesError(f"{view.source}: {self.network.name} gives probabilities that are not numbers")
        scores = dict(zip(self.prompts, scores_N.tolist(), strict=True))
        seen = [name for name, score in scores.items() if score >= self.threshold]
        if len(seen) < self.least:
            name, score = max(scores.items(), key=lambda pair: pair[1])
            return CuesError(
                f"{view.source}: {len(seen)} of {len(scores)} kinds of things are seen (the clearest is {name}, "
                f"{score:.3g}); expected at least {self.least} above {self.threshold:g}"
            )
        return {"facts": {**view.facts, "seen": {name: round(score, 4) for name, score in scores.items()}}}

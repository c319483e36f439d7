"""Our models in lmms-eval: ``lmms-eval --model spatialboost --model_args model=OUT``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm.auto import tqdm

from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation.answerer import open_answerer
from spatialboost.evaluation.frames import read_frames


class SpatialBoostModel(lmms):
    """A model of ours, or any vision-language model of transformers, as a model class of lmms-eval.

    Args:
        model: See `open_answerer`.
        frames: Frames of a video.
        text_only: Leave the images out, for the text-only baseline.
        dtype: See `open_answerer`.
        device: See `open_answerer`.
        batch_size: Not used; lmms-eval gives it to every model. Requests are answered one by one.
        max_batch_size: Not used.
    """

    is_simple = True

    def __init__(
        self,
        model: str,
        frames: int = 32,
        text_only: bool = False,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: Any = 1,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        self.answerer = open_answerer(model, dtype=dtype, device=device or "auto")
        self.frames, self.text_only = int(frames), str(text_only).lower() == "true"

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The replies; a reply ends before any of the task's ``until``."""
        replies = []
        for request in tqdm(requests, desc="spatialboost", disable=self.rank != 0):
            prompt, options, doc_to_visual, doc_id, task, split = request.args
            images = [] if self.text_only else self._look(doc_to_visual(self.task_dict[task][split][doc_id]))
            reply = self.answerer(prompt, images, max_new_tokens=int(options.get("max_new_tokens", 1024)))
            until = options.get("until") or []
            for ending in [until] if isinstance(until, str) else until:
                reply = reply.partition(ending)[0] if ending else reply
            replies.append(reply)
        return replies

    def _look(self, visuals: Any) -> list[Any]:
        """PIL images; a path is a video."""
        images: list[Any] = []
        for each in [] if visuals is None else visuals if isinstance(visuals, (list, tuple)) else [visuals]:
            images += read_frames(each, self.frames) if isinstance(each, str) else [each.convert("RGB")]
        return images

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not there: the tasks of spatial questions generate."""
        raise SpatialBoostError("this model only generates; choose tasks of the output type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not there: the tasks of spatial questions ask once."""
        raise SpatialBoostError("this model answers one question at a time; choose tasks of one round")


def manifest() -> ModelManifest:
    """What lmms-eval reads at the entry point ``lmms_eval.models``."""
    return ModelManifest("spatialboost", simple_class_path=f"{__name__}.{SpatialBoostModel.__name__}")

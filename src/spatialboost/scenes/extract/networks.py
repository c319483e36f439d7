"""Networks of transformers for extractors: a model by its task, its processor, where it runs, and where it is from."""

from __future__ import annotations

import errno
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.scenes.paths import user_path

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
UNKNOWN_LICENCE = "not known, see the model's page"
# Licences of models whose card on the Hub names none, as their authors' repositories state them:
# github.com/facebookresearch/Mask2Former, github.com/openai/CLIP, github.com/DepthAnything/Depth-Anything-V2
LICENCES = {
    "facebook/mask2former": "mit",
    "openai/clip": "mit",
    "depth-anything/Depth-Anything-V2-Metric-Indoor-Small": "apache-2.0",
    "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small": "apache-2.0",
    "depth-anything/Depth-Anything-V2-": "cc-by-nc-4.0",
}


class Network:
    """A model of transformers and its processor. They are loaded when they are first needed.

    Args:
        task: name of a class of transformers for the task, such as ``"AutoModelForMaskGeneration"``.
        model: a folder, or ``user/name`` on the Hub.
        revision: branch, tag or commit on the Hub.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``"auto"`` takes a GPU if there is one.
        dtype: of the weights: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        words: whether the processor also takes text.

    Raises:
        SpatialBoostError: the device or the dtype is unknown, or the model does not exist or has another task.
    """

    def __init__(
        self, task: str, model: str, *, revision: str | None, device: str, dtype: str, words: bool = False
    ) -> None:
        from spatialboost.encoders.foreign import explain_model_errors, find_origin

        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        self.task, self.name, self.words = task, model, words
        self.device, self.dtype = find_device(device), dtype
        with explain_model_errors(model):
            self._origin = find_origin(model, revision)
            _check_task(task, self._origin.config, model)
        self.short = short_name(model)
        licence = self._origin.licence or licence_of(model)
        self.provenance = {"model": self.short, "revision": self._origin.revision, "licence": licence}
        self._loaded: tuple[Any, Any] | None = None
        log.info("%s: %s, revision %s, licence %s", task, model, self._origin.revision, licence)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}  # each process loads it again

    @property
    def config(self) -> dict[str, Any]:
        """The content of its config.json."""
        return self._origin.config

    @property
    def label(self) -> str:
        """Name, revision and dtype: what decides the results. It is the same wherever a folder lies."""
        return f"{self.short} {self._origin.revision[-8:]} {self.dtype}"

    @property
    def model(self) -> Any:
        """The model in evaluation mode on the device."""
        return self._load()[0]

    @property
    def processor(self) -> Any:
        """The processor of the model, or its image processor."""
        return self._load()[1]

    def place(self, inputs: Any) -> Any:
        """The output of the processor on the device of the model; floating point numbers get the dtype of the model."""
        return inputs.to(self.device, self.model.dtype)

    @contextmanager
    def running(self) -> Iterator[None]:
        """No gradients; if the device has too little memory, an `OSError` with the name of the model."""
        import torch

        with torch.inference_mode():
            try:
                yield
            except torch.OutOfMemoryError as error:
                raise OSError(errno.ENOMEM, f"{self.name} needs more memory than {self.device} has") from error

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            import transformers

            from spatialboost.encoders.foreign import (
                explain_model_errors,
                load_processor,
                load_transformers,
                load_whole_processor,
            )

            with explain_model_errors(self.name):
                processor = (load_whole_processor if self.words else load_processor)(self.name, self._origin.options)
                if processor is None:
                    raise SpatialBoostError(f"{self.name} has no preprocessor_config.json of an image processor")
                model = load_transformers(
                    self.name,
                    self._origin.options,
                    cls=getattr(transformers, self.task),
                    pretrained=True,
                    dtype=getattr(torch, self.dtype),
                    kwargs={},
                )
            self._loaded = model.eval().requires_grad_(False).to(self.device), processor
        return self._loaded


def licence_of(model: str) -> str:
    """The licence of a model whose card names none.

    Example:
        >>> licence_of("openai/clip-vit-base-patch32")
        'mit'
    """
    return next((licence for start, licence in LICENCES.items() if model.startswith(start)), UNKNOWN_LICENCE)


def short_name(model: str) -> str:
    """How a data set names a model: a folder by its own name only, without the path on this machine.

    Example:
        >>> short_name("user/name")
        'user/name'
    """
    folder = user_path(model)
    return folder.resolve().name if folder.is_dir() else model


def run_by_size(images: Sequence[np.ndarray], run: Callable[[list[np.ndarray]], list[Any]]) -> list[Any]:
    """The results of `run` for images that it gets in groups of one size, in the order of the images.

    Example:
        >>> wide, tall = np.zeros((2, 3, 3)), np.zeros((3, 2, 3))
        >>> run_by_size([wide, tall, wide], lambda images: [len(images)] * len(images))
        [2, 1, 2]

    A processor of transformers pads images of different sizes to one, which changes what a network sees.
    """
    return run_in_groups(images, lambda image: image.shape, run)


def run_in_groups(
    items: Sequence[Any], key: Callable[[Any], Any], run: Callable[[list[Any]], Sequence[Any]], most: int | None = None
) -> list[Any]:
    """The results of `run` for items that it gets in groups of one key, at most so many at once, in their order.

    Example:
        >>> run_in_groups("abAc", str.lower, lambda group: ["".join(group)] * len(group))
        ['aA', 'b', 'aA', 'c']
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        groups[key(item)].append(number)
    found: dict[int, Any] = {}
    for group in groups.values():
        for start in range(0, len(group), most or len(group)):
            numbers = group[start : start + (most or len(group))]
            found |= dict(zip(numbers, run([items[number] for number in numbers]), strict=True))
    return [found[number] for number in range(len(items))]


def find_device(device: str) -> torch.device:
    """The device of this name; ``"auto"`` is a GPU if there is one, else the CPU.

    Example:
        >>> find_device("cpu")
        device(type='cpu')

    Raises:
        SpatialBoostError: torch cannot use it here.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise SpatialBoostError(f"device is {device!r}, which torch cannot use here ({reason}); try cpu") from None
    return found


def _check_task(task: str, config: dict[str, Any], model: str) -> None:
    """Raise unless models of this kind are made for a task: known from the config, before any weights are fetched."""
    import transformers

    kind = str(config.get("model_type"))
    known = transformers.CONFIG_MAPPING
    if kind not in known or known[kind] not in getattr(transformers, task)._model_mapping:
        raise SpatialBoostError(f"{model!r} is a {kind}, from which no {task} can be built")

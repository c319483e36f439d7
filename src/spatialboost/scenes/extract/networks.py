"""Networks of transformers for extractors: a model by its task, its processor, where it runs, and where it is from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)

# Licences of weights on the Hub, as the model's page states them (https://huggingface.co/MODEL, field "license"). The
# longest beginning of a model's name counts.
LICENCES = {
    "facebook/sam2-hiera": "Apache-2.0",
    "facebook/sam2.1-hiera": "Apache-2.0",
    "facebook/sam-vit": "Apache-2.0",
    "yonigozlan/EdgeTAM-hf": "Apache-2.0",
    "facebook/mask2former": 'MIT (the code\'s licence; the page says "other")',
    "shi-labs/oneformer": "MIT",
    "IDEA-Research/grounding-dino": "Apache-2.0",
    "openai/clip-vit": "MIT (the code's licence; the page states none)",
    "google/siglip": "Apache-2.0",
    "google/siglip2": "Apache-2.0",
    "Salesforce/blip-image-captioning": "BSD-3-Clause",
    "florence-community/Florence-2": "MIT",
    "HuggingFaceTB/SmolVLM": "Apache-2.0",
}
UNKNOWN_LICENCE = "not known, see the model's page"


@dataclass(frozen=True)
class Network:
    """A model and its processor, ready to run.

    Attributes:
        model: a model of transformers in evaluation mode on ``device``.
        processor: its processor, or its image processor.
        device: where it runs.
        dtype: of its weights.
        provenance: ``model``, ``revision`` and ``licence`` as text.
    """

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    provenance: dict[str, str]

    def inputs(self, values: Any) -> Any:
        """The output of the processor on the device of the model; floating point numbers get the model's dtype."""
        return values.to(self.device, self.dtype) if hasattr(values, "to") else values


def open_network(task: str, model: str, *, device: str | None, dtype: str, words: bool = False) -> Network:
    """Load a model by its task, from a folder or the Hub, without running code of the repository or opening a pickle.

    Args:
        task: name of a class of transformers for the task, such as ``"AutoModelForMaskGeneration"``.
        model: a folder, ``user/name`` on the Hub, or ``user/name@revision``.
        device: such as ``"cuda:1"``; None takes a GPU if there is one.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        words: whether the processor also takes text.

    Raises:
        SpatialBoostError: the device or the dtype is unknown, or the model does not exist, is incomplete, or has
            another task.
    """
    import transformers

    from spatialboost.encoders.foreign import load_processor, load_transformers, load_whole_processor
    from spatialboost.weights.hub import HubOptions

    place, precision = pick_device(device), pick_dtype(dtype)
    name, _, revision = model.partition("@") if not _is_folder(model) else (model, "", "")
    options = HubOptions(revision=revision or None)
    loaded = load_transformers(
        name, options, cls=getattr(transformers, task), pretrained=True, dtype=precision, kwargs={}
    )
    processor = load_whole_processor(name, options) if words else load_processor(name, options)
    if processor is None:
        raise SpatialBoostError(
            f"{name!r} has no preprocessor_config.json that transformers {transformers.__version__} can read; expected "
            "the files that its save_pretrained writes"
        )
    commit = getattr(loaded.config, "_commit_hash", None)
    licence = licence_of(name)
    _LOG.info("%s: %s weights under the licence: %s", task, name, licence)
    provenance = {"model": name, "revision": commit or revision or "a folder", "licence": licence}
    return Network(loaded.eval().to(place), processor, place, precision, provenance)


def licence_of(model: str) -> str:
    """The licence of a model's weights, for the models that `LICENCES` lists.

    Example:
        >>> licence_of("facebook/sam2-hiera-tiny"), licence_of("me/mine")
        ('Apache-2.0', "not known, see the model's page")
    """
    known = [start for start in LICENCES if model.startswith(start)]
    return LICENCES[max(known, key=len)] if known else UNKNOWN_LICENCE


def pick_device(device: str | None) -> torch.device:
    """The device of this name; without a name a GPU if there is one, else the CPU.

    Raises:
        SpatialBoostError: torch does not have it.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise SpatialBoostError(f"device is {device!r}, which torch cannot use here ({reason}); try cpu") from None
    return found


def pick_dtype(dtype: str) -> torch.dtype:
    """The dtype of this name.

    Raises:
        SpatialBoostError: it is none of float32, float16, bfloat16.
    """
    import torch

    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise SpatialBoostError(f"dtype is {dtype!r}; expected one of {', '.join(known)}")
    return known[dtype]


def _is_folder(model: str) -> bool:
    from spatialboost.scenes.paths import user_path

    return user_path(model).is_dir()

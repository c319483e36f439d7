"""Scene latents in vision-language models of transformers: the adapter of Spa3-VLM.

Begin with `attach.py`: `attach_adapter`, `detach_adapter`, and `scenes`, which gives the latents of a batch. Then:

- the model: `load.py` (open one by its name), `seam.py` (where visual tokens enter its language model), `adapter.py`
  (what is put there);
- the latents: `latents.py` (what makes them from the views of a sample);
- the file: `adapter_file.py`;
- the data: `conversations.py` (files of visual instructions), `frames.py` (which frames, how large), `batches.py` (by
  the model's processor);
- what is done with it: `answering.py`, and `training.py`, which needs the extra `train` and is imported by itself.
"""

from __future__ import annotations

from spatialboost.multimodal.adapter import SceneAdapter
from spatialboost.multimodal.adapter_file import load_adapter, read_facts, save_adapter
from spatialboost.multimodal.answering import answer
from spatialboost.multimodal.attach import attach_adapter, detach_adapter, find_adapter, scenes
from spatialboost.multimodal.conversations import Sample, VisualInstructions
from spatialboost.multimodal.frames import FrameOptions
from spatialboost.multimodal.latents import EncoderLatents, SceneEncoder
from spatialboost.multimodal.seam import find_seam

__all__ = [
    "EncoderLatents",
    "FrameOptions",
    "Sample",
    "SceneAdapter",
    "SceneEncoder",
    "VisualInstructions",
    "answer",
    "attach_adapter",
    "detach_adapter",
    "find_adapter",
    "find_seam",
    "load_adapter",
    "read_facts",
    "save_adapter",
    "scenes",
]

"""The one place where files of other people's models are opened: configs, weights, processors, tokenizers.

Nothing here runs code of a repository or opens a pickle, and no config decides what else is fetched. `source.py` gets
single files of a folder or a repository, and passes only those to a library; `checks.py` says what a config and a
user's arguments may contain; `load.py` calls timm, transformers and open_clip; `onnx_weights.py` reads
weights of ONNX files; `origin.py` gives revision and licence
of a model. `tests/test_house.py` checks that no other file calls their loaders.
"""

from spatialboost.encoders.foreign.load import (
    load_onnx,
    load_open_clip,
    load_processor,
    load_text_model,
    load_timm,
    load_tokenizer,
    load_transformers,
    load_whole_processor,
    outline_text_model,
)
from spatialboost.encoders.foreign.onnx_weights import read_onnx_weights
from spatialboost.encoders.foreign.origin import Origin, explain_model_errors, find_origin

__all__ = [
    "Origin",
    "explain_model_errors",
    "find_origin",
    "load_onnx",
    "load_open_clip",
    "load_processor",
    "load_text_model",
    "load_timm",
    "load_tokenizer",
    "load_transformers",
    "load_whole_processor",
    "outline_text_model",
    "read_onnx_weights",
]

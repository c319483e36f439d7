"""What a foreign config and a user's arguments may contain: nothing that runs code or opens another file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from spatialboost.errors import SpatialBoostError

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")  # how a name leads timm and open_clip to a folder or a repository

# Left out of a config: references to code, to kernels and to files. Without them, a library uses its own.
CODE = frozenset(["auto_map", "custom_pipelines", "custom_generate", "code_revision", "trust_remote_code"])
KERNELS = frozenset(["use_kernels", "kernel_config", "allow_all_kernels", "experts_implementation"])
FILES = frozenset(["transformers_weights", "_name_or_path", "name_or_path", "class_info_file", "repo_path"])
ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
OWN_ATTENTION = ("eager", "sdpa", "flex_attention")  # implementations that neither the Hub nor another package brings

# Refused in a config if they have a value: they name another model, whose files would be fetched.
ELSEWHERE = frozenset(["hf_model_name", "backbone_checkpoint", "checkpoint_path", "pretrained_cfg_overlay"])
NAMES = frozenset(["architecture", "backbone", "timm_model_name"])  # of a library's own models: no path, no repository
OWN_WEIGHTS = frozenset(["use_pretrained_backbone", "timm_model_pretrained", "hf_model_pretrained"])
# Ways to quantise that fetch no kernel from the Hub.
QUANTISED = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "torchao", "quanto", "gptq", "awq", "hqq")

# Refused among a user's arguments, except with the value that is used anyway.
REFUSED: dict[str, Any] = {
    "trust_remote_code": False,
    "use_safetensors": True,
    "weights_only": True,
    **dict.fromkeys(["jit", "pretrained_image", "pretrained_text", "pretrained_hf", "use_kernels"], False),
    **dict.fromkeys(["allow_all_kernels", "load_weights"], False),
    **dict.fromkeys(["kernel_config", "code_revision", "adapter_kwargs", "checkpoint_path", "pretrained_cfg"]),
    **dict.fromkeys(["pretrained_cfg_overlay", "pretrained_image_path", "pretrained_text_path", "state_dict"]),
    **dict.fromkeys(["pretrained", "config", "model_name", "pretrained_model_name_or_path"]),
}


def checked_config(content: dict[str, Any], where: str) -> dict[str, Any]:
    """A copy of a JSON config without references to code, kernels and files.

    Example:
        >>> checked_config({"width": 8, "auto_map": {"AutoModel": "model.Evil"}}, "config.json")
        {'width': 8}

    Raises:
        SpatialBoostError: It names another model, or a quantisation that runs code of the Hub.
    """
    try:
        return _checked(content, where)
    except RecursionError:
        raise SpatialBoostError(f"{where} is nested too deeply: it is not a config") from None


def _checked(value: Any, where: str) -> Any:
    if isinstance(value, str) and value.strip().startswith(SOURCES):
        raise SpatialBoostError(f"{where} leads to {value[:80]!r}: this is never followed. Give that model as the name")
    if isinstance(value, list):
        return [_checked(each, where) for each in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, inner in value.items():
        if key in CODE | KERNELS | FILES or key.startswith("_experts_implementation"):
            continue
        if key in ATTENTION and inner not in OWN_ATTENTION:
            continue
        if key in ELSEWHERE and inner:
            raise SpatialBoostError(f"{where} names another model ({key}: {str(inner)[:80]!r}): it is never fetched")
        if key in NAMES and isinstance(inner, str) and not re.fullmatch(r"[\w.-]+", inner):
            raise SpatialBoostError(f"{where} has {key}: {inner[:80]!r}; expected the name of a model of the library")
        if key == "quantization_config" and inner is not None:
            method = inner.get("quant_method") if isinstance(inner, dict) else inner
            if method not in QUANTISED:
                raise SpatialBoostError(
                    f"{where} is quantised by {str(method)[:80]!r}; only {', '.join(QUANTISED)} run no code of the Hub"
                )
        found[key] = False if key in OWN_WEIGHTS else _checked(inner, where)
    return found


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A user's arguments for a library's builder.

    Raises:
        SpatialBoostError: One would run code, open a pickle, or choose other weights.
    """
    found = dict(options)
    for key in [key for key in found if key in REFUSED]:
        if found[key] is not None and found[key] != REFUSED[key]:
            raise SpatialBoostError(
                f"{key}={str(found[key])[:80]!r} is not allowed: only safetensors are opened, and code of a "
                "repository is never run. Leave it out; `weights` takes a safetensors file"
            )
        del found[key]
    for key in ATTENTION:
        asked = found.get(key)
        named = [each for each in (asked.values() if isinstance(asked, Mapping) else [asked]) if each is not None]
        if wrong := [each for each in named if each not in OWN_ATTENTION and not _is_installed(each)]:
            raise SpatialBoostError(
                f"{key}={str(wrong[0])[:80]!r} would be fetched from the Hub, which is never done; expected "
                f"{', '.join(OWN_ATTENTION)}, or flash_attention_2 with the package flash-attn"
            )
    return found


def _is_installed(implementation: Any) -> bool:
    """Whether an attention implementation is a Flash Attention package of this machine."""
    packages = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
    return str(implementation) in packages and find_spec(packages[str(implementation)]) is not None

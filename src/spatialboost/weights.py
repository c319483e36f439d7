"""Boosted weights as one small file that every library can read: `docs/delta-format.md`.

Keys never follow a host's paths, which libraries rename: `layers.{i}.{q,k,v,o}.{weight,bias}`,
`layers.{i}.{q_norm,k_norm,norm}.*`, `layers.{i}.gate`, with i the index of the block in the tower. What has no place
in that layout goes by the host's own names under `layers.{i}.generic.*`, and then loads onto that kind of host only.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .base_model import build_base, describe_base, patch_size_of
from .boosting import boost, require_boosted
from .canonical import base_tensors, fingerprint, plus_tensors, same_base
from .card import model_card
from .channel import boosted_layers, is_sharded, whole
from .delta import CARD, CONFIG, CONFIG_LIMIT, FORMAT_VERSION, WEIGHTS, Delta, PathLike, read_delta
from .errors import SpatialBoostError
from .finding import tower, uncompiled

Model = TypeVar("Model", bound=nn.Module)


# --- saving


def save_pretrained(
    model: nn.Module,
    folder: PathLike,
    *,
    base: str | None = None,
    training: Mapping[str, Any] | None = None,
    license: str | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Save Attn+ and the gates: `model.safetensors`, `config.json` and a model card. The base's weights are not in it.

    Each file is replaced as a whole, so that a save which is killed leaves the one before it readable.

    Example:
        >>> import tempfile, timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0))
        >>> folder = sb.save_pretrained(encoder, tempfile.mkdtemp(), training={"objective": "language", "steps": 1000})
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']

    Args:
        model: A boosted model.
        folder: Made if it is not there.
        base: Name of the base model where the model itself does not tell: a name of timm or an id of the Hub.
        training: Facts on how it was trained, for the config and the card; anything that JSON can hold.
        license: Licence of the base model's weights, which holds for the delta as well; None takes what timm says of
            it.
        dtype: Of the weights on disk; None keeps theirs. Gates stay float32.

    Raises:
        SpatialBoostError: The model is not boosted, has weights on the meta device or that are not finite, or
            `training` is no JSON.
    """
    root = uncompiled(model)
    tensors: dict[str, Tensor] = {}
    for name, attention, channel in require_boosted(root):
        for key, tensor in plus_tensors(attention, channel).items():
            if tensor.is_meta:
                raise SpatialBoostError(
                    f"{name} is on the meta device and has no values to save. Load weights into the model first."
                )
            if not torch.isfinite(tensor).all():
                raise SpatialBoostError(
                    f"{name}: Attn+ has values that are not finite ({key}); this is not saved. Lower the rate?"
                )
            stored = tensor if key == "gate" else tensor.to(dtype or tensor.dtype)
            tensors[f"layers.{channel.index}.{key}"] = stored.clone().contiguous()
    config = describe(root, base=base, training=training, license=license, dtype=dtype)
    text = re.sub(
        r"\[[-+.\de,\s]+\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(config, indent=2, allow_nan=False)
    )
    if len(text) > CONFIG_LIMIT:
        raise SpatialBoostError(
            f"config.json would have {len(text):,} bytes, of at most {CONFIG_LIMIT:,}: shorten `training`."
        )

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # the config is in the weights' header as well: that file alone is whole, whatever happens between the three
    # replacements
    metadata = {"format": "pt", "spatialboost": text}
    _replace(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata=metadata))
    _replace(folder / CONFIG, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    _replace(folder / CARD, lambda path: path.write_text(model_card(config), encoding="utf-8"))
    return folder


def describe(
    model: nn.Module,
    *,
    base: str | None,
    training: Mapping[str, Any] | None,
    license: str | None,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """The config of a boosted model."""
    try:
        facts = json.loads(json.dumps(dict(training or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise SpatialBoostError(
            f"`training` cannot be written as JSON: {error}. Give strings, finite numbers, lists and dicts."
        ) from error
    layers, boosted = tower(model), boosted_layers(model)
    index = boosted[0][2].index
    first = layers[index]
    plus = next(p for name, p in boosted[0][2].named_parameters() if name != "gate")
    return {
        "format_version": FORMAT_VERSION,
        "base_model": describe_base(model, name=base, license=license),
        "width": first.family.width(first.module),
        "num_heads": first.family.heads(first.module),
        "depth": len(layers),
        "patch_size": patch_size_of(model),
        "layers": [channel.index for _, _, channel in boosted],
        "generic_layers": [f.index for f in layers.values() if not f.family.slots(f.module)],
        "gate": boosted[0][2].gate_kind,
        "dtype": str(dtype or plus.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for _, _, channel in boosted for p in channel.parameters()),
        "mean_gates": [round(torch.sigmoid(whole(channel.gate)).mean().item(), 4) for _, _, channel in boosted],
        "fingerprint": fingerprint(layers),
        "training": facts,
    }


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside `path`, flush it to disk, and only then put it in the place of `path`."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's are for the owner alone
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload the spatial channel",
    **saving: Any,
) -> str:
    """Save the delta to a repository on the Hub, made if it is not there; returns the address of the commit.

    Args:
        model: A boosted model.
        repo_id: `user/name`.
        private: Whether a new repository is private; None leaves it to the account's default.
        token: None takes the one that `hf auth login` or `HF_TOKEN` has set.
        revision: Branch to write to; None for the main one.
        commit_message: First line of the commit.
        **saving: As for `save_pretrained`.

    Raises:
        SpatialBoostError: As for `save_pretrained`, or the Hub refuses; its answer is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, **saving)
        return push_folder(
            folder, repo_id, private=private, token=token, revision=revision, commit_message=commit_message
        )


def push_folder(
    folder: PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload the spatial channel",
) -> str:
    """Upload a delta that is saved already; otherwise as `push_to_hub`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    path = read_delta(Path(folder)).path.parent
    api = HfApi(token=token, library_name="spatialboost")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=path,
            revision=revision,
            commit_message=commit_message,
            allow_patterns=[WEIGHTS, CONFIG, CARD],
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise SpatialBoostError(
            f"could not push to {repo_id!r}: {error}. Check the name and `hf auth login`."
        ) from error
    return str(commit.commit_url)


# --- loading


def load_pretrained(
    model: Model,
    repo_or_folder: PathLike,
    *,
    freeze: bool = True,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: PathLike | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load a delta onto a model one has, boosting it if it is not. In place; returns the same object.

    Everything is checked first: the model is as it was if anything is wrong.

    Example:
        >>> import tempfile, timm, torch, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0))
        >>> folder = sb.save_pretrained(encoder, tempfile.mkdtemp())
        >>> twin = sb.load_pretrained(sb.unboost(encoder), folder)

    Args:
        model: The encoder that the delta was trained on, from any library: the same weights under whatever names.
        repo_or_folder: Folder of `save_pretrained`, or `user/name` on the Hub.
        freeze: As for `boost`, where the model is not boosted yet.
        dtype: As for `boost`, where the model is not boosted yet.
        revision: Branch, tag or commit on the Hub.
        token: None takes the one that `hf auth login` or `HF_TOKEN` has set.
        cache_dir: Where downloads are kept; None for the Hub's usual place.
        local_files_only: Ask the cache only.

    Raises:
        SpatialBoostError: Missing, extra or misshaped weights, values that are not finite, another base, another
            format.
    """
    delta = read_delta(
        repo_or_folder, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    return load_delta(model, delta, freeze=freeze, dtype=dtype)


def load_delta(model: Model, delta: Delta, *, freeze: bool = True, dtype: torch.dtype | None = None) -> Model:
    """Check a delta against a model, then load it: see `load_pretrained`."""
    root = uncompiled(model)
    check_fits(root, delta)
    with safe_open(delta.path, framework="pt") as file:
        for key in delta.shapes:
            tensor = file.get_tensor(key)
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise SpatialBoostError(
                    f"{delta.path}: {key} has values that are not finite. Download or save the file again."
                )
        if not boosted_layers(root):
            boost(root, layers=delta.layers, gate=delta.config["gate"], dtype=dtype, freeze=freeze)
        with torch.no_grad():
            for _, attention, channel in boosted_layers(root):
                for name, target in plus_tensors(attention, channel).items():
                    target.copy_(file.get_tensor(f"layers.{channel.index}.{name}"))
    return model


def check_fits(model: nn.Module, delta: Delta) -> None:
    """Raise unless the delta's layers, keys, shapes and base are those of the model."""
    layers, config = tower(model), delta.config
    if not layers:
        boost(model)  # raises, and says what was found instead of attention
    if any(next(found.module.parameters()).is_meta for found in layers.values()):
        raise SpatialBoostError("the model is on the meta device: load the base's weights into it before the delta.")
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise SpatialBoostError("the model is sharded already: load the delta first, then shard it.")
    if taken := boosted_layers(model):
        own = ([channel.index for _, _, channel in taken], taken[0][2].gate_kind)
        if own != (delta.layers, config["gate"]):
            raise SpatialBoostError(
                f"the model is boosted at layers {own[0]} with gate={own[1]!r}, the delta at {delta.layers} with "
                f"gate={config['gate']!r}. Call unboost(model) first."
            )
    if len(layers) != config["depth"] or any(i not in layers for i in delta.layers):
        raise SpatialBoostError(
            f"the delta is of {_base_name(config)} with {config['depth']} attention layers; {type(model).__name__} "
            f"has {len(layers)}."
        )
    expected: dict[str, tuple[int, ...]] = {}
    for index in delta.layers:
        found = layers[index]
        width = found.family.width(found.module)
        if width != config["width"] and index == delta.layers[0]:
            raise SpatialBoostError(
                f"the delta is of {_base_name(config)} of width {config['width']}; {type(model).__name__} has width "
                f"{width}. "
                "Load it onto the encoder that it was trained on."
            )
        expected |= {
            f"layers.{index}.{name}": tuple(tensor.shape)
            for name, tensor in base_tensors(found.module, found.family).items()
        }
        expected[f"layers.{index}.gate"] = (width if config["gate"] == "channel" else 1,)
    problems = {
        "missing": sorted(expected.keys() - delta.shapes.keys()),
        "not expected": sorted(delta.shapes.keys() - expected.keys()),
        "of another shape": [
            f"{k} {delta.shapes[k]} for {expected[k]}"
            for k in sorted(expected.keys() & delta.shapes)
            if delta.shapes[k] != expected[k]
        ],
    }
    if any(problems.values()):
        said = "; ".join(
            f"{what}: {', '.join(map(str, keys[:6]))} ({len(keys)})" for what, keys in problems.items() if keys
        )
        raise SpatialBoostError(
            f"{delta.path} does not fit {type(model).__name__}: {said}. Its base is {_base_name(config)}."
        )
    if (name := same_base(config["fingerprint"], fingerprint(layers))) is not None:
        raise SpatialBoostError(
            f"the delta was trained on other weights than these: {name} differs. Its base is {_base_name(config)}; "
            "load that one's weights "
            "into the model first."
        )


def _base_name(config: Mapping[str, Any]) -> str:
    return repr(config["base_model"].get("name"))


def from_pretrained(
    repo_or_folder: PathLike,
    *,
    pretrained: bool = True,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: PathLike | None = None,
    local_files_only: bool = False,
    **model_kwargs: Any,
) -> nn.Module:
    """Build the base model that a delta names, by timm or transformers, and load the delta onto it; in eval mode.

    Args:
        repo_or_folder: Folder of `save_pretrained`, or `user/name` on the Hub.
        pretrained: False builds the base without its weights, which only fits a delta of a base with those same
            weights.
        revision: Of the delta; the base's is the one that the delta has recorded.
        token: None takes the one that `hf auth login` or `HF_TOKEN` has set.
        cache_dir: Where downloads are kept; None for the Hub's usual place.
        local_files_only: Ask the cache only.
        **model_kwargs: For `timm.create_model` or the model's `from_pretrained`: `img_size=...`, `dtype=...`.

    Raises:
        SpatialBoostError: As for `load_pretrained`, or the base is of neither library.
    """
    delta = read_delta(
        repo_or_folder, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )
    model = build_base(delta.config["base_model"], pretrained=pretrained, model_kwargs=model_kwargs)
    return load_delta(model, delta).eval()

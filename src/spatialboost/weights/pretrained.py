"""Boosted weights as one small file that every library can read: `docs/delta-format.md`.

Keys never follow a host's paths, which libraries rename: `layers.{i}.{q,k,v,o}.{weight,bias}`,
`layers.{i}.{q_norm,k_norm,norm}.*`, `layers.{i}.gate`, with i the index of the block in the tower. What has no place
in that layout goes by the host's own names under `layers.{i}.generic.*`, and then loads onto that kind of host only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spatialboost.boosting.boost import boost, unboost
from spatialboost.boosting.channel import boosted_layers, require_boosted, without_values
from spatialboost.boosting.find import uncompiled
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.base import build_base
from spatialboost.weights.describe import Results, describe
from spatialboost.weights.fit import check_fits, host_device
from spatialboost.weights.hub import HubOptions, upload
from spatialboost.weights.layout import Reorder, plus_tensors
from spatialboost.weights.read import (
    CARD,
    CONFIG,
    INDEX,
    SHARD_PATTERN,
    WEIGHTS,
    Delta,
    PathLike,
    read_delta,
    read_folder,
    state_dtype,
)
from spatialboost.weights.tensor_file import parse_size
from spatialboost.weights.write import is_main, save_delta

Model = TypeVar("Model", bound=nn.Module)


def save_pretrained(
    model: nn.Module,
    folder: PathLike,
    *,
    base: str | None = None,
    training: Mapping[str, Any] | None = None,
    results: Results | Sequence[Results] | None = None,
    license: str | None = None,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str = "5GB",
    is_main_process: bool | None = None,
) -> Path:
    """Save Attn+ and the gates: `model.safetensors`, `config.json` and a model card. The base's weights are not in it.

    Each file is replaced as a whole, so that a save which is killed leaves the one before it readable. Tensors are cast
    and written one by one; those of a model that FSDP2 has sharded are gathered layer by layer, so then every process
    has to make this call, and the main one writes.

    Example:
        >>> import tempfile, timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0))
        >>> folder = sb.save_pretrained(encoder, tempfile.mkdtemp(), training={"objective": "language", "steps": 1000})
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']

    Args:
        model: A boosted model.
        folder: Made if it is not there.
        base: Name of the base model where the model itself does not tell: a name of timm or an id of the Hub, whose
            revision may follow (`"user/name@revision"`).
        training: Facts on how it was trained, for the config and the card; anything that JSON can hold.
        results: What probes have found, base against boosted, for the config and the card: the JSON file of a probe,
            its content, or several.
        license: Licence of the base model's weights, which holds for the delta as well; None takes what timm says of
            it.
        dtype: Of the weights on disk, such as `torch.bfloat16`; None keeps theirs. Gates stay float32.
        max_shard_size: Weights that are larger are split into files of at most this size, bytes or `"5GB"`.
        is_main_process: Whether this process writes; None: the one of rank 0, where there are several.

    Raises:
        SpatialBoostError: The model is not boosted, has weights on the meta device or that are not finite, or
            `training` is no JSON.
    """
    root = uncompiled(model)
    stored, limit = state_dtype(dtype), parse_size(max_shard_size)
    for name, _, channel in require_boosted(root):
        if any(p.is_meta for p in channel.parameters()):
            raise SpatialBoostError(
                f"{name} is on the meta device and has no values to save. Load weights into the model first."
            )
    config = describe(root, base=base, training=training, results=results, license=license, dtype=stored)
    writes = is_main() if is_main_process is None else is_main_process
    return save_delta(root, Path(folder), config, dtype=stored, limit=limit, writes=writes)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload the spatial channel",
    commit_description: str | None = None,
    subfolder: str = "",
    **saving: Any,
) -> str:
    """Save the delta to a repository on the Hub, made if it is not there; returns the address of the commit.

    Args:
        model: A boosted model.
        repo_id: `user/name`.
        private: Whether a new repository is private; None leaves it to the account's default.
        token: None takes the one that `hf auth login` or `HF_TOKEN` has set.
        revision: Branch to write to, made if it is not there; None for the main one.
        create_pr: Open a pull request instead; its address is returned.
        commit_message: First line of the commit.
        commit_description: What follows it.
        subfolder: Folder in the repository.
        **saving: As for `save_pretrained`.

    Raises:
        SpatialBoostError: As for `save_pretrained`, or the Hub refuses; its answer is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = save_pretrained(model, folder, **saving)
        if not (saved / CONFIG).exists():
            return ""  # another process has written and pushes
        return push_folder(
            saved,
            repo_id,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            commit_description=commit_description,
            subfolder=subfolder,
        )


def push_folder(
    folder: PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload the spatial channel",
    commit_description: str | None = None,
    subfolder: str = "",
) -> str:
    """Upload a delta that is saved already, which is read and checked first; otherwise as `push_to_hub`."""
    delta = read_folder(Path(folder))
    with delta.open() as file:
        file.check()
    weights = [path.name for path in delta.files]
    index = [INDEX] if weights != [WEIGHTS] else []
    return upload(
        delta.folder,
        repo_id,
        [*weights, *index, CONFIG, CARD],
        replaces=[WEIGHTS, INDEX, SHARD_PATTERN],
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message,
        commit_description=commit_description,
        subfolder=subfolder,
    )


def load_pretrained(
    model: Model,
    repo_or_folder: PathLike,
    *,
    freeze: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Model:
    """Load a delta onto a model one has, boosting it if it is not. In place; returns the same object.

    Everything is checked first: the model is as it was if anything is wrong. A model that is boosted already takes the
    values only, so that two deltas of one base can be swapped.

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
        device: For a model on the meta device: where Attn+ is to be. The base then has no values and cannot be
            checked. Of any other model, Attn+ goes to where the attention is.
        revision: Branch, tag or commit on the Hub.
        subfolder: Of the folder or repository.
        token: None takes the one that `hf auth login` or `HF_TOKEN` has set.
        cache_dir: Where downloads are kept; None for the Hub's usual place.
        local_files_only: Ask the cache only.
        force_download: Download even what the cache holds.

    Raises:
        SpatialBoostError: Missing, extra, damaged or misshaped weights, values that are not finite, another base,
            another format.
    """
    cache = None if cache_dir is None else Path(cache_dir)
    options = HubOptions(revision, token, cache, local_files_only, force_download, subfolder)
    return load_delta(model, read_delta(repo_or_folder, options), freeze=freeze, dtype=dtype, device=device)


def load_delta(
    model: Model,
    delta: Delta,
    *,
    freeze: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """Check a delta against a model, then load it: see `load_pretrained`."""
    root = uncompiled(model)
    reorder = check_fits(root, delta, device)
    with delta.open() as file:
        if boosted_layers(root):
            file.check()  # all of it, before the first value is overwritten
            _fill(root, file.get, delta, reorder, device)
            return model
        with without_values():
            boost(root, layers=delta.layers, gate=delta.config["gate"], dtype=dtype, freeze=freeze)
        try:  # there is nothing to be lost but the new channel: each weight is checked and copied at one go
            _fill(root, file.verified, delta, reorder, device)
        except BaseException:
            unboost(root)
            raise
    return model


@torch.no_grad()
def _fill(
    model: nn.Module,
    read: Callable[[str], Tensor],
    delta: Delta,
    reorder: Reorder | None,
    device: torch.device | str | None,
) -> None:
    """Copy each weight to its place, in the dtype and on the device of that."""
    left = set(delta.shapes)
    for _, attention, channel in boosted_layers(model):
        if channel.gate.is_meta:
            channel.to_empty(device=device or host_device(attention))
        for name, target in plus_tensors(attention, channel).items():
            if (key := f"layers.{channel.index}.{name}") not in delta.shapes:
                target.zero_()  # a bias that other copies of the encoder leave out: see `check_fits`
                continue
            value = read(key)
            target.copy_(reorder(name, value) if reorder else value)
            left.remove(key)
    for key in left:  # biases of zeros that this copy has no place for; if they are that
        read(key)


def from_pretrained(
    repo_or_folder: PathLike,
    *,
    pretrained: bool = True,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    **model_kwargs: Any,
) -> nn.Module:
    """Build the base model that a delta names, by timm or transformers, and load the delta onto it; in eval mode.

    Args:
        repo_or_folder: Folder of `save_pretrained`, or `user/name` on the Hub.
        pretrained: False builds the base without its weights, which only fits a delta of a base with those same
            weights.
        revision: Of the delta; the base's is the one that the delta has recorded.
        subfolder: Of the delta.
        token: None takes the one that `hf auth login` or `HF_TOKEN` has set. timm takes that one always.
        cache_dir: Where downloads are kept, the base's too; None for the Hub's usual place.
        local_files_only: Ask the cache only; where timm builds the base, set `HF_HUB_OFFLINE=1` instead.
        force_download: Download even what the cache holds.
        **model_kwargs: For `timm.create_model` or the model's `from_pretrained`: `img_size=...`, `dtype=...`.

    Raises:
        SpatialBoostError: As for `load_pretrained`, or the base is of neither library.
    """
    cache = None if cache_dir is None else Path(cache_dir)
    options = HubOptions(revision, token, cache, local_files_only, force_download, subfolder)
    delta = read_delta(repo_or_folder, options)
    model = build_base(delta.config["base_model"], pretrained=pretrained, options=options, model_kwargs=model_kwargs)
    return load_delta(model, delta).eval()

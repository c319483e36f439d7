"""Save, load, download and upload a delta: the public functions of this folder. The file: `docs/delta-format.md`."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spatialboost.boosting.attach import DISABLED, BoostedAttention, not_run, switch, why_not_run
from spatialboost.boosting.boost import boost, unboost
from spatialboost.boosting.canonical import plus_tensors
from spatialboost.boosting.channel import SpatialChannel, boosted_layers, require_boosted, without_values
from spatialboost.boosting.find import uncompiled
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts.adapters import is_adapter
from spatialboost.weights.add_results import with_results
from spatialboost.weights.base import build_base
from spatialboost.weights.describe import Results, describe
from spatialboost.weights.fingerprint import Reorder
from spatialboost.weights.fit import check_fits, host_device
from spatialboost.weights.format import CARD, CONFIG, INDEX, SHARD_PATTERN, WEIGHTS, stored_dtype
from spatialboost.weights.hub import HubOptions, upload
from spatialboost.weights.licence import licence_files
from spatialboost.weights.read import Delta, PathLike, read_delta, read_folder
from spatialboost.weights.tensor_file import parse_size
from spatialboost.weights.write import is_main, save_delta

logger = logging.getLogger(__name__)

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
    """Save Attn+ and the gates: `model.safetensors`, `config.json` and a model card. The base's weights are not saved.

    An interrupted save leaves the earlier delta readable. Tensors are cast and written one by one. If FSDP2 has sharded
    the model, they are gathered layer by layer: then every process must make this call, and the main process writes.

    Example:
        >>> import tempfile, timm, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0))
        >>> folder = sb.save_pretrained(encoder, tempfile.mkdtemp(), training={"objective": "language", "steps": 1000})
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']

    Args:
        model: A boosted model.
        folder: Where to save; created if it does not exist.
        base: Name of the base model, if the model itself does not contain it: a timm name, or an id on the Hub with an
            optional revision (`"user/name@revision"`).
        training: Facts on the training, for the config and the card; anything that can be written as JSON.
        results: Results of probes (base against boosted) for the config and the card: the JSON file of a probe, a
            folder with such files, the content of one, or several of these.
        license: Licence of the base model's weights, which also applies to the delta; None uses timm's entry.
        dtype: Dtype of the weights on disk, such as `torch.bfloat16`; None keeps the dtype of each. Gates stay float32.
        max_shard_size: Larger weights are split into files of at most this size: a number of bytes, or `"5GB"`.
        is_main_process: Whether this process writes; None means the process of rank 0.

    Raises:
        SpatialBoostError: The model is not boosted, has weights on the meta device or values that are not finite, or
            `training` cannot be written as JSON.
    """
    root = uncompiled(model)
    stored, limit = stored_dtype(dtype), parse_size(max_shard_size)
    for name, _, channel in require_boosted(root):
        if any(p.is_meta for p in channel.parameters()):
            raise SpatialBoostError(
                f"{name} is on the meta device and has no values to save. Load weights into the model first."
            )
    if dead := not_run(root):
        warnings.warn(f"Attn+ is saved, but it is not run in this model: {'; '.join(dead[:3])}", stacklevel=2)
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
    """Save the delta to a repository on the Hub, and create it if it does not exist; returns the URL of the commit.

    Args:
        model: A boosted model.
        repo_id: `user/name`.
        private: Whether a new repository is private; None takes the account's default.
        token: None takes the one set by `hf auth login` or `HF_TOKEN`.
        revision: Branch to write to, created if it does not exist; None for the main branch.
        create_pr: Open a pull request instead and return its URL.
        commit_message: First line of the commit.
        commit_description: The lines after it.
        subfolder: Folder in the repository.
        **saving: Other arguments of `save_pretrained`.

    Raises:
        SpatialBoostError: As for `save_pretrained`, or the Hub refuses; the message contains its answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = save_pretrained(model, folder, **saving)
        if not (saved / CONFIG).exists():
            return ""  # another process has saved the delta and uploads it
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
    results: Results | Sequence[Results] | None = None,
) -> str:
    """Check a saved delta and upload it, with the text of its base's licence; the arguments are `push_to_hub`'s.

    The text is the file ``LICENSE`` of the folder. If there is none, it is taken from the base's repository. With
    ``results`` of probes, the uploaded config and card have these; the folder stays as it is.
    """
    delta = read_folder(Path(folder))
    if results is not None:
        options: dict[str, Any] = {"private": private, "token": token, "revision": revision, "create_pr": create_pr}
        options |= {"commit_message": commit_message, "commit_description": commit_description, "subfolder": subfolder}
        with tempfile.TemporaryDirectory() as copy:
            return push_folder(with_results(delta, results, Path(copy)), repo_id, **options)
    with delta.open() as file:
        file.check()
    weights = [path.name for path in delta.files]
    index = [INDEX] if weights != [WEIGHTS] else []
    return upload(
        repo_id,
        {name: delta.folder / name for name in (*weights, *index, CONFIG, CARD)},
        more=lambda: licence_files(delta.folder, delta.config["base_model"], token),
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
    layers: Sequence[int] | None = None,
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
    """Load a delta onto a model that you have; boost it if it is not boosted yet. In place; returns the same object.

    Everything is checked; if anything is wrong, the model stays as it was. On a boosted model only the values are
    replaced, so that two deltas of one base can be swapped.

    Example:
        >>> import tempfile, timm, torch, spatialboost as sb
        >>> encoder = sb.boost(timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0))
        >>> folder = sb.save_pretrained(encoder, tempfile.mkdtemp())
        >>> twin = sb.load_pretrained(sb.unboost(encoder), folder)

    Args:
        model: The encoder that the delta was trained on. It may come from another library, which names the same weights
            differently.
        repo_or_folder: Folder of `save_pretrained`, or `user/name` on the Hub.
        layers: Indices of the delta's layers to load. None loads all of them and demands an encoder of the same depth.
            With indices, the encoder may have more layers or fewer, as a backbone of features has.
        freeze: As for `boost`, if the model is not boosted yet.
        dtype: As for `boost`, if the model is not boosted yet.
        device: Only for a model on the meta device: where to put Attn+. The base then has no values and is not checked.
            On any other model, Attn+ is put where the attention is.
        revision: Branch, tag or commit on the Hub.
        subfolder: Folder within the folder or repository.
        token: None takes the one set by `hf auth login` or `HF_TOKEN`.
        cache_dir: Where downloads are kept; None means the Hub's usual place.
        local_files_only: Use only what is in the cache.
        force_download: Download again what is in the cache.

    Raises:
        SpatialBoostError: Weights are missing, unexpected, damaged, of another shape or not finite; the delta
            belongs to another base; or its format is newer.
    """
    cache = None if cache_dir is None else Path(cache_dir)
    options = HubOptions(revision, token, cache, local_files_only, force_download, subfolder)
    delta = read_delta(repo_or_folder, options)
    return load_delta(model, delta, layers=layers, freeze=freeze, dtype=dtype, device=device)


def load_delta(
    model: Model,
    delta: Delta,
    *,
    layers: Sequence[int] | None = None,
    freeze: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """Load a delta that has been read onto a model. The arguments are those of `load_pretrained`."""
    root = uncompiled(model)
    delta = delta if layers is None else delta.only(layers)
    reorder = check_fits(root, delta, device, partial=layers is not None)
    adapters = delta.config.get("adapters")
    if adapters and not any(is_adapter(module) for module in root.modules()):
        logger.warning("the delta was trained over adapters (%s), which this model does not have", adapters)
    with delta.open() as file:
        if boosted := boosted_layers(root):
            file.check()  # every tensor, before the first value of the model is overwritten
            on = [(name, attention) for name, attention, _ in boosted if isinstance(attention, BoostedAttention)]
            if hidden := [f"{name}: {why}" for name, attention in on if (why := why_not_run(attention))]:
                raise SpatialBoostError(
                    f"the delta would change nothing, because Attn+ is not run: {'; '.join(hidden[:3])}. Delete that "
                    "attribute (`del attention.forward`), or call unboost(model) and load the delta onto the encoder."
                )
            with _restored_on_error([channel for _, _, channel in boosted]):
                _fill(root, file.get, delta, reorder, device)
                for _, attention, _ in boosted:
                    if attention not in DISABLED:
                        switch(attention, on=True)  # it is off in a copy that was made within `disabled`
            return model
        with without_values():
            boost(root, layers=delta.layers, gate=delta.config["gate"], dtype=dtype, freeze=freeze)
        try:  # each weight is checked just before it is copied: if one is bad, the new channel is removed again
            _fill(root, file.get_checked, delta, reorder, device)
        except BaseException:
            unboost(root)
            raise
    return model


@contextmanager
def _restored_on_error(channels: Sequence[SpatialChannel]) -> Iterator[None]:
    """If the body is left by an exception, Ctrl-C included, give the channels the values back that they had before."""
    before = [{name: parameter.detach().clone() for name, parameter in c.named_parameters()} for c in channels]
    try:
        yield
    except BaseException:
        for channel, values in zip(channels, before, strict=True):
            for name, value in values.items():
                channel._parameters[name].data = value  # type: ignore[union-attr]
        raise


@torch.no_grad()
def _fill(
    model: nn.Module,
    read: Callable[[str], Tensor],
    delta: Delta,
    reorder: Reorder | None,
    device: torch.device | str | None,
) -> None:
    """Copy each weight into the model, cast to the dtype and device of the model's tensor."""
    left = set(delta.shapes)
    for _, attention, channel in boosted_layers(model):
        if channel.gate.is_meta:
            channel.to_empty(device=device or host_device(attention))
        channel.without_values = False
        for name, target in plus_tensors(attention, channel).items():
            if (key := f"layers.{channel.index}.{name}") not in delta.shapes:
                target.zero_()  # a zero bias that is not in the file: see `check_fits`
                continue
            value = read(key)
            target.copy_(reorder(name, value) if reorder else value)
            left.remove(key)
    for key in left:  # zero biases that this copy of the encoder does not have; reading checks them
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
    """Build the base model that a delta names, with timm or transformers, and load the delta onto it; in eval mode.

    Args:
        repo_or_folder: Folder of `save_pretrained`, or `user/name` on the Hub.
        pretrained: False builds the base with random weights, from the seed that the delta records; a delta of a
            pretrained base does not load onto it.
        revision: Revision of the delta; the revision of the base is recorded in the delta.
        subfolder: Folder of the delta in the repository.
        token: None takes the one set by `hf auth login` or `HF_TOKEN`.
        cache_dir: Where downloads are kept, also the base's; None means the Hub's usual place.
        local_files_only: Use only what is in the cache.
        force_download: Download again what is in the cache.
        **model_kwargs: For `timm.create_model` or the model's `from_pretrained`: `img_size=...`, `dtype=...`.

    Raises:
        SpatialBoostError: As for `load_pretrained`, or neither library can build the base.
    """
    cache = None if cache_dir is None else Path(cache_dir)
    options = HubOptions(revision, token, cache, local_files_only, force_download, subfolder)
    delta = read_delta(repo_or_folder, options)
    model = build_base(
        delta.config["base_model"],
        pretrained=pretrained,
        options=options,
        model_kwargs=model_kwargs,
        downloaded=not Path(repo_or_folder).expanduser().is_dir(),
    )
    try:
        return load_delta(model, delta).eval()
    except SpatialBoostError as error:
        if not pretrained or "random_seed" not in delta.config["base_model"]:
            raise
        raise SpatialBoostError(f"{error} The base had random weights: pretrained=False draws them again.") from error

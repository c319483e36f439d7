"""Say what a folder or a file is that is not a delta, and what to do with it."""

from __future__ import annotations

from pathlib import Path

from spatialboost.errors import SpatialBoostError
from spatialboost.weights.format import CONFIG, INDEX, WEIGHTS, parse_json
from spatialboost.weights.tensor_file import read_header

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
INTO_MODEL = "load its weights into the boosted model that has written it, and call save_pretrained(model, FOLDER)"
OWN_LIBRARY = "load that model with its own library; a delta is loaded onto it"

# Files by which a folder is recognised -> what it is, and what to do. A name that ends with * is a beginning.
KINDS: dict[tuple[str, ...], tuple[str, str]] = {
    ("adapter_config.json", "adapter_model*"): (
        "an adapter of peft",
        "load it with PeftModel.from_pretrained; a delta has Attn+ and gates, and comes from save_pretrained",
    ),
    ("trainer_state.json", "training_args.bin"): ("a checkpoint of the Trainer of transformers", INTO_MODEL),
    ("zero_to_fp32.py", "global_step*"): ("a checkpoint of DeepSpeed", INTO_MODEL),
    ("random_states_*", "custom_checkpoint_*", "pytorch_model_fsdp*", "optimizer.bin"): (
        "a checkpoint of accelerate",
        INTO_MODEL,
    ),
    (".metadata", "__0_0.distcp"): ("a checkpoint of torch.distributed", INTO_MODEL),
    ("open_clip_config.json",): ("a whole model of open_clip", OWN_LIBRARY),
}


def what_it_is(path: Path) -> str | None:
    """What a file or folder is, and what to do with it; None if nothing is known about it."""
    return _file(path) if path.is_file() else _folder(path) if path.is_dir() else None


def _file(path: Path) -> str:
    if path.suffix.lower() in PICKLES:
        return (
            "a file of torch.save, which is a pickle and is never opened here: load it yourself with "
            f"torch.load(..., weights_only=True), then {INTO_MODEL}"
        )
    if path.suffix.lower() != ".safetensors" and path.name != INDEX:
        return "a file: give the folder that save_pretrained has written"
    try:
        is_own = path.name == INDEX or "spatialboost" in read_header(path).metadata
    except SpatialBoostError:
        return "a damaged safetensors file: give the folder that save_pretrained has written"
    if is_own:
        return f"one file of a delta: give its folder, {path.parent}"
    return f"a file with the tensors of a model, not a delta: {INTO_MODEL}"


def _folder(folder: Path) -> str | None:
    names = sorted(path.name for path in folder.iterdir())
    for marks, (kind, advice) in KINDS.items():
        if any(name == mark or (mark.endswith("*") and name.startswith(mark[:-1])) for mark in marks for name in names):
            return f"{kind}, not a delta: {advice}"
    deltas = [name for name in names if (folder / name / "delta" / CONFIG).is_file()]
    if deltas:
        return f"the folder of a training run: give the delta in it, {folder / deltas[-1] / 'delta'}"
    if CONFIG in names and (model := _kind_of_model(folder / CONFIG)):
        return f"a whole model ({model}), not a delta: {OWN_LIBRARY}"
    pickles = [name for name in names if Path(name).suffix.lower() in PICKLES]
    if pickles and WEIGHTS not in names:
        return f"a folder with pickles such as {pickles[0]}, which are never opened, and no delta: {INTO_MODEL}"
    return None


def _kind_of_model(path: Path) -> str | None:
    try:
        config = parse_json(path.read_bytes(), path)
    except (SpatialBoostError, OSError):
        return None
    kind = config.get("model_type") or config.get("architecture")
    return str(kind)[:80] if kind and "format_version" not in config else None

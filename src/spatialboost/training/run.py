"""A whole run: build the parts, go through the stages, save what each has learnt, report."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from spatialboost.encoders import open_encoder, patch_size, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.training.accuracy import answer_accuracy
from spatialboost.training.build import build_llm
from spatialboost.training.config import StageConfig, TrainConfig
from spatialboost.training.data import ChatDataset, ImageStore
from spatialboost.training.engine import Fit, remove_checkpoints
from spatialboost.training.report import write_report
from spatialboost.training.stages import align, boost_encoder, instruct
from spatialboost.vlm.llms import load_llm
from spatialboost.vlm.model import SpatialVLM
from spatialboost.weights.pretrained import load_pretrained, save_pretrained

logger = logging.getLogger(__name__)

RESULT = "result.json"  # written last, so its being there says that a stage is finished
PROJECTOR = "projector.safetensors"
STAGES: dict[str, Callable[..., Fit]] = {"stage1": align, "stage2": instruct, "stage3": boost_encoder}


@dataclass
class TrainResult:
    """What a run has made.

    Attributes:
        vlm: Encoder (boosted after stage 3), projector and language model.
        tokenizer: Of the language model.
        out: Folder of the run.
        stages: What each stage has recorded, as in ``report.json``.
        delta: Folder with the boosted weights, if stage 3 was run.
    """

    vlm: SpatialVLM
    tokenizer: Any
    out: Path
    stages: dict[str, dict[str, Any]]
    delta: Path | None


def train(config: TrainConfig) -> TrainResult:
    """Run the stages of a configuration in order; a run that was cut off goes on where it was.

    Example:
        >>> result = train(load_config("run.yaml"))  # doctest: +SKIP
        >>> encoder = sb.load_pretrained(my_encoder, result.delta)  # doctest: +SKIP

    Finished stages are loaded from the folder, an unfinished one goes on from its last checkpoint. In the folder:
    ``stage1/``, ``stage2/`` (``projector.safetensors``, ``llm/``), ``stage3/delta/`` (for
    `spatialboost.load_pretrained`), ``report.json`` and ``losses.png``.

    Args:
        config: Of `load_config`.

    Raises:
        SpatialBoostError: The folder holds a run of another configuration, or some part cannot be built.
    """
    out = config.out
    _claim(out, config)
    encoder = open_encoder(config.encoder)
    rows = open_rows(config.data.folders)
    if config.data.held_out >= len(rows):
        raise SpatialBoostError(f"data.held_out is {config.data.held_out}, but there are only {len(rows)} rows")
    cut = len(rows) - config.data.held_out
    num_training = min(cut, config.data.limit or cut)
    rows = rows.select([*range(num_training), *range(cut, len(rows))])
    training, held_out = range(num_training), range(num_training, len(rows))
    images = ImageStore(rows, encoder, config.data.image_size, limit=config.data.cache_gb * 1e9)

    saved_llm = out / "stage2" / "llm"
    if (out / "stage2" / RESULT).exists():
        llm, tokenizer = load_llm(saved_llm, dtype=getattr(torch, config.llm.dtype))
    else:
        llm, tokenizer = build_llm(config.llm, (rows[i]["messages"] for i in training), config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        rows_columns = (images.size[0] // patch_size(encoder), images.size[1] // patch_size(encoder))
        grid = rows_columns if config.places else None
        vlm = SpatialVLM(encoder, llm, layer=config.layer, grid=grid).to(_device(config.device))

    def conversations(indices: range, **options: Any) -> ChatDataset:
        return ChatDataset(images, tokenizer, indices=indices, max_length=config.data.max_length, **options)

    records: dict[str, dict[str, Any]] = {}
    chats: dict[str, ChatDataset] = {}
    for name, run_stage in STAGES.items():
        stage: StageConfig | None = getattr(config, name)
        if stage is None:
            continue
        folder = out / name
        if (folder / RESULT).exists():
            logger.info("%s is finished and is loaded", name)
            _load_stage(vlm, folder)
            records[name] = json.loads((folder / RESULT).read_text())
            continue
        kind = json.dumps([stage.turns, stage.shuffle_answers])
        if kind not in chats:
            chats[kind] = conversations(
                training, turns=stage.turns, shuffle_answers=stage.shuffle_answers, seed=config.seed
            )
        fitted = run_stage(vlm, chats[kind], stage, folder=folder, seed=config.seed, device=config.device)
        record: dict[str, Any] = {"fit": asdict(fitted), "rows": len(chats[kind]), "skipped": chats[kind].skipped}
        if name != "stage1" and config.evaluate and held_out:
            scores = answer_accuracy(vlm, tokenizer, conversations(held_out), rows=config.evaluate)
            record["scores"] = [score.to_json() for score in scores]
        if _is_main():
            _save_stage(vlm, tokenizer, folder, name, config, fitted)
            _write_json(folder / RESULT, record)
            remove_checkpoints(folder)
        _wait()
        records[name] = record

    for file in out.glob("features*.npy"):
        file.unlink()
    delta = out / "stage3" / "delta" if config.stage3 is not None else None
    if delta is not None:
        _check_reload(vlm, config, delta, images)
    if _is_main():
        write_report(out, config.model_dump(mode="json"), records, vlm.encoder)
    return TrainResult(vlm, tokenizer, out, records, delta)


def _claim(out: Path, config: TrainConfig) -> None:
    """Make the folder this run's own, or see that it already is."""
    file = out / "config.json"
    ours = config.model_dump(mode="json", exclude={"out", "device"})
    if file.exists():
        theirs = json.loads(file.read_text())
        differ = [key for key in ours if ours[key] != theirs.get(key)]
        if differ:
            raise SpatialBoostError(
                f"{out} holds a run with another configuration ({', '.join(differ)} differ): choose another `out`, or "
                "delete that folder"
            )
    elif _is_main():
        out.mkdir(parents=True, exist_ok=True)
        _write_json(file, ours)


def _save_stage(vlm: SpatialVLM, tokenizer: Any, folder: Path, name: str, config: TrainConfig, fitted: Fit) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in vlm.projector.state_dict().items()}
    save_file(state, folder / PROJECTOR)
    if name == "stage2":
        vlm.llm.save_pretrained(folder / "llm")
        tokenizer.save_pretrained(folder / "llm")
    if name == "stage3":
        facts = {
            "objective": "language",
            "llm": config.llm.name if not Path(config.llm.name).exists() else Path(config.llm.name).name,
            "steps": fitted.steps,
            "layer": config.layer,
            "image_size": config.data.image_size,
            "seed": config.seed,
            "stage3": config.stage3.model_dump(mode="json") if config.stage3 else None,
        }
        own_name = config.encoder.name if config.encoder.name != "VisionTransformer" else None
        base = Path(own_name).name if own_name and Path(own_name).is_absolute() else own_name
        save_pretrained(vlm.encoder, folder / "delta", base=base, training=facts)


def _load_stage(vlm: SpatialVLM, folder: Path) -> None:
    vlm.projector.load_state_dict(load_file(folder / PROJECTOR))
    if (folder / "delta").exists():
        load_pretrained(vlm.encoder, folder / "delta")


@torch.no_grad()
def _check_reload(vlm: SpatialVLM, config: TrainConfig, delta: Path, images: ImageStore) -> None:
    """What was saved must make a fresh encoder see what the trained one sees."""
    row = next(i for i in range(len(images.rows)) if i not in images.skipped)
    device = next(vlm.parameters()).device
    pixels = images.pixel_values(row).to(device)
    fresh = load_pretrained(open_encoder(config.encoder), delta).to(device).eval()
    vlm.eval()
    ours, theirs = (read_tokens(encoder, pixels, layer=vlm.layer).patches for encoder in (vlm.encoder, fresh))
    if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
        difference = float((ours - theirs).abs().max())
        raise SpatialBoostError(
            f"the delta in {delta} does not give what was trained (difference {difference:.2g}): please report this"
        )


def _device(wanted: str) -> torch.device:
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def _is_main() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _wait() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _write_json(file: Path, value: Any) -> None:
    """All or nothing, so that a killed run leaves no half file behind."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)

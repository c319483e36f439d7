"""Answers of a run of ``spatialboost train`` with the teacher ``language``: encoder, projector and language model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language.teacher import LLM, PROJECTOR, build_llm, last_stage
from spatialboost.training.claim import CONFIG, DATA, ENCODER, PROCESSES
from spatialboost.training.config import load_config
from spatialboost.training.data import RowImages
from spatialboost.vlm.chat import IMAGE, encode_chat, stop_tokens, turn_endings
from spatialboost.vlm.image_prompt import ImagePrompt
from spatialboost.vlm.llms import load_llm
from spatialboost.vlm.model import SpatialVLM
from spatialboost.vlm.pooling import PatchPool
from spatialboost.vlm.projector import build_projector

RESULT = "result.json"  # a stage that has it is finished


class SpatialAnswerer:
    """A `SpatialVLM` that answers; replies are the most likely tokens (greedy).

    Args:
        vlm: The model.
        tokenizer: The tokenizer of its language model.
        images: How images are prepared for its encoder.
        facts: What the result says of it.
    """

    def __init__(self, vlm: SpatialVLM, tokenizer: Any, images: RowImages, facts: dict[str, Any]) -> None:
        self.vlm, self.tokenizer, self.images, self.facts = vlm.eval(), tokenizer, images, facts

    @torch.inference_mode()
    def __call__(self, prompt: str, images: Sequence[Any], *, max_new_tokens: int) -> str:
        """The reply."""
        if IMAGE in prompt:  # the text of a benchmark that shows where its images stand
            prompt = prompt.replace(IMAGE, "")
        content = f"{IMAGE}\n" * len(images) + prompt
        shown: Any = self.vlm.prompt
        messages = [{"role": "user", "content": content if shown is None else shown.reword(content)}]
        encoded = encode_chat(messages, self.tokenizer, num_visual_tokens=shown, add_generation_prompt=True)
        device = next(self.vlm.parameters()).device
        batch: dict[str, Any] = {name: encoded[name][None].to(device) for name in ("input_ids", "visual_mask")}
        if images:
            batch["pixel_values"] = self.images({"images": list(images)}).to(device)
        new = self.vlm.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop_tokens(self.tokenizer, self.vlm.llm) or None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        reply = self.tokenizer.decode(new[0], skip_special_tokens=True)
        for ending in turn_endings(self.tokenizer):  # of several tokens, at which generation does not stop
            reply = reply.partition(ending.strip())[0]
        return reply.strip()


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of ours, or a stage of one."""
    return any((each / CONFIG).is_file() and "teacher" in _config(each) for each in (folder, folder.parent))


def open_run(folder: Path, *, device: str = "auto") -> SpatialAnswerer:
    """The model of a run, with what its finished stages have learnt.

    Args:
        folder: The run; or one of its stages, without what later stages have learnt. So ``OUT/stage2`` answers with the
            base encoder, and ``OUT`` with the boosted one.
        device: ``auto``, or a name of torch.

    Raises:
        SpatialBoostError: The run has another teacher, or no finished stage.
    """
    from spatialboost.encoders import open_encoder
    from spatialboost.encoders.device import to_device
    from spatialboost.encoders.learnt import FOLDERS, load_learnt

    out = folder if (folder / CONFIG).is_file() else folder.parent
    given = {key: value for key, value in _config(out).items() if key not in (DATA, ENCODER, PROCESSES)}
    kind = given["teacher"].get("kind", "language")
    if kind != "language":
        raise SpatialBoostError(f"{out} is a run of the teacher {kind!r}, which does not answer; expected language")
    config = load_config({**given, "out": out, "device": "cpu"})
    names = list(config.stages)
    if folder != out:
        if folder.name not in names:
            raise SpatialBoostError(f"{folder} is no stage of the run in {out}, which has {', '.join(names)}")
        names = names[: names.index(folder.name) + 1]
    finished = [name for name in names if (out / name / RESULT).is_file()]
    if not finished or (folder != out and folder.name not in finished):
        raise SpatialBoostError(f"{folder}: no stage is finished, so there is nothing to ask yet")
    encoder = open_encoder(config.encoder, seed=config.seed)
    vlm, tokenizer, images = _model(config, out, finished, encoder)
    for name in finished:
        method = getattr(getattr(config, name), "method", None)
        if method is not None:
            load_learnt(encoder, out / name / FOLDERS[method])
    facts = {
        "model": out.name,
        "stages": finished,
        "encoder": Path(str(config.encoder.name)).name,
        "llm": Path(str(config.teacher.llm.name)).name,  # type: ignore[attr-defined]  # checked: language
        "image_size": config.data.image_size,
    }
    return SpatialAnswerer(to_device(vlm, device), tokenizer, images, facts)


def _model(config: Any, out: Path, finished: Sequence[str], encoder: Any) -> tuple[SpatialVLM, Any, RowImages]:
    """The parts of the run, without its data."""
    from spatialboost.teachers.language.projectors import load_projector

    options = config.teacher
    images = RowImages(encoder, config.data.image_size)
    pool = PatchPool(images.grid, options.pool)
    prompt = ImagePrompt(pool.grid, options.prompt, options.tokens_per_cell)
    earlier = None if options.earlier_run is None else last_stage(options.earlier_run)
    folders = [out / name for name in reversed(finished)] + ([] if earlier is None else [earlier])
    saved = next((each / LLM for each in folders if (each / LLM).is_dir()), None)
    if saved is not None:
        dtype = getattr(torch, options.llm.dtype)
        llm, tokenizer = load_llm(saved, dtype=dtype, quantization=options.llm.quantization)
    elif options.llm.name == "small":
        raise SpatialBoostError(f"{out}: its small language model is saved by stage2, which is not finished")
    else:
        llm, tokenizer = build_llm(options.llm, (), config.seed)
    projector = build_projector(encoder, llm, tokens_per_cell=options.tokens_per_cell, standardise=options.standardise)
    load_projector(projector, folders[0] / PROJECTOR)
    grid = pool.grid if options.places else None
    parts: dict[str, Any] = {"projector": projector, "pool": pool, "grid": grid, "prompt": prompt}
    return SpatialVLM(encoder, llm, layer=config.layer, **parts), tokenizer, images


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""A vision-language model that sees only through the scene adapter: a pretrained ViT-S gives sight to SmolLM2.

    python benchmarks/scene_adapter.py --assets ASSETS --out runs/scene-adapter     # one core: about 2 minutes

ASSETS holds `vit_small_patch14/` and `rgbd_room/`. A LLaVA is built of SmolLM2 and of a tower and a projector with
random weights: it is blind. Its visual tokens read the latents of the ViT-S through the adapter, which alone is
trained, on the first 70 % of the frames, to say whether the middle of a picture is near or far. Asked about the last
22 % of the frames. In OUT: `adapter.safetensors` and `result.json`.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from spatialboost.encoders import open_encoder
from spatialboost.multimodal import EncoderLatents, Sample, answer, attach_adapter, scenes
from spatialboost.multimodal.batches import InstructionCollator
from spatialboost.multimodal.training import train_adapter, training_arguments
from spatialboost.vlm.llms import load_llm

TRAIN, TEST = 0.70, 0.22  # of the frames
MIDDLE = 40  # half the side of the square in the middle, in pixels
QUESTION = "<image>Is the middle of the picture near or far? Answer with one word."
PLACEHOLDER = "<file_sep>"  # a token of SmolLM2's vocabulary that no text here has
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
    "{{ '" + PLACEHOLDER + "' if part.type == 'image' else part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=4, help="frames in a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--measure", type=int, default=12, help="frames of each part that are asked about")
    return parser.parse_args()


def build_llava() -> tuple[Any, Any]:
    """SmolLM2 in a LLaVA whose tower and projector have random weights, and its processor."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    llm, tokenizer = load_llm("smollm2")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=28, patch_size=14),
        text_config=llm.config,
        image_token_id=tokenizer.convert_tokens_to_ids(PLACEHOLDER),
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model: Any = LlavaForConditionalGeneration(config)
    model.model.language_model, model.lm_head = llm.model, llm.lm_head
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=PLACEHOLDER,
        num_additional_image_tokens=1,
    )
    return model.eval(), processor


def read_room(folder: Path) -> list[tuple[np.ndarray, float]]:
    """Frames with the median depth of their middle in metres; those with few readings there are left out."""
    found = []
    for path in sorted((folder / "rgb").glob("*.jpg")):
        depth = np.asarray(Image.open(folder / "depth" / f"{path.stem}.png"))
        row, column = depth.shape[0] // 2, depth.shape[1] // 2
        middle = depth[row - MIDDLE : row + MIDDLE, column - MIDDLE : column + MIDDLE]
        if (middle > 0).mean() > 0.5:
            found.append((np.asarray(Image.open(path).convert("RGB")), float(np.median(middle[middle > 0])) / 1000))
    return found


def share(answers: list[str], samples: list[Sample]) -> float:
    words = [sample.messages[-1]["content"] for sample in samples]
    return sum(given.strip(" .").lower() == word for given, word in zip(answers, words, strict=True)) / len(words)


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    weights = args.assets / "vit_small_patch14" / "model.safetensors"
    encoder = open_encoder("timm:vit_small_patch14_dinov2", weights=weights, image_size=112)
    latents = EncoderLatents(encoder, image_size=112)
    model, processor = build_llava()

    frames = read_room(args.assets / "rgbd_room")
    train, test = frames[: int(TRAIN * len(frames))], frames[-int(TEST * len(frames)) :]
    border = float(np.median([depth for _, depth in train]))

    def samples(part: list[tuple[np.ndarray, float]]) -> list[Sample]:
        return [
            Sample(
                [
                    {"role": "user", "content": QUESTION},
                    {"role": "assistant", "content": "near" if depth < border else "far"},
                ],
                [image],
            )
            for image, depth in part
        ]

    def some(part: list[Sample]) -> list[Sample]:
        return [part[i] for i in np.linspace(0, len(part) - 1, args.measure).astype(int)]

    taught = samples(train)
    asked = {"frames of the training": some(taught), "held-out frames": some(samples(test))}

    def ask(part: list[Sample], **options: Any) -> list[str]:
        scene = options.pop("scene", latents)
        return answer(model, processor, part, scene, max_new_tokens=3, batch_size=8, **options)

    batch = InstructionCollator(processor)(asked["held-out frames"][:4])
    views = batch.pop("views")
    with torch.no_grad():
        without = model(**batch).logits
        attach_adapter(model, latents.width)
        with scenes(model, latents(views)):
            assert torch.equal(model(**batch).logits, without), "the adapter changed the model before its training"
    before = {name: ask(part) for name, part in asked.items()}

    start = time.process_time()
    settings = {"max_steps": args.steps, "learning_rate": args.lr, "per_device_train_batch_size": args.batch}
    settings |= {"gradient_accumulation_steps": 1, "gradient_checkpointing": False, "save_strategy": "no"}
    train_adapter(model, processor, latents, taught, training_arguments(args.out, **settings), llm="frozen")
    seconds = time.process_time() - start

    def wrong_scene(views: Any) -> torch.Tensor:
        return latents(list(views)).roll(len(views) // 2, 0)

    wrong_scene.width = latents.width  # type: ignore[attr-defined]
    result: dict[str, Any] = {"border in m": round(border, 2), "seconds of training": round(seconds), "parts": {}}
    for name, part in asked.items():
        after = ask(part)
        words = [sample.messages[-1]["content"] for sample in part]
        result["parts"][name] = {
            "more frequent word": max(words.count("near"), words.count("far")) / len(words),
            "before": share(before[name], part),
            "after": share(after, part),
            "after, scene of another frame": share(ask(part, scene=wrong_scene), part),
            "after, text alone": share(ask(part, blind=True), part),
            "answers": list(zip(words, before[name], after, strict=True))[:: max(1, len(words) // 6)],
        }
    (args.out / "result.json").write_text(json.dumps(result, indent=2))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

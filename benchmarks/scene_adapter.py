"""A vision-language model that sees only through the scene adapter: a pretrained ViT-S gives sight to it.

    python benchmarks/scene_adapter.py --assets ASSETS --out runs/scene-adapter     # a minute of processor time
    python benchmarks/scene_adapter.py --assets ASSETS --out runs/scene-smollm2 --llm smollm2 --lr 1e-3 --steps 24
    python benchmarks/scene_adapter.py --assets ASSETS --out runs/scene-field --field proof/seed0/field

ASSETS holds `vit_small_patch14/` and `rgbd_room/`. A LLaVA is built whose vision tower and projector have random
weights and are not trained: it is nearly blind. Its visual tokens read the latents of the ViT-S, or of a trained field
(Spa3R), through the adapter.
With `--llm small` (a new language model of two layers) the language model is trained, too; SmolLM2 stays as it is. The
first 70 % of the frames teach whether the middle of a picture is near or far; the last 22 % are asked about. In OUT:
`adapter.safetensors` and `result.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from spatialboost.encoders import open_encoder
from spatialboost.multimodal import EncoderLatents, Sample, SceneEncoder, answer, attach_adapter, scenes
from spatialboost.multimodal.batches import InstructionCollator
from spatialboost.multimodal.training import train_adapter, training_arguments
from spatialboost.teachers.field import FieldLatents
from spatialboost.training.run import open_teacher
from spatialboost.vlm.llms import load_llm

TRAIN, TEST = 0.70, 0.22  # of the frames
MIDDLE = 40  # half the side of the square in the middle, in pixels
QUESTION = "<image>Is the middle of the picture near or far? Answer with one word."
# A token of the vocabulary that no text here has, and how a turn begins and ends
TURNS = {
    "small": ("<|system|>", "<|{{ m.role }}|>", "<|end|>", "<|assistant|>"),
    "smollm2": ("<file_sep>", "<|im_start|>{{ m.role }}\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--llm", choices=TURNS, default="small")
    parser.add_argument("--field", type=Path, help="a finished run of the teacher `field`, in place of the ViT-S")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8, help="frames in a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--frames", type=int, default=96, help="frames that teach")
    parser.add_argument("--measure", type=int, default=60, help="frames of each part that are asked about")
    return parser.parse_args()


def build_llava(name: str) -> tuple[Any, Any]:
    """A language model in a LLaVA whose tower and projector have random weights, and its processor."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    placeholder, head, end, ask = TURNS[name]
    template = (
        f"{{% for m in messages %}}{head}{{% for part in m.content %}}"
        f"{{{{ '{placeholder}' if part.type == 'image' else part.text }}}}{{% endfor %}}{end}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{ask}{{% endif %}}"
    )
    new: dict[str, Any] = {}
    if name == "small":
        texts = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "near"}]
        texts.append({"role": "assistant", "content": "\nnear\nfar"})
        new = {"conversations": [texts], "kind": "llama", "width": 64, "layers": 2, "heads": 4}
    llm, tokenizer = load_llm(name, **new)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=28, patch_size=14),
        text_config=llm.config,
        image_token_id=tokenizer.convert_tokens_to_ids(placeholder),
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
        chat_template=template,
        image_token=placeholder,
        num_additional_image_tokens=1,
    )
    return model.eval(), processor


def field_latents(run: Path, room: Path) -> FieldLatents:
    """The latents of a field; each sample is one frame of the room, whose camera is the world."""
    intrinsics_33 = np.loadtxt(room / "intrinsics.txt")
    return FieldLatents(open_teacher(run), lambda frames: ([np.eye(4)] * len(frames), [intrinsics_33] * len(frames)))


class Remembered:
    """Scene latents of one frame each, computed once."""

    def __init__(self, encode: SceneEncoder) -> None:
        self.encode, self.width = encode, encode.width
        self.found: dict[int, torch.Tensor] = {}

    def __call__(self, samples: Any, /) -> torch.Tensor:
        for views in samples:
            if id(views[0]) not in self.found:
                self.found[id(views[0])] = self.encode([views])[0]
        return torch.stack([self.found[id(views[0])] for views in samples])


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
    if args.field is None:
        weights = args.assets / "vit_small_patch14" / "model.safetensors"
        encoder = open_encoder("timm:vit_small_patch14_dinov2", weights=weights, image_size=112)
        latents = Remembered(EncoderLatents(encoder, image_size=112))
    else:
        latents = Remembered(field_latents(args.field, args.assets / "rgbd_room"))
    model, processor = build_llava(args.llm)

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

    def some(part: list[Sample], number: int) -> list[Sample]:
        return [part[i] for i in np.linspace(0, len(part) - 1, number).astype(int)]

    taught = some(samples(train), args.frames)
    asked = {
        "frames of the training": some(taught, args.measure),
        "held-out frames": some(samples(test), args.measure),
    }

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
    kind: Any = "full" if args.llm == "small" else "frozen"
    train_adapter(model, processor, latents, taught, training_arguments(args.out, **settings), llm=kind)
    seconds = time.process_time() - start

    def word_of(sample: Sample) -> str:
        return sample.messages[-1]["content"]

    def with_others(part: list[Sample]) -> list[Sample]:
        """The same questions and answers, each with a frame of which the other answer is right."""
        others = {word: [each.frames for each in part if word_of(each) != word] for word in ("near", "far")}
        used = {word: itertools.cycle(found) for word, found in others.items()}
        return [Sample(each.messages, next(used[word_of(each)])) for each in part]

    result: dict[str, Any] = {"border in m": round(border, 2), "seconds of training": round(seconds), "parts": {}}
    for name, part in asked.items():
        after = ask(part)
        words = [word_of(sample) for sample in part]
        result["parts"][name] = {
            "more frequent word": max(words.count("near"), words.count("far")) / len(words),
            "before": share(before[name], part),
            "after": share(after, part),
            "after, a frame with the other answer": share(ask(with_others(part)), part),
            "after, text alone": share(ask(part, blind=True), part),
            "answers": list(zip(words, before[name], after, strict=True))[:: max(1, len(words) // 6)],
        }
    (args.out / "result.json").write_text(json.dumps(result, indent=2))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

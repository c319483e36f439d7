"""Train an encoder with a language model: rooms -> conversations -> align, instruct, boost -> depth probe.

python examples/three_stages.py          # a pretrained ViT-S from the Hub and SmolLM2; use a GPU
python examples/three_stages.py --tiny   # tiny untrained models; takes seconds, offline; results mean nothing
"""

import logging
import sys
from pathlib import Path

import timm
import torch

import spatialboost as sb
from spatialboost.probes import depth_probe
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms
from spatialboost.teachers import language
from spatialboost.training import RowImages
from spatialboost.vlm.llms import load_llm
from spatialboost.vlm.model import SpatialVLM

TINY = "--tiny" in sys.argv
SIZE, ROOMS, HELD_OUT, STEPS, BATCH = (32, 16, 4, 2, 4) if TINY else (224, 4000, 64, 1000, 16)
out = Path("three_stages")
logging.basicConfig(level=logging.INFO, format="%(message)s")

# Conversations about rooms with exact geometry, as parquet shards
report = build_dataset(Rooms(ROOMS, size=96 if TINY else SIZE), out / "data", seed=0)
rows = open_rows([out / "data"])
print(f"{report.written} conversations, {sum(report.skipped.values())} rooms left out")

# Encoder -> projector -> language model
torch.manual_seed(0)
if TINY:
    encoder = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=SIZE, num_classes=0)
    llm, tokenizer = load_llm("small", conversations=rows["messages"], width=32, layers=1, heads=2)
else:
    encoder = timm.create_model("vit_small_patch14_dinov2", pretrained=True, img_size=SIZE, num_classes=0)
    llm, tokenizer = load_llm("smollm2")
vlm = SpatialVLM(encoder, llm)
images = RowImages(encoder, SIZE)
train = language.ChatDataset(rows, images, tokenizer, numbers=range(len(rows) - HELD_OUT))
held_out = language.ChatDataset(rows, images, tokenizer, numbers=range(len(rows) - HELD_OUT, len(rows)))

how = {"steps": STEPS, "batch_size": BATCH}
language.align(vlm, train, language.AlignConfig(**how), folder=out / "stage1")  # trains the projector
language.instruct(vlm, train, language.InstructConfig(**how), folder=out / "stage2")  # also the language model
for score in language.answer_accuracy(vlm, tokenizer, held_out, max_new_tokens=8 if TINY else 24):
    # if "image" is not better than "text", the language model does not use the image, and stage 3 cannot help
    print(f"{score.kind}, {score.answerer}: {score.accuracy:.2f}")
language.boost_encoder(vlm, train, language.BoostConfig(**how), folder=out / "stage3")  # trains Attn+ and gates

fit_on, test_on = (
    Rooms(24 if TINY else 400, first=10**6, size=SIZE),
    Rooms(8 if TINY else 100, first=2 * 10**6, size=SIZE),
)
print(depth_probe(encoder.cpu(), fit_on, test_on, image_size=SIZE))  # rooms that were not trained on
print(f"saved to {sb.save_pretrained(encoder, out / 'delta', training={'objective': 'language'})}")

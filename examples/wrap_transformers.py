"""Boost a vision model of transformers, train it on depth in a plain loop, and compare base and boosted by a probe.

python examples/wrap_transformers.py                               # facebook/dinov2-small, downloaded from the Hub
python examples/wrap_transformers.py google/siglip2-base-patch16-224
python examples/wrap_transformers.py --tiny                        # a tiny untrained DINOv2; takes seconds, offline
"""

import sys

import torch
from torch import nn
from transformers import AutoModel, Dinov2Config, Dinov2Model

import spatialboost as sb
from spatialboost.encoders import feature_dim, patch_size, prepare_images, read_tokens
from spatialboost.probes import depth_probe
from spatialboost.scenes.rooms import Rooms

TINY = "--tiny" in sys.argv
names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]

torch.manual_seed(0)
if TINY:
    config = Dinov2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    model = Dinov2Model(config)
else:
    model = AutoModel.from_pretrained(names[0] if names else "facebook/dinov2-small")
encoder = getattr(model, "vision_model", model)  # CLIP and SigLIP also have a text tower
size, steps, batch = (56, 20, 4) if TINY else (16 * patch_size(encoder), 300, 16)

sb.boost(encoder)
print(sb.status(encoder))

train, test = Rooms(24 if TINY else 400, size=size), Rooms(6 if TINY else 100, first=10_000, size=size)
views = [train[index] for index in range(len(train))]
images = prepare_images(encoder, [view.image_HW3 for view in views], size)
log_depths = torch.stack([torch.from_numpy(view.depth_HW) for view in views]).log()

head = nn.Linear(feature_dim(encoder), 1)
optimizer = torch.optim.AdamW([*sb.param_groups(encoder, lr=1e-4), {"params": head.parameters(), "lr": 1e-3}])
for _ in range(steps):
    drawn = torch.randint(len(images), (batch,))
    tokens = read_tokens(encoder, images[drawn])  # patches, grid and class token of any encoder
    truth = nn.functional.adaptive_avg_pool2d(log_depths[drawn], tokens.grid).flatten(1)
    loss = nn.functional.mse_loss(head(tokens.patches).squeeze(-1), truth)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss after {steps} steps: {loss.item():.4f}")

print(depth_probe(encoder, train, test, image_size=size))  # a new linear head for each, tested on held-out rooms
print(f"saved to {sb.save_pretrained(encoder, 'wrapped_transformers')}")

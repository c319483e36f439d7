"""Boost a timm model and train it in a plain PyTorch loop, here to predict the depth of procedural rooms.

python examples/wrap_timm.py           # a pretrained ViT-S, downloaded from the Hub
python examples/wrap_timm.py --tiny    # a tiny untrained model; takes seconds, offline
"""

import sys

import timm
import torch
from torch import nn

import spatialboost as sb
from spatialboost.encoders import prepare_images
from spatialboost.scenes.rooms import Rooms

TINY = "--tiny" in sys.argv
SIZE, STEPS, BATCH = (32, 20, 4) if TINY else (224, 300, 16)

torch.manual_seed(0)
if TINY:
    encoder = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=SIZE, num_classes=0)
else:
    encoder = timm.create_model("vit_small_patch14_dinov2", pretrained=True, img_size=SIZE, num_classes=0)

sb.boost(encoder)  # in place: the base weights are frozen; the output is still exactly the same
print(sb.status(encoder))

rooms = Rooms(BATCH * (4 if TINY else 50), size=SIZE)
views = [rooms[index] for index in range(len(rooms))]
images = prepare_images(encoder, [view.image_HW3 for view in views], SIZE)  # resized and normalised for this model
log_depths = torch.stack([torch.from_numpy(view.depth_HW) for view in views]).log()

head = nn.Linear(encoder.embed_dim, 1)
groups = sb.param_groups(encoder, lr=1e-4, weight_decay=0.05)  # Attn+ and gates; gates without weight decay
optimizer = torch.optim.AdamW([*groups, {"params": head.parameters(), "lr": 1e-3}])

for step in range(STEPS):
    batch = torch.randint(len(images), (BATCH,))
    patches = encoder.forward_features(images[batch])[:, encoder.num_prefix_tokens :]
    guess = head(patches).squeeze(-1)
    truth = nn.functional.adaptive_avg_pool2d(log_depths[batch], encoder.patch_embed.grid_size).flatten(1)
    loss = nn.functional.mse_loss(guess, truth)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % (STEPS // 10) == 0 or step == STEPS - 1:
        print(f"step {step}: loss {loss.item():.4f}")

encoder.eval()
with torch.no_grad(), sb.disabled(encoder):  # exactly the output of the encoder before boosting
    base = encoder(images[:BATCH])
with torch.no_grad():
    boosted = encoder(images[:BATCH])
print(f"the features have moved by {(boosted - base).norm() / base.norm():.1%}")
print(f"saved to {sb.save_pretrained(encoder, 'wrapped_timm')}")  # only Attn+ and gates; load them with load_pretrained

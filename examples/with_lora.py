"""LoRA in the MLPs and a spatial channel in the attention (`pip install peft`), trained and saved together.

python examples/with_lora.py         # ViT-S with random images; replace `loss` by your own task
python examples/with_lora.py --tiny  # a tiny model; takes seconds on a CPU
"""

import sys
from pathlib import Path

import peft
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import spatialboost as sb

tiny = "--tiny" in sys.argv
size = 32 if tiny else 224
folder = Path("with_lora")


def make_encoder() -> nn.Module:
    torch.manual_seed(0)
    options = {"depth": 2, "embed_dim": 32, "num_heads": 2} if tiny else {"pretrained": True}
    return timm.create_model("vit_small_patch16_224", img_size=size, num_classes=0, **options).eval()


def adapt(encoder: nn.Module) -> nn.Module:
    encoder = peft.inject_adapter_in_model(peft.LoraConfig(r=8, target_modules=["fc1", "fc2"]), encoder)
    for _, parameter in sb.named_parameters(encoder):
        parameter.requires_grad_(True)  # peft leaves only its own parameters trainable
    return encoder


def enable_lora(encoder: nn.Module, enabled: bool) -> None:
    for module in encoder.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.enable_adapters(enabled)


images = torch.rand(2, 3, size, size)
before = make_encoder()(images)
encoder = adapt(sb.boost(make_encoder()))
optimizer = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=1e-3)
for _ in range(3):
    encoder(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
assert sb.verify(encoder, images)

sb.save_pretrained(encoder, folder / "delta", training={"objective": "example", "adapters": "LoRA, r=8, in the MLPs"})
save_file(peft.get_peft_model_state_dict(encoder, adapter_name="default"), folder / "lora.safetensors")
again = adapt(sb.load_pretrained(make_encoder(), folder / "delta"))
peft.set_peft_model_state_dict(again, load_file(folder / "lora.safetensors"))
assert torch.allclose(again(images), encoder(images), atol=1e-6)
enable_lora(again, False)
with sb.disabled(again):
    assert torch.equal(again(images), before)
print(sb.status(again))

"""`import spatialboost` is light, and hands on the names of its public surface and nothing else."""

from __future__ import annotations

import subprocess
import sys

import spatialboost as sb

HEAVY = ("timm", "transformers", "huggingface_hub", "xformers", "peft", "torchvision", "datasets", "PIL")


def test_import_pulls_no_host():
    code = f"import sys, spatialboost; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_boosting_an_own_model_pulls_no_host():
    code = (
        "import sys, torch, spatialboost as sb\n"
        "class Attention(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.qkv = torch.nn.Linear(8, 24); self.proj = torch.nn.Linear(8, 8)\n"
        "    def forward(self, x):\n"
        "        q, k, v = self.qkv(x).chunk(3, -1)\n"
        "        return self.proj((q @ k.mT).softmax(-1) @ v)\n"
        "model = torch.nn.Sequential(Attention())\n"
        "sb.boost(model)(torch.rand(1, 4, 8))\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there_and_says_what_it_does():
    assert sorted(sb.__all__) == sb.__all__
    for name in sb.__all__:
        assert getattr(sb, name).__doc__, name

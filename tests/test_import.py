"""`import spatialboost` is light, and hands on the names of its public surface and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

import spatialboost as sb
from spatialboost import cli

HOSTS = {"timm", "transformers", "huggingface_hub", "xformers", "peft", "torchvision", "datasets", "PIL"}
HEAVY = HOSTS | {"torch._dynamo", "torch._inductor", "torch.onnx", "rich", "typer", "pydantic", "sympy"}


def loaded(code: str, names: set[str]) -> list[str]:
    """Which of these modules are loaded after the code has run, in a fresh process."""
    code += f"\nimport sys; print('loaded:', *sorted(set({sorted(names)!r}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


def test_import_pulls_nothing_heavy_and_not_even_torch():
    assert loaded("import spatialboost", HEAVY | {"torch", "einops", "numpy"}) == []


@pytest.mark.parametrize("name", ["boost", "load_pretrained", "status"])
def test_the_first_use_of_a_name_pulls_torch_and_nothing_heavy(name: str):
    by_torch = loaded("import torch", HEAVY)
    assert loaded(f"import spatialboost; spatialboost.{name}", HEAVY) == by_torch
    assert not {"torch._dynamo", *HOSTS} & set(by_torch)


def test_every_room_can_be_imported_first():
    for module in (
        "hosts",
        "hosts.protocol",
        "hosts.timm",
        "boosting.joint",
        "boosting.canonical",
        "weights.fingerprint",
    ):
        assert loaded(f"import spatialboost.{module}", {f"spatialboost.{module}", "torch._dynamo"}) == [
            f"spatialboost.{module}"
        ]


def test_boosting_an_own_model_pulls_no_host():
    code = (
        "import torch, spatialboost as sb\n"
        "class Attention(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.qkv = torch.nn.Linear(8, 24); self.proj = torch.nn.Linear(8, 8)\n"
        "    def forward(self, x):\n"
        "        q, k, v = self.qkv(x).chunk(3, -1)\n"
        "        return self.proj((q @ k.mT).softmax(-1) @ v)\n"
        "model = torch.nn.Sequential(Attention())\n"
        "sb.set_kernel(sb.boost(model), 'auto')(torch.rand(1, 4, 8))\n"
        "sb.status(model)"
    )
    assert loaded(code, HOSTS | {"torch._dynamo", "rich"}) == []


def test_help_pulls_typer_and_not_torch():
    code = (
        "import sys; sys.argv = ['spatialboost', '--help']\n"
        "from spatialboost import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass"
    )
    assert loaded(code, HEAVY | {"torch", "numpy", "einops"}) == ["rich", "typer"]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_line_of_help_is_the_commands_own(name: str):
    line, command = cli.COMMANDS[name][1], cli.DeferredCommand(name, *cli.COMMANDS[name]).command
    assert command.help.startswith(line) and command.name == name


def test_every_public_name_is_there_and_says_what_it_does():
    assert sorted(sb.__all__) == sb.__all__ and set(sb.__all__) <= set(dir(sb))
    for name in sb.__all__:
        assert getattr(sb, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'bost'"):
        sb.bost  # noqa: B018

"""What users give in place of a delta: the message says what it is and what to do, and nothing of it is opened."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import spatialboost as sb
from deltas import CONFIG, WEIGHTS, refused, save_tiny
from host_models import HOSTS, SIZE


def trained() -> torch.nn.Module:
    return sb.boost(HOSTS["timm"].make())


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        return {"x": torch.zeros(3, SIZE, SIZE)}


class Loss(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = trained()

    def forward(self, x: torch.Tensor) -> dict:
        return {"loss": self.encoder(x).square().mean()}


def test_a_checkpoint_of_the_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=1, save_steps=1, report_to=[], use_cpu=True, remove_unused_columns=False
    )
    transformers.Trainer(Loss(), arguments, train_dataset=Rows()).train()
    refused(
        tmp_path / "checkpoint-1", "is a checkpoint of the Trainer of transformers, not a delta: load its weights into"
    )


def test_a_checkpoint_of_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = trained()
    accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    accelerator.save_state(str(tmp_path / "state"))
    refused(tmp_path / "state", "is a checkpoint of accelerate, not a delta: load its weights into")


def test_an_adapter_of_peft(tmp_path):
    peft = pytest.importorskip("peft")
    peft.get_peft_model(HOSTS["vit"].make(), peft.LoraConfig(target_modules="all-linear")).save_pretrained(
        tmp_path / "lora"
    )
    refused(tmp_path / "lora", "is an adapter of peft, not a delta: load it with PeftModel")


def test_a_checkpoint_of_torch_distributed(tmp_path):
    import torch.distributed.checkpoint as dcp

    dcp.save(trained().state_dict(), checkpoint_id=tmp_path / "dcp", no_dist=True)
    refused(tmp_path / "dcp", "is a checkpoint of torch.distributed, not a delta")


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin", "last.ckpt"])
def test_a_file_of_torch_save(tmp_path, name, monkeypatch):
    torch.save(trained().state_dict(), tmp_path / name)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle is opened"))
    refused(tmp_path / name, "is a file of torch.save, which is a pickle and is never opened here")
    refused(tmp_path, f"is a folder with pickles such as {name}, which are never opened")


def test_a_whole_model(tmp_path):
    timm = pytest.importorskip("timm")
    HOSTS["vit"].make().save_pretrained(tmp_path / "hf")
    refused(tmp_path / "hf", r"is a whole model \(vit\), not a delta: load that model with its own library")
    timm.models.save_for_hf(HOSTS["timm"].make(), tmp_path / "timm", safe_serialization=True)
    refused(tmp_path / "timm", r"is a whole model \(vit_tiny_patch16_224\), not a delta")


def test_a_single_file(tmp_path):
    folder = save_tiny(tmp_path / "delta")
    refused(folder / WEIGHTS, "is one file of a delta: give its folder, .*delta")
    save_file(HOSTS["timm"].make().state_dict(), tmp_path / "vit.safetensors")
    refused(tmp_path / "vit.safetensors", "is a file with the tensors of a model, not a delta")
    (tmp_path / "cut.safetensors").write_bytes((folder / WEIGHTS).read_bytes()[:99])
    refused(tmp_path / "cut.safetensors", "is a damaged safetensors file")
    refused(folder / CONFIG, "is a file: give the folder")


def test_the_folder_of_a_run(tmp_path):
    delta = save_tiny(tmp_path / "run" / "stage3" / "delta")
    refused(tmp_path / "run", f"is the folder of a training run: give the delta in it, {delta}")


def test_a_delta_beside_other_files_is_a_delta(tmp_path):
    folder = save_tiny(tmp_path)
    for name in ("trainer_state.json", "adapter_config.json", "optimizer.bin"):
        (folder / name).write_text("{}")
    sb.load_pretrained(HOSTS["timm"].make(), folder)


def test_a_whole_model_on_the_hub(hub):
    HOSTS["vit"].make().push_to_hub("me/vit")
    refused("me/vit", r"It is the config of a whole model \(vit\), not of a delta")

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from spatialboost.boosting import status
from spatialboost.teachers.language import BoostConfig, InstructConfig, boost_encoder, instruct
from spatialboost.training.optimizers import Muon, build_optimizer, decay_groups, muon_groups


def test_a_state_that_is_loaded_goes_on_as_if_never_saved():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    twin = copy.deepcopy(layer)

    def optimizer(module):
        groups = [{"params": [module.weight], "lr": 0.02, "muon": True}, {"params": [module.bias], "lr": 1e-2}]
        return build_optimizer(groups, beta2=0.95, fused=False)

    def step(module, optimizer, x):
        module(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    ours, theirs = optimizer(layer), optimizer(twin)
    inputs = torch.randn(3, 2, 4)
    for x in inputs[:2]:
        step(layer, ours, x)
        step(twin, theirs, x)
    restored = optimizer(twin)
    restored.load_state_dict(copy.deepcopy(theirs.state_dict()))
    step(layer, ours, inputs[2])
    step(twin, restored, inputs[2])
    assert torch.equal(layer.weight, twin.weight) and torch.equal(layer.bias, twin.bias)
    restored.param_groups[0]["lr"] = 0.0  # a schedule's change reaches the optimiser of the group
    before = twin.weight.clone()
    step(twin, restored, inputs[0])
    assert torch.equal(twin.weight, before)


@pytest.mark.parametrize("shape", [(6, 6), (12, 4), (4, 12)])
def test_muon_steps_as_torchs_own_does_but_for_its_bfloat16(shape):
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    start = ours.detach().clone()
    optimizers = Muon([ours], lr=0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        gradient = torch.randn(shape)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours - start, theirs - start, rtol=0.05, atol=0.01)


def test_no_parameter_is_left_out_or_taken_twice(parts):
    vlm, _, _ = parts
    groups = muon_groups(decay_groups(vlm.llm, 1e-3, 0.1), 0.02, tables=vlm.llm)
    taken = [id(p) for group in groups for p in group["params"]]
    by_muon = {id(p) for group in groups if group.get("muon") for p in group["params"]}
    assert by_muon and id(vlm.llm.get_input_embeddings().weight) not in by_muon
    assert sorted(taken) == sorted(id(p) for p in vlm.llm.parameters())


def test_stage_2_trains_with_muon_and_resumes_its_checkpoint(parts, tmp_path):
    vlm, _, dataset = parts
    stage = InstructConfig(steps=4, batch_size=4, lr=1e-3, matrix_lr=0.02, save_every=2, log_every=1)
    fitted = instruct(vlm, dataset, stage, folder=tmp_path / "stage2", device="cpu")
    ended = [p.clone() for p in vlm.llm.parameters()]
    again = instruct(vlm, dataset, stage, folder=tmp_path / "stage2", device="cpu")
    # interrupted after the last step: there is nothing more to train
    assert fitted.steps == again.steps == 4 and again.resumed_from == 4 and again.history == fitted.history
    assert all(torch.equal(a, b) for a, b in zip(ended, vlm.llm.parameters(), strict=True))


def test_stage_3_trains_by_muon_through_the_fused_kernel(parts, tmp_path):
    vlm, _, dataset = parts
    stage = BoostConfig(steps=3, batch_size=4, lr=1e-3, matrix_lr=0.01, kernel="sdpa", save_every=0, log_every=1)
    boost_encoder(vlm, dataset, stage, folder=tmp_path / "stage3", device="cpu")  # MovementCheck runs here
    assert {layer.kernel for layer in status(vlm.encoder).layers} == {"sdpa"}

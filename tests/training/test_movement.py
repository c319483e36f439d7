from __future__ import annotations

import pytest
import torch
from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.training.movement import MovementCheck, state_digest


def step(check: MovementCheck, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    module(torch.ones(1, 2)).square().sum().backward()
    check.before_step()
    optimizer.step()
    check.after_step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
def test_digest_sees_one_changed_bit_and_swaps_that_cancel(dtype):
    values = torch.arange(1000).to(dtype) if dtype != torch.bool else torch.arange(1000) % 3 == 0
    before = state_digest(values)
    assert state_digest(values.clone()) == before
    one = values.clone()
    one[500] = torch.nextafter(one[500], torch.tensor(1e9, dtype=dtype)) if dtype != torch.bool else ~one[500]
    assert state_digest(one) != before
    if dtype == torch.float32:  # changes of +1 and -1 do not change the sum of the bits
        bits = values.view(torch.int32).clone()
        bits[700] += 1
        bits[701] -= 1
        assert state_digest(bits.view(torch.float32)) != before


def test_frozen_that_moves_is_named():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    module[0].requires_grad_(False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    check = MovementCheck(module)
    module(torch.ones(1, 2)).sum().backward()
    check.before_step()
    optimizer.step()
    with torch.no_grad():
        module[0].bias += 1e-6
    with pytest.raises(SpatialBoostError, match=r"0\.bias are frozen but have changed"):
        check.after_step()


def test_frozen_with_a_gradient_is_named():
    module = nn.Linear(2, 1)
    module(torch.ones(1, 2)).sum().backward()
    module.bias.requires_grad_(False)
    with pytest.raises(SpatialBoostError, match="bias are frozen but have gradients"):
        MovementCheck(module).before_step()


def test_what_is_not_in_the_optimiser_is_named():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with pytest.raises(
        SpatialBoostError, match=r"1\.bias, 1\.weight should be trained but have not changed in the first step"
    ):
        step(MovementCheck(module), module, torch.optim.SGD(module[0].parameters(), lr=0.1))


def test_what_the_loss_does_not_depend_on_is_named():
    module = nn.Linear(2, 1)
    module.unused = nn.Parameter(torch.zeros(1))
    with pytest.raises(SpatialBoostError, match="unused should be trained but got no gradient"):
        step(MovementCheck(module), module, torch.optim.SGD(module.parameters(), lr=0.1))


def test_steps_that_half_precision_rounds_away_are_seen():
    module = nn.Linear(2, 1).bfloat16()
    nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6)
    check = MovementCheck(module)
    module(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    check.before_step()
    optimizer.step()
    with pytest.raises(SpatialBoostError, match="half precision"):
        check.after_step()


class Gated(nn.Module):
    """As in a boosted layer: both branches are equal at first, so the gate's gradient is exactly zero."""

    def __init__(self, dead: bool = False) -> None:
        super().__init__()
        self.base = nn.Linear(2, 2).requires_grad_(False)
        self.plus = nn.Linear(2, 2)
        self.plus.load_state_dict(self.base.state_dict())
        self.gate = nn.Parameter(torch.zeros(2))
        self.dead = dead

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = (self.gate * 0 if self.dead else self.gate).sigmoid()
        return torch.lerp(self.plus(x), self.base(x), share)


def test_gates_get_a_second_step():
    module = Gated()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3, weight_decay=0)
    check = MovementCheck(module)
    step(check, module, optimizer)
    assert check.waiting == {"gate"} and not check.done
    step(check, module, optimizer)
    assert check.done


def test_a_dead_gate_is_named_after_two_steps():
    module = Gated(dead=True)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3, weight_decay=0)
    check = MovementCheck(module)
    step(check, module, optimizer)
    with pytest.raises(SpatialBoostError, match="gate should be trained but have not changed in two steps"):
        step(check, module, optimizer)

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.training.config import StageConfig
from spatialboost.training.fit import WEIGHTS, cosine_schedule, fit, last_checkpoint, remove_checkpoints


class Line(nn.Module):
    """A minimal objective: fit a line; `frozen` must not change."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 1).requires_grad_(False)
        with torch.no_grad():
            self.encoder.weight.fill_(0.1)
            self.encoder.bias.fill_(0.2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.encoder(x)[:, 0] + 0 * self.frozen(x)[:, 0] - y).square().mean()}


def points(count: int = 12) -> list[dict[str, torch.Tensor]]:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "y": row[0] - 2 * row[1] + 1} for row in x]


def run(folder: Path, *, objective: nn.Module | None = None, groups=None, **stage):
    objective = objective or Line()
    groups = groups or [{"params": list(objective.encoder.parameters()), "lr": 0.05}]
    options = {"steps": 10, "batch_size": 4, "log_every": 1, "save_every": 0, **stage}
    return objective, fit(objective, points(), groups, StageConfig(**options), folder=folder, device="cpu")


def test_trains_what_the_groups_say(tmp_path):
    _, fitted = run(tmp_path, steps=80)
    losses = [entry["loss"] for entry in fitted.history]
    assert len(losses) == fitted.steps == 80 and losses[-1] < 0.05 * losses[0]
    assert fitted.trainable == {"encoder": (3, 3), "frozen": (0, 3)}


def test_same_seed_same_weights(tmp_path):
    weights = [run(tmp_path / name, steps=5)[0].encoder.weight for name in "ab"]
    assert torch.equal(*weights)


def test_accumulated_is_the_large_batch(tmp_path):
    whole, parts = (run(tmp_path, steps=3, batch_size=b, accumulate=a)[0] for b, a in ((12, 1), (3, 4)))
    assert torch.allclose(whole.encoder.weight, parts.encoder.weight, atol=1e-5)


def test_forgotten_parameters_are_named(tmp_path):
    objective = Line()
    with pytest.raises(SpatialBoostError, match=r"differ on \['encoder.bias'\]"):
        run(tmp_path, objective=objective, groups=[{"params": [objective.encoder.weight], "lr": 0.1}])


def test_movement_is_checked(tmp_path):
    class Thief(Line):
        def forward(self, x, y):
            self.frozen.weight.data += 1e-3
            return super().forward(x, y)

    with pytest.raises(SpatialBoostError, match=r"frozen.weight are frozen but have changed"):
        run(tmp_path, objective=Thief())


def test_schedule_rises_and_falls():
    shape = [cosine_schedule(100, 0.1, 0.2)(step) for step in range(100)]
    assert shape[0] == 0.1 and max(shape) == shape[9] == 1
    assert all(a > b for a, b in pairwise(shape[10:])) and 0.2 < shape[-1] < 0.21
    assert cosine_schedule(5, 0.0, 0.0)(0) == 1


def test_checkpoint_holds_only_what_is_trained(tmp_path):
    run(tmp_path, steps=4, save_every=2)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    assert set(load_file(tmp_path / "checkpoint-4" / WEIGHTS)) == {"encoder.weight", "encoder.bias"}
    assert not list(tmp_path.rglob("training_args.bin"))
    remove_checkpoints(tmp_path)
    assert last_checkpoint(tmp_path) is None


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    run(tmp_path, steps=4, save_every=2)
    torn = tmp_path / "checkpoint-9"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step":')
    assert last_checkpoint(tmp_path).name == "checkpoint-4"


def test_checkpoint_of_another_training_is_refused(tmp_path):
    run(tmp_path, steps=4, save_every=2)
    objective = Line()
    objective.encoder.bias.requires_grad_(False)
    with pytest.raises(SpatialBoostError, match=r"other parameters were trained \(such as encoder.bias\)"):
        run(tmp_path, objective=objective, groups=[{"params": [objective.encoder.weight], "lr": 0.1}], steps=8)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_fit

class Dies(test_fit.Line):
    calls = 0

    def forward(self, x, y):
        Dies.calls += 1
        if Dies.calls == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x, y)

test_fit.run(Path(sys.argv[1]), objective=Dies(), steps=10, save_every=3)
"""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    whole, fitted = run(tmp_path / "whole", steps=10, save_every=3)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(Path(__file__).parent)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert last_checkpoint(tmp_path / "killed").name == "checkpoint-6"
    resumed, again = run(tmp_path / "killed", steps=10, save_every=3)
    assert again.resumed_from == 6 and again.steps == 10
    assert torch.equal(resumed.encoder.weight, whole.encoder.weight)
    assert torch.equal(resumed.encoder.bias, whole.encoder.bias)
    assert [e["loss"] for e in again.history] == [e["loss"] for e in fitted.history]
    assert json.dumps(again.history)

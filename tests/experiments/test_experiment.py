from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spatialboost.errors import SpatialBoostError
from spatialboost.experiments.experiment import run_experiment
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
from training_rows import SHAPE, make_rows, write_parquet

CONTROL = "shuffled answers"


def settings(folder) -> dict[str, Any]:
    stage = {"steps": 2, "batch_size": 4, "log_every": 1, "save_every": 0, "lr": 1e-2}
    llm = {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE},
        "teacher": {"kind": "language", "llm": llm, "evaluate": 0},
        "data": {"folders": [str(folder)], "image_size": 32, "held_out": 4, "workers": 0},
        **{f"stage{number}": stage for number in (1, 2, 3)},
        "device": "cpu",
    }


def brightness(encoders) -> ProbeResult:
    """Something that differs as soon as the weights do."""
    pixels = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        rows = [ProbeRow(name, None, {"mean": float(model(pixels).mean())}) for name, model in encoders.items()]
    return ProbeResult("mean token", {}, {"mean": Metric("mean")}, rows)


def test_base_boosted_and_control_with_two_seeds(tmp_path):
    config, out = settings(write_parquet(make_rows(16), tmp_path / "data")), tmp_path / "out"
    experiment = run_experiment(config, out, probes={"mean": brightness}, seeds=[0, 1])
    for run in experiment.runs:
        values = {name: run.probes["mean"].values(name, "mean")[0] for name in ("base", "boosted", CONTROL)}
        assert len(set(values.values())) == 3
        own, shared = (out / f"seed{run.seed}" / name / "stage2" for name in ("boosted", CONTROL))
        ours, theirs = (load_file(folder / "projector.safetensors") for folder in (own, shared))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)  # the control begins stage 3 from the same
    assert experiment.runs[0].probes["mean"].rows != experiment.runs[1].probes["mean"].rows
    facts = json.loads((out / "result.json").read_text())
    assert facts["verdicts"]["mean"] == experiment.verdict("mean") and len(facts["runs"]) == 2
    again = run_experiment(config, out, probes={"mean": brightness}, seeds=[0, 1])  # finished stages are loaded
    histories = [each.runs[0].stages["boosted"]["stage3"]["fit"]["history"] for each in (experiment, again)]
    assert histories[0] == histories[1]
    assert again.runs[1].probes["mean"].rows == experiment.runs[1].probes["mean"].rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "without a seed"),
        ({"controls": {"boosted": {"stage3.steps": 1}}}, "a control is named 'boosted'"),
        ({"controls": {"typo": {"stage3.shufle": True}}}, 'unknown key "stage3.shufle"'),
        ({"controls": {"typo": {"data.folders.first": 1}}}, "'folders' is .*not a section of settings"),
    ],
)
def test_mistakes_are_met_before_anything_is_trained(tmp_path, options, message):
    with pytest.raises(SpatialBoostError, match=message):
        run_experiment(settings(tmp_path), tmp_path / "out", probes={"mean": brightness}, **options)
    assert not (tmp_path / "out").exists()

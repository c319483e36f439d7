"""Results of probes in the card of a delta that was saved before they were measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, hf_hub_download

import spatialboost as sb
from deltas import CONFIG, WEIGHTS
from host_models import HOSTS, perturb
from spatialboost import cli
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
from spatialboost.weights.add_results import with_results
from spatialboost.weights.read import read_folder

REPO = "me/delta"


def result(probe: str = "depth", **settings) -> ProbeResult:
    rows = [
        ProbeRow(name, seed, {"rmse": value}, per_view=[value + item / 10 for item in range(8)])
        for name, value in (("base", 0.5), ("boosted", 0.4)) for seed in (0, 1)
    ]  # fmt: skip
    about = {"data": "rooms:8", "left out": ["/home/me/secret/1.png: broken"], **settings}
    return ProbeResult(probe, about, {"rmse": Metric("RMSE", "m")}, rows)


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    folder = tmp_path / "probes"
    facts = {"base": {"layer": 1, "encoder": {"fingerprint": {"q": [0.1]}}}}
    result(encoders=facts, options={"out": "/home/me/out"}).save(folder / "a")
    result("knn").save(folder)
    (folder / "a" / "other.json").write_text('{"no": "probe"}')
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return sb.save_pretrained(perturb(sb.boost(HOSTS["timm"].make())), tmp_path / "delta", training={"steps": 3})


def test_the_text_of_a_licence_goes_along(tmp_path: Path, saved: Path) -> None:
    (saved / "LICENSE").write_text("of the base")
    copy = with_results(read_folder(saved), result().to_dict(), tmp_path / "copy")
    assert (copy / "LICENSE").read_text() == "of the base"


def test_a_folder_of_results_is_in_config_and_card(tmp_path: Path, probes: Path) -> None:
    folder = sb.save_pretrained(sb.boost(HOSTS["timm"].make()), tmp_path / "delta", results=probes)
    card = (folder / "README.md").read_text()
    assert "## Probes: base against boosted" in card and card.count("## Probe: ") == 2
    row = next(line for line in card.splitlines() if line.startswith("| depth | rooms:8 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == "RMSE \\[m\\] (lower is better)" and cells[3:6] == ["0.5", "0.4", "-0.1"]
    assert cells[6] == "-0.1 (-0.1 to -0.1), 8 items" and cells[7] == "0.0078"
    text = (folder / CONFIG).read_text()
    assert "/home/me" not in text + card and "fingerprint" not in json.dumps(json.loads(text)["results"])
    assert json.loads(text)["results"][0]["settings"]["left out"] == 1


@pytest.mark.parametrize("size", ["5GB", "10KB"])
def test_the_copy_has_the_same_weights_and_the_original_stays(tmp_path: Path, saved: Path, probes: Path, size) -> None:
    sb.save_pretrained(
        sb.load_pretrained(HOSTS["timm"].make(), saved), saved, max_shard_size=size, results=result().to_dict()
    )
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    copy = with_results(read_folder(saved), probes, tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    old, new = read_folder(saved), read_folder(copy)
    assert new.checksums == old.checksums and new.config["checksum"] != old.config["checksum"]
    assert [each["probe"] for each in new.config["results"]] == ["depth", "knn"]
    assert {k: v for k, v in new.config.items() if k not in ("results", "checksum")} == {
        k: v for k, v in old.config.items() if k not in ("results", "checksum")
    }
    ours, theirs = (sb.load_pretrained(HOSTS["timm"].make(), folder) for folder in (copy, saved))
    pairs = zip(sb.named_parameters(ours), sb.named_parameters(theirs), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_push_with_results(hub, saved: Path, probes: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    before = (saved / WEIGHTS).read_bytes()
    monkeypatch.setattr(sys, "argv", ["spatialboost", "push", str(saved), REPO, "--results", str(probes)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, capsys.readouterr().err
    card = ModelCard(Path(hf_hub_download(REPO, "README.md")).read_text())
    assert "| steps | 3 |" in card.text and "base against boosted" in card.text
    assert {each.task_name: each.metric_value for each in card.data.eval_results} == {
        "depth probe": pytest.approx(0.4), "knn probe": pytest.approx(0.4),
    }  # fmt: skip
    assert sb.load_pretrained(HOSTS["timm"].make(), REPO) is not None and (saved / WEIGHTS).read_bytes() == before


def test_folders_without_a_result(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(sb.SpatialBoostError, match=f"{name}.*(none is the result|cannot be read)"):
            with_results(read_folder(saved), tmp_path / name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("test", [None, 3, [], {"boosted": 3}, {"boosted": {"mean": "x", "p": 10**400, "metric": []}}])
def test_a_paired_test_that_is_none(tmp_path: Path, test) -> None:
    content = {**result().to_dict(), "paired": test, "metrics": test, "gain": test}
    folder = sb.save_pretrained(sb.boost(HOSTS["timm"].make()), tmp_path / "delta", results=content)
    assert "| depth | rooms:8 |" in (folder / "README.md").read_text()

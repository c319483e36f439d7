from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from spatialboost.cli import app
from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.experiments.proof import Proof
from spatialboost.experiments.proof_file import PROOFS, merged, proof_names, read_proof
from spatialboost.experiments.proof_page import compared, write_page
from spatialboost.probes.result import Metric, ProbeResult, ProbeRow
from training_rows import SHAPE

STAGE = {"steps": 1, "batch_size": 4, "log_every": 1, "save_every": 0, "lr": 1e-2}


def content() -> dict:
    llm = {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}}
    return {
        "title": "A small proof",
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE},
        "image_size": 32,
        "datasets": {"rooms": {"source": {"rooms": 12}, "turns": {"depth": 1}, "wordings": 2}},
        "common": {"data": {"held_out": 2, "workers": 0}, "device": "cpu"},
        "rows": {
            "language": {
                "datasets": ["rooms"],
                "seeds": 2,
                "run": {
                    "teacher": {"kind": "language", "llm": llm, "evaluate": 0},
                    **{f"stage{number}": STAGE for number in (1, 2, 3)},
                },
            },
            "shuffled answers": {
                "like": "language",
                "begin_at": "stage3",
                "run": {"stage3": {"shuffle_answers": True}},
            },
            "less data": {"like": "language", "begin_at": "stage3", "run": {"data": {"limit": 4}}},
            "pixel depth": {
                "datasets": ["rooms"],
                "run": {"teacher": {"kind": "pixel", "evaluate": 0}, "head": STAGE, "boost": STAGE},
            },
        },
        "probes": {
            "depth": {"probe": "depth", "train": {"rooms": 6, "first": 500}, "test": {"rooms": 3, "first": 600}},
            "classes": {"probe": "knn", "open": {"train": "photos/train", "test": "photos/test"}},
        },
        "claims": [{"paper": "Language helps.", "rows": ["language", "base"], "why": "It is small."}],
    }


def written(folder: Path, **changes) -> Path:
    file = folder / "proof.yaml"
    file.write_text(yaml.safe_dump(merged(content(), changes), sort_keys=False))
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Proof:
    folder = tmp_path_factory.mktemp("proof")
    proof = Proof(read_proof(written(folder)), folder / "out")
    proof.run()
    return proof


def test_each_cell_is_trained_and_measured_by_the_same_probe(finished):
    results = finished.results()
    assert {row: len(found) for row, found in results["depth"].items()} == {
        "base": 1,
        "language": 2,
        "shuffled answers": 1,
        "less data": 1,
        "pixel depth": 1,
    }
    errors = [each.values(row, "rmse")[0] for row, found in results["depth"].items() for each in found]
    assert len(set(errors)) == len(errors)  # each training has changed the encoder in its own way
    for row in ("shuffled answers", "less data"):
        ours, theirs = (
            load_file(finished.folder(each, 0) / "stage2/projector.safetensors") for each in (row, "language")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)  # stage 3 begins from the same
    assert list(finished.own_stages("shuffled answers", 0)) == ["stage3"]
    with torch.no_grad():
        pixels = torch.rand(1, 3, 32, 32)
        base, trained = (read_tokens(finished.open(row, 0), pixels).patches for row in ("base", "language"))
    assert not torch.equal(base, trained)


def test_a_second_call_does_nothing_again_and_a_changed_probe_is_measured_again(finished):
    def times() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in finished.out.glob("seed*/**/*.json") if "result" in file.name}

    probe = finished.out / "seed0/probes/depth/pixel depth/depth.json"
    before, measured = times(), probe.stat().st_mtime_ns
    Proof(finished.file, finished.out).run(rows=["pixel depth"])
    assert times() == before and probe.stat().st_mtime_ns == measured
    other = finished.file.model_copy(deep=True)
    other.probes["depth"].options = {"seeds": [0]}
    Proof(other, finished.out).run(rows=["pixel depth"])
    assert times() == before and probe.stat().st_mtime_ns > measured
    Proof(finished.file, finished.out).run(rows=["pixel depth"])


def test_the_page_and_the_json_say_what_was_seen_and_what_was_not(finished, tmp_path):
    assert list(finished.left_out) == ["classes"] and "--data" in finished.left_out["classes"]
    page = write_page(finished).read_text()
    spread = finished.results()["depth"]["pixel depth"][0].spread("pixel depth", "rmse").mean
    assert f"{spread:.3f}" in page and "not measured" in page and "It is small." in page
    assert "better in" in page and "- classes: it needs photos/" in page
    facts = json.loads(finished.save().read_text())
    assert len(facts["probes"]["depth"]["language"]) == 2 and facts["versions"]["torch"]
    empty = Proof(finished.file, tmp_path / "empty")
    empty.out.mkdir()
    assert "| language | not measured | not measured |" in write_page(empty).read_text()


def test_rows_are_compared_seed_by_seed():
    def result(row: str, value: float) -> ProbeResult:
        rows = [ProbeRow(row, 0, {"rmse": value}, per_view=[value] * 8)]
        return ProbeResult("depth", {}, {"rmse": Metric("RMSE", "m")}, rows)

    seeds = {"base": [0.5], "boosted": [0.4, 0.6, 0.3], "control": [0.7, 0.5, 0.2]}
    results = {row: [result(row, value) for value in values] for row, values in seeds.items()}
    assert compared(results, "boosted", "base").startswith(
        "0.433 against 0.500 (-0.067, -13.3%; better in 2 of 3 seeds"
    )
    assert "better in 1 of 3 seeds" in compared(results, "boosted", "control")
    assert compared(results, "boosted", "LoRA") == "LoRA: not measured"


def test_a_result_is_read_as_it_was_saved(tmp_path):
    rows = [ProbeRow("base", seed, {"rmse": 0.5 + seed}, {"ridge": 0.1}, [0.4, 0.6]) for seed in (0, 1)]
    result = ProbeResult("depth", {"layer": -1}, {"rmse": Metric("RMSE", "m")}, rows)
    result.save(tmp_path)
    found = ProbeResult.read(tmp_path / "depth.json")
    assert found.to_dict() == result.to_dict()


@pytest.mark.parametrize("name", proof_names())
def test_the_proofs_of_the_library_can_be_run(name, tmp_path):
    file = read_proof(name)
    try:
        proof = Proof(file, tmp_path, data=None)
    except SpatialBoostError as error:  # an encoder or a language model that is not on this machine
        pytest.fail(str(error))
    assert proof.cells() and list(tmp_path.iterdir()) == []
    assert (PROOFS / f"{name}.yaml").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"language": {"like": "other"}}}, "is like 'other'; expected a row above it"),
        ({"rows": {"base": {"datasets": ["rooms"]}}}, "a row is named 'base'"),
        ({"rows": {"a/b": {"datasets": ["rooms"]}}}, "'a/b' is also the name of a folder"),
        ({"rows": {"pixel depth": {"datasets": ["walks"]}}}, "has the dataset 'walks'; there are"),
        ({"rows": {"pixel depth": {"begin_at": "boost"}}}, "expected `like` as well"),
        ({"rows": {"less data": {"begin_at": "boost"}}}, "begins at 'boost', but its stages are"),
        ({"rows": {"pixel depth": {"run": {"boost": {"stepz": 1}}}}}, "row 'pixel depth': .*stepz"),
        ({"probes": {"depth": {"probe": "dept"}}}, "unknown probe 'dept'.*Did you mean 'depth'"),
        ({"probes": {"depth": {"options": {"ridg": 1}}}}, "unknown option 'ridg'"),
        ({"probes": {"depth": {"open": {"data": "rooms:3"}}}}, "expected either test or open"),
        ({"probes": {"depth": {"test": {"rooms": None}}}}, "expected either rooms or folder"),
        ({"probes": {"depth": {"test": {"part": [0.5, 0.5]}}}}, "expected two shares"),
        ({"claims": [{"paper": "x", "rows": ["language", "magic"]}]}, "compares the row 'magic'"),
        ({"image_size": 0}, "image_size"),
    ],
)
def test_mistakes_in_the_file_are_met_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(SpatialBoostError, match=message):
        Proof(read_proof(written(tmp_path, **changes)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_page_and_refuses_a_folder_that_is_not_there(finished, tmp_path):
    file, out = written(tmp_path), str(finished.out)
    done = CliRunner().invoke(app, ["proof", "--config", str(file), "--out", out, "--page-only"])
    assert done.exit_code == 0 and "proof.md" in done.output
    missing = CliRunner().invoke(app, ["proof", "--config", str(file), "--out", out, "--data", str(tmp_path / "none")])
    assert isinstance(missing.exception, SpatialBoostError) and "which is no folder" in str(missing.exception)


def test_wrong_rows_seeds_and_folders(tmp_path):
    proof = Proof(read_proof(written(tmp_path)), tmp_path / "out")
    with pytest.raises(SpatialBoostError, match="Did you mean 'language'"):
        proof.cells(["langage"])
    with pytest.raises(SpatialBoostError, match="seed 5 is not in the proof"):
        proof.cells(seeds=[5])
    with pytest.raises(SpatialBoostError, match=r"row 'pixel depth' has no seed 1; its seeds are \[0\]"):
        proof.cells(["pixel depth"], [1])
    with pytest.raises(SpatialBoostError, match="unknown proof 'tinny'"):
        read_proof("tinny")
    with pytest.raises(SpatialBoostError, match="cannot read"):
        read_proof(tmp_path / "none.yaml")

"""Reading: damaged, foreign and hostile files are refused with a clear error, and the model is left as it was."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import spatialboost as sb
from deltas import CONFIG, INDEX, WEIGHTS, metadata, refused, rewrite, save_tiny
from host_models import HOSTS, WIDTH, perturb
from spatialboost.boosting.canonical import plus_tensors
from spatialboost.boosting.channel import boosted_layers
from spatialboost.weights.read import read_delta

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_tiny(tmp_path / "delta")


@pytest.fixture
def shards(tmp_path) -> Path:
    return save_tiny(tmp_path / "shards", max_shard_size="10KB")


def edit_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def loads_as_saved_or_is_refused(folder: Path, saved: Path | None = None) -> bool:
    """Whether it loads, and then the values and facts that were saved; if not, nothing has happened to the model."""
    model = HOSTS["timm"].make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        sb.load_pretrained(model, folder)
    except sb.SpatialBoostError:
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        return False
    expected = perturb(sb.boost(HOSTS["timm"].make()))
    for (_, a), (_, b) in zip(sb.named_parameters(model), sb.named_parameters(expected), strict=True):
        assert torch.equal(a, b)
    assert saved is None or read_delta(folder).config == read_delta(saved).config
    return True


# --- versions


def test_a_file_of_version_1(tmp_path, caplog):
    """`data/delta_v1` was written by the code of version 1, in bfloat16, for block 1 of the tiny encoder."""
    folder = Path(__file__).parent / "data" / "delta_v1"
    assert json.loads((folder / CONFIG).read_text())["format_version"] == 1
    assert "checksums" not in metadata(folder / WEIGHTS)
    expected = perturb(sb.boost(HOSTS["timm"].make(), layers=[1]))
    loaded = sb.load_pretrained(HOSTS["timm"].make(), folder)
    for (name, a), (_, b) in zip(sb.named_parameters(loaded), sb.named_parameters(expected), strict=True):
        assert torch.equal(a, b if name.endswith("gate") else b.bfloat16().float()), name
    assert read_delta(folder).config["checksum"] is None and "older format without checksums" in caplog.text
    again = sb.save_pretrained(loaded, tmp_path, dtype=torch.bfloat16)
    caplog.clear()
    assert read_delta(again).config["format_version"] == 2 and caplog.text == ""
    old, new = load_file(folder / WEIGHTS), load_file(again / WEIGHTS)
    assert old.keys() == new.keys() and all(torch.equal(old[key], new[key]) for key in old)


def test_a_newer_version(saved):
    rewrite(saved, format_version=3)
    refused(saved, "has format 3; this version of spatialboost reads up to 2. Upgrade")


@pytest.mark.parametrize("version", [0, -1, True, "2", 1.0, None, "absent"])
def test_invalid_versions(saved, version):
    rewrite(saved, format_version=version)
    refused(saved, "format_version")


# --- damage


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_truncated_file(saved, cut):
    path = saved / WEIGHTS
    path.write_bytes(path.read_bytes()[:-cut])
    refused(saved, "is not a complete safetensors file")


@FUZZ
@given(st.integers(0), st.integers(0, 7))
def test_any_flipped_bit_is_found(saved, at, bit):
    raw = bytearray((saved / WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    at = start + at % (len(raw) - start)
    raw[at] ^= 1 << bit
    damaged = saved.parent / "flipped"
    damaged.mkdir(exist_ok=True)
    (damaged / WEIGHTS).write_bytes(raw)
    refused(damaged, "is damaged: the checksum of layers")


@FUZZ
@given(st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_of_the_header_is_found_or_changes_nothing(saved, at, bit):
    raw = bytearray((saved / WEIGHTS).read_bytes())
    raw[at % (8 + int.from_bytes(raw[:8], "little"))] ^= 1 << bit
    damaged = saved.parent / "flipped"
    damaged.mkdir(exist_ok=True)
    (damaged / WEIGHTS).write_bytes(raw)
    loads_as_saved_or_is_refused(damaged, saved)


@FUZZ
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=12))
def test_a_damaged_header_loads_as_saved_or_is_refused(saved, at, noise):
    raw = (saved / WEIGHTS).read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    at %= header
    damaged = saved.parent / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / WEIGHTS).write_bytes(raw[:at] + noise + raw[at + len(noise) :])
    loads_as_saved_or_is_refused(damaged, saved)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("format_version", "base_model", "width", "depth", "layers", "gate", "fingerprint", "checksum", "training")


@FUZZ
@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.just("absent"), min_size=1, max_size=3))
def test_any_config_loads_or_is_refused(saved, changes):
    folder = saved.parent / "fuzzed"
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    rewrite(folder, **changes)
    if loads_as_saved_or_is_refused(folder):
        own, config = json.loads((saved / CONFIG).read_text()), read_delta(folder).config
        assert all(config[key] == own[key] for key in FIELDS[2:7])


@FUZZ
@given(st.dictionaries(st.sampled_from(["weight_map", "metadata", "else"]), JSON, max_size=3) | JSON)
def test_any_index_loads_or_is_refused(shards, index):
    (shards / INDEX).write_text(json.dumps(index))
    refused(shards, "is not JSON|is not the config of a delta|is not an object|names the file|which is not there")


def test_a_config_file_that_differs_from_the_header(saved, caplog):
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(config | {"training": {"steps": 4}}))
    assert read_delta(saved).config["training"] == {"steps": 3}
    assert "differs from the config that" in caplog.text


def test_missing_checksums(saved):
    text = metadata(saved / WEIGHTS)["spatialboost"]
    save_file(load_file(saved / WEIGHTS), saved / WEIGHTS, {"spatialboost": text})
    refused(saved, "lacks checksums: layers.0.gate")


def test_weights_with_the_config_of_another_delta(saved, tmp_path):
    other = save_tiny(tmp_path / "other", seed=5)
    facts = metadata(other / WEIGHTS) | {"spatialboost": metadata(saved / WEIGHTS)["spatialboost"]}
    save_file(load_file(other / WEIGHTS), other / WEIGHTS, {k: v for k, v in facts.items() if k != "format"})
    refused(other, "its config is not the one that was saved")


# --- tensors


def without(key: str):
    return lambda tensors: {k: v for k, v in tensors.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layers.1.q.weight"), r"missing: layers.1.q.weight \(1\)"),
        (without("layers.1.q.bias"), r"missing: layers.1.q.bias \(1\)"),  # not zero in the base
        (lambda t: t | {"layers.2.gate": torch.zeros(WIDTH)}, r"not expected: layers.2.gate \(1\)"),
        (lambda t: t | {"gate": torch.zeros(WIDTH)}, r"not expected: gate \(1\)"),
        (lambda t: t | {"layers.0.gate": torch.zeros(1)}, r"layers.0.gate \(1,\) for \(32,\)"),
        (lambda t: t | {"layers.0.gate": torch.full((WIDTH,), float("nan"))}, "layers.0.gate has values that are not"),
        (lambda t: t | {"layers.0.v.bias": torch.full((WIDTH,), float("inf"))}, "layers.0.v.bias has values"),
        (lambda t: t | {"layers.0.v.bias": torch.zeros(WIDTH, dtype=torch.int64)}, "layers.0.v.bias has values"),
    ],
)
@pytest.mark.parametrize("boosted", [False, True])
def test_wrong_tensors(saved, change, message, boosted):
    rewrite(saved, change)
    refused(saved, message, perturb(sb.boost(HOSTS["timm"].make())) if boosted else None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "all"}, "of a wrong type: layers"),
        ({"layers": [0.5]}, r"has layers=\[0.5\]"),
        ({"layers": []}, r"has layers=\[\]"),
        ({"layers": [1, 0]}, "expected them in order, and each once"),
        ({"layers": [0, 1, 1]}, "expected them in order, and each once"),
        ({"gate": "head"}, "gate='head'"),
        ({"width": True}, "of a wrong type: width"),
        ({"width": 64}, "of width 64; VisionTransformer has width 32"),
        ({"depth": 12}, "with 12 attention layers; VisionTransformer has 2"),
        ({"checksum": None}, "of a wrong type: checksum"),
        ({"checksum": "0" * 16}, "its config is not the one that was saved"),
        ({"fingerprint": {}}, "trained on other weights than these: layers.0.q.weight differs"),
        ({"fingerprint": {"layers.0.q.weight": ["x"] * 16}}, "trained on other weights"),
        ({"fingerprint": {"layers.0.q.weight": [10**400] * 16}}, "trained on other weights"),
    ],
)
def test_wrong_configs(saved, changes, message):
    rewrite(saved, **changes)
    refused(saved, message)


# --- hostile files


def test_pickle_under_the_name_of_safetensors(saved):
    class Bomb:
        def __reduce__(self):
            return os.system, ("touch " + str(saved / "ran"),)

    (saved / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    refused(saved, "is not a complete safetensors file")
    assert not (saved / "ran").exists()


@pytest.mark.parametrize("name", [CONFIG, INDEX])
def test_a_config_of_a_gigabyte(shards, name):
    with open(shards / name, "wb") as file:
        file.truncate(1 << 30)
    refused(shards, r"has 1,073,741,824 bytes, of at most 1,048,576")


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "[" * 100_000, '{"format_version": 1}', '{"a": ' + "9" * 9999])
def test_files_that_are_not_a_config(saved, text):
    (saved / CONFIG).write_text(text)
    refused(saved, "config")


@pytest.mark.parametrize(
    "name", ["../delta/model-1.safetensors", "/etc/passwd", "model-..\\x.safetensors", "sub/model-1.safetensors", 3]
)
def test_shards_outside_of_the_folder(shards, name):
    edit_index(shards, lambda index: index["weight_map"].update({"layers.0.gate": name}))
    refused(shards, "names the file .*; expected names such as model-1a2b-00001-of-00002.safetensors")


@pytest.mark.parametrize("subfolder", ["..", "a/../../b", "/etc"])
def test_subfolders_outside_of_the_folder(saved, subfolder):
    refused(saved, "leads out of the folder", subfolder=subfolder)


def test_subfolder(saved):
    assert len(boosted_layers(sb.load_pretrained(HOSTS["timm"].make(), saved.parent, subfolder=saved.name))) == 2


def test_a_shard_that_is_lost_or_of_another_save(shards, tmp_path):
    other = save_tiny(tmp_path / "other", seed=7, max_shard_size="10KB")
    mine, theirs = sorted(shards.glob("model-*.safetensors")), sorted(other.glob("model-*.safetensors"))
    shutil.copy(theirs[1], mine[1])
    refused(shards, "are from different saves")
    mine[1].unlink()
    refused(shards, f"names {mine[1].name}, which is not there")


@pytest.mark.parametrize("where", ["", "empty", "not/there"])
def test_no_delta_there(tmp_path, where):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / where, r"no model.safetensors in|there is no folder")


def test_read_tensors_are_views_of_the_file(saved):
    model = sb.load_pretrained(HOSTS["timm"].make(), saved)
    delta = read_delta(saved)
    with delta.open() as file:
        assert file.get("layers.1.o.weight").untyped_storage().data_ptr() != 0
        for _, attention, channel in boosted_layers(model):
            for name, value in plus_tensors(attention, channel).items():
                assert torch.equal(value, file.get(f"layers.{channel.index}.{name}"))

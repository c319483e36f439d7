"""What a save writes, in which files, and what is left when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import spatialboost as sb
from deltas import CONFIG, INDEX, WEIGHTS, all_tensors, save_tiny
from host_models import DEPTH, HEADS, HOSTS, WIDTH, images, output, perturb
from spatialboost.weights.read import read_delta


def test_keys_are_canonical(tmp_path):
    projections = {f"{name}.{leaf}" for name in "qkvo" for leaf in ("weight", "bias")} | {"gate"}
    tensors = load_file(save_tiny(tmp_path) / WEIGHTS)
    assert set(tensors) == {f"layers.{i}.{key}" for i in range(DEPTH) for key in projections}
    assert {tensors[f"layers.0.{name}.weight"].shape for name in "qkvo"} == {(WIDTH, WIDTH)}


def test_config_says_what_it_is_for(tmp_path):
    config = json.loads((save_tiny(tmp_path) / CONFIG).read_text())
    expected = {
        "format_version": 2,
        "width": WIDTH,
        "num_heads": HEADS,
        "depth": DEPTH,
        "patch_size": 16,
        "layers": [0, 1],
        "gate": "channel",
        "generic_layers": [],
        "training": {"steps": 3},
        "results": [],
    }
    assert {key: config[key] for key in expected} == expected
    assert config["base_model"]["library"] == "timm"
    assert config["base_model"]["name"].startswith("vit_tiny_patch16_224")
    assert config["base_model"]["hub_id"].startswith("timm/vit_tiny_patch16_224")
    assert config["parameters"] == sum(t.numel() for t in load_file(tmp_path / WEIGHTS).values())


def test_generic_hosts_keep_their_own_names(tmp_path):
    folder = sb.save_pretrained(sb.boost(HOSTS["generic"].make()), tmp_path)
    keys = {key.removeprefix("layers.0.") for key in load_file(folder / WEIGHTS) if key.startswith("layers.0.")}
    own = {"temperature", "to_qkv.weight", "to_out.0.weight", "to_out.0.bias"}
    assert keys == {"gate"} | {f"generic.{name}" for name in own}
    assert json.loads((folder / CONFIG).read_text())["generic_layers"] == [0, 1]


def test_norms_are_canonical(tmp_path):
    model = perturb(sb.boost(HOSTS["timm_qk_norm"].make(), gate="scalar"))
    tensors = load_file(sb.save_pretrained(model, tmp_path) / WEIGHTS)
    assert tensors["layers.1.q_norm.weight"].shape == tensors["layers.1.k_norm.bias"].shape == (WIDTH // HEADS,)
    assert tensors["layers.0.gate"].shape == (1,)
    with torch.no_grad():
        loaded = sb.load_pretrained(HOSTS["timm_qk_norm"].make(), tmp_path)
        assert torch.equal(output(loaded, images()), output(model, images()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16", "torch.float32"])
def test_dtype_on_disk(tmp_path, dtype):
    model = perturb(sb.boost(HOSTS["timm"].make()))
    tensors = load_file(sb.save_pretrained(model, tmp_path, dtype=dtype) / WEIGHTS)
    stored = getattr(torch, str(dtype).removeprefix("torch."))
    assert {t.dtype for key, t in tensors.items() if not key.endswith("gate")} == {stored}
    assert tensors["layers.0.gate"].dtype == torch.float32
    other, inputs = sb.load_pretrained(HOSTS["timm"].make(), tmp_path), images()
    assert {p.dtype for _, p in sb.named_parameters(other)} == {torch.float32}
    with torch.no_grad():
        expected = output(model, inputs)
        rounding = 0 if stored == torch.float32 else 2**-6
        assert (output(other, inputs) - expected).abs().max() <= rounding * expected.abs().max()


def test_without_dtype_the_channel_keeps_its_own(tmp_path):
    model = sb.boost(HOSTS["timm"].make().bfloat16(), dtype=torch.bfloat16)
    tensors = load_file(sb.save_pretrained(perturb(model), tmp_path) / WEIGHTS)
    assert tensors["layers.0.q.weight"].dtype == torch.bfloat16
    loaded = sb.load_pretrained(HOSTS["timm"].make().bfloat16(), tmp_path, dtype=torch.bfloat16)
    for (name, a), (_, b) in zip(sb.named_parameters(model), sb.named_parameters(loaded), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", [torch.int8, "bf16", "Tensor", torch.float8_e4m3fn])
def test_dtypes_that_are_not_saved(tmp_path, dtype):
    with pytest.raises(sb.SpatialBoostError, match="weights cannot be stored in this; expected float32, bfloat16"):
        save_tiny(tmp_path / "x", dtype=dtype)
    assert not (tmp_path / "x").exists()


def test_values_that_half_precision_cannot_hold(tmp_path):
    model = sb.boost(HOSTS["timm"].make())
    next(p for _, p in sb.named_parameters(model)).data[0] = 1e6
    with pytest.raises(sb.SpatialBoostError, match=r"torch.float16 cannot hold. Save with dtype=torch.bfloat16"):
        sb.save_pretrained(model, tmp_path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []
    sb.save_pretrained(model, tmp_path, dtype=torch.bfloat16)


def test_saves_under_an_adapter(tmp_path):
    peft = pytest.importorskip("peft")
    model = perturb(sb.boost(HOSTS["timm"].make()))
    sb.save_pretrained(model, tmp_path / "before")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False), model)
    sb.save_pretrained(model, tmp_path / "after")
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("before", "after"))
    assert before.keys() == after.keys() and all(torch.equal(after[key], value) for key, value in before.items())


def test_training_facts_that_are_not_json(tmp_path):
    with pytest.raises(sb.SpatialBoostError, match="cannot be written as JSON"):
        save_tiny(tmp_path / "x", training={"model": object()})
    with pytest.raises(sb.SpatialBoostError, match="Shorten `training`"):
        save_tiny(tmp_path / "x", training={"log": "x" * (1 << 20)})
    assert not (tmp_path / "x").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    before = (save_tiny(tmp_path) / WEIGHTS).read_bytes()
    model, names = sb.boost(HOSTS["timm"].make()), sorted(os.listdir(tmp_path))
    list(sb.named_parameters(model))[-2][1].data.fill_(float("nan"))
    with pytest.raises(sb.SpatialBoostError, match=r"blocks.1.attn: Attn\+ has values that are not finite"):
        sb.save_pretrained(model, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before and sorted(os.listdir(tmp_path)) == names


def test_a_process_that_does_not_write(tmp_path):
    save_tiny(tmp_path / "x", is_main_process=False)
    assert not (tmp_path / "x").exists()


# --- shards


def test_shards(tmp_path):
    single, parts = save_tiny(tmp_path / "single"), save_tiny(tmp_path / "parts", max_shard_size="10KB")
    index = json.loads((parts / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and not (parts / WEIGHTS).exists()
    assert sorted(path.name for path in parts.iterdir()) == sorted([*files, CONFIG, INDEX, "README.md"])
    assert all((parts / name).stat().st_size < 10_000 + 5_000 for name in files)  # with the header
    tensors = all_tensors(single)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert index["weight_map"].keys() == tensors.keys() == all_tensors(parts).keys()
    assert all(key in load_file(parts / name) for key, name in index["weight_map"].items())
    a, b = (sb.load_pretrained(HOSTS["timm"].make(), folder) for folder in (single, parts))
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(sb.named_parameters(a), sb.named_parameters(b), strict=True))


@pytest.mark.parametrize(("first", "second"), [("10KB", "5GB"), ("5GB", "10KB"), ("10KB", "10KB"), ("10KB", "20KB")])
def test_a_save_leaves_no_weights_of_the_one_before(tmp_path, first, second):
    save_tiny(tmp_path / "a", max_shard_size=first)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    save_tiny(tmp_path / "a", seed=9, max_shard_size=second)
    save_tiny(tmp_path / "b", seed=9, max_shard_size=second)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in (tmp_path / "b").iterdir()} | {"notes.txt"}
    assert read_delta(tmp_path / "a").checksums == read_delta(tmp_path / "b").checksums


# --- interrupted saves

SAVE = """
import os, sys, torch
sys.path.insert(0, {tests!r})
from deltas import save_tiny
from pathlib import Path
save_tiny(Path({folder!r}), seed=8, training={{'steps': 99}}, max_shard_size={limit!r})
"""


@pytest.mark.parametrize(("first", "second"), [("5GB", "5GB"), ("10KB", "10KB"), ("5GB", "10KB"), ("10KB", "5GB")])
def test_a_save_that_dies_at_each_of_its_steps(tmp_path, first, second, monkeypatch):
    """The folder holds a complete delta after every single replacement and removal."""

    class Died(BaseException):
        pass

    replace, unlink, at = os.replace, Path.unlink, 0
    while True:
        folder = tmp_path / str(at)
        save_tiny(folder, max_shard_size=first)
        steps = iter(range(1000))

        def step(act, *args, steps=steps, at=at, **options):
            if next(steps) == at:
                raise Died
            return act(*args, **options)

        monkeypatch.setattr(os, "replace", lambda *a, step=step: step(replace, *a))
        monkeypatch.setattr(Path, "unlink", lambda *a, step=step, **k: step(unlink, *a, **k))
        try:
            save_tiny(folder, seed=8, training={"steps": 99}, max_shard_size=second)
        except Died:
            pass
        else:
            break
        finally:
            monkeypatch.undo()
        delta = read_delta(folder)
        with delta.open() as file:
            file.check()
        assert delta.config["training"]["steps"] in (3, 99)
        at += 1
    assert at > 2 and read_delta(folder).config["training"]["steps"] == 99


def test_kill_minus_nine_at_any_time(tmp_path):
    """A process that does nothing but save is killed at different times; what it leaves always loads."""
    code = SAVE.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path / "x"), limit="10KB")
    code += f"print('ready', flush=True)\nfor i in range(10**6): save_tiny(Path({str(tmp_path / 'x')!r}), seed=i % 7, "
    code += "max_shard_size=['10KB', '5GB'][i % 2], training={'seed': i % 7})"
    good = {save_tiny(tmp_path / str(s), seed=s, training={"seed": s}): s for s in range(7)}
    checksums = {s: read_delta(folder).config["checksum"] for folder, s in good.items()}
    for wait in (0.03, 0.2):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(wait)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        sb.load_pretrained(HOSTS["timm"].make(), tmp_path / "x")
        config = read_delta(tmp_path / "x").config
        if "seed" in config["training"]:
            assert config["checksum"] == checksums[config["training"]["seed"]]


SLOW = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from deltas import save_tiny
from spatialboost.weights import write
act, calls = getattr(write, {function!r}), []
def stopped(*arguments, **options):
    calls.append(1)
    if len(calls) == {at}:
        {then}
    return act(*arguments, **options)
setattr(write, {function!r}, stopped)
save_tiny(Path({folder!r}), seed=8, max_shard_size={limit!r})
"""


def slow_save(folder: Path, *, function: str, at: int = 1, limit: str, then: str) -> subprocess.Popen[str]:
    """Another process that saves, and does something in the middle of it."""
    tests = str(Path(__file__).parents[1])
    code = SLOW.format(tests=tests, folder=str(folder), function=function, at=at, limit=limit, then=then)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize(
    ("function", "at", "limit"),
    [("_write_parts", 1, "5GB"), ("_move", 1, "5GB"), ("_move", 3, "10KB")],
)
def test_the_next_save_removes_what_a_killed_one_has_left(tmp_path, function, at, limit):
    folder = save_tiny(tmp_path / "a[1]*")
    (folder / ".model.safetensors.notes").write_text("mine")
    (folder / "model-of-mine.safetensors").write_text("mine")
    killed = slow_save(folder, function=function, at=at, limit=limit, then="os.kill(os.getpid(), signal.SIGKILL)")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and len(list(folder.iterdir())) > 5
    save_tiny(folder, seed=9)
    mine = {".model.safetensors.notes", "model-of-mine.safetensors"}
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, CONFIG, "README.md"} | mine
    read_delta(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove open files anyway")
@pytest.mark.parametrize(("function", "at"), [("_write_parts", 1), ("_move", 4)])
def test_a_save_that_runs_in_another_process_is_left_alone(tmp_path, function, at):
    folder = save_tiny(tmp_path / "x")
    then = "print('ready', flush=True); input()"
    other = slow_save(folder, function=function, at=at, limit="10KB", then=then)
    assert other.stdout.readline() == "ready\n"
    there = {path.name for path in folder.iterdir()}
    save_tiny(folder, seed=9)
    assert there <= {path.name for path in folder.iterdir()}
    other.communicate("go on\n")
    assert other.returncode == 0
    save_tiny(folder, seed=9)
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, CONFIG, "README.md"}


def test_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    save_tiny(tmp_path)
    monkeypatch.setattr("spatialboost.weights.write.model_card", lambda config: 1 / 0)
    names = sorted(os.listdir(tmp_path))
    with pytest.raises(ZeroDivisionError):
        save_tiny(tmp_path, seed=5)
    assert sorted(os.listdir(tmp_path)) == names
    sb.load_pretrained(HOSTS["timm"].make(), tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        save_tiny(tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""

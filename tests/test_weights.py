"""The delta file: what is in it, which models take it, and what is refused, with the model left as it was."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import spatialboost as sb
from hosts import DEPTH, HEADS, HOSTS, SIZE, WIDTH, images, output, perturb, timm_model, transformers_model
from spatialboost.canonical import fingerprint, same_base
from spatialboost.channel import boosted_layers
from spatialboost.delta import read_delta
from spatialboost.finding import tower


@pytest.fixture
def saved(tmp_path) -> Path:
    return sb.save_pretrained(perturb(sb.boost(HOSTS["timm"].make())), tmp_path / "delta", training={"steps": 3})


def edit_config(folder: Path, **changes) -> None:
    """Change the config beside the weights and the one inside of them."""
    config = json.loads((folder / "config.json").read_text()) | changes
    text = json.dumps({k: v for k, v in config.items() if v != "absent"})
    (folder / "config.json").write_text(text)
    rewrite(folder, lambda tensors: tensors, {"spatialboost": text})


def rewrite(folder: Path, change, metadata=None) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata)


# --- what is in it


def test_keys_are_canonical(saved):
    projections = {f"{name}.{leaf}" for name in "qkvo" for leaf in ("weight", "bias")} | {"gate"}
    tensors = load_file(saved / "model.safetensors")
    assert set(tensors) == {f"layers.{i}.{key}" for i in range(DEPTH) for key in projections}
    assert {tensors[f"layers.0.{name}.weight"].shape for name in "qkvo"} == {(WIDTH, WIDTH)}


def test_config_says_what_it_is_for(saved):
    config = json.loads((saved / "config.json").read_text())
    expected = {
        "format_version": 1,
        "width": WIDTH,
        "num_heads": HEADS,
        "depth": DEPTH,
        "patch_size": 16,
        "layers": [0, 1],
    }
    assert expected.items() <= config.items()
    assert config["gate"] == "channel" and config["generic_layers"] == [] and config["training"] == {"steps": 3}
    assert config["base_model"]["library"] == "timm"
    assert config["base_model"]["name"].startswith("vit_tiny_patch16_224")
    assert config["parameters"] == sum(t.numel() for t in load_file(saved / "model.safetensors").values())


def test_generic_hosts_keep_their_own_names(tmp_path):
    folder = sb.save_pretrained(sb.boost(HOSTS["generic"].make()), tmp_path)
    keys = {
        key.removeprefix("layers.0.") for key in load_file(folder / "model.safetensors") if key.startswith("layers.0.")
    }
    assert keys == {
        "gate",
        "generic.temperature",
        "generic.to_qkv.weight",
        "generic.to_out.0.weight",
        "generic.to_out.0.bias",
    }
    assert json.loads((folder / "config.json").read_text())["generic_layers"] == [0, 1]


def test_dtype_on_disk(tmp_path):
    model = perturb(sb.boost(HOSTS["timm"].make()))
    tensors = load_file(sb.save_pretrained(model, tmp_path, dtype=torch.bfloat16) / "model.safetensors")
    assert {t.dtype for key, t in tensors.items() if not key.endswith("gate")} == {torch.bfloat16}
    assert tensors["layers.0.gate"].dtype == torch.float32
    other, inputs = sb.load_pretrained(HOSTS["timm"].make(), tmp_path), images()
    assert {p.dtype for _, p in sb.named_parameters(other)} == {torch.float32}
    with torch.no_grad():
        expected = output(model, inputs)
        assert (output(other, inputs) - expected).abs().max() <= 2**-6 * expected.abs().max()


def test_card_tells_the_facts_and_escapes_them(tmp_path):
    model = sb.boost(HOSTS["timm"].make(), layers=[1])
    facts = {"note": "a | b\n<script>alert(1)</script>", "steps": 3}
    card = (
        sb.save_pretrained(model, tmp_path, base="me/encoder", license="mit", training=facts) / "README.md"
    ).read_text()
    assert card.startswith("---\nlibrary_name: spatialboost\n")
    assert 'base_model: "me/encoder"' in card and 'license: "mit"' in card
    assert "| boosted blocks | 1 of 2: 1 |" in card and "| steps | 3 |" in card
    assert "<script>" not in card and "a \\| b &lt;script>" in card


# --- who takes it


def as_transformers_dinov2(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of timm's DINOv2 under the names of transformers 5."""
    own, out = model.state_dict(), {}
    for i in range(DEPTH):
        there, here = f"encoder.layer.{i}.", f"blocks.{i}."
        for leaf in ("weight", "bias"):
            for name, part in zip("qkv", own[f"{here}attn.qkv.{leaf}"].chunk(3), strict=True):
                out[f"{there}attention.{name}_proj.{leaf}"] = part
            out[f"{there}attention.o_proj.{leaf}"] = own[f"{here}attn.proj.{leaf}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"{there}{name}.{leaf}"] = own[f"{here}{name}.{leaf}"]
        for k in (1, 2):
            out[f"{there}layer_scale{k}.lambda1"] = own[f"{here}ls{k}.gamma"]
    for leaf in ("weight", "bias"):
        out[f"layernorm.{leaf}"] = own[f"norm.{leaf}"]
        out[f"embeddings.patch_embeddings.projection.{leaf}"] = own[f"patch_embed.proj.{leaf}"]
    out["embeddings.cls_token"], out["embeddings.position_embeddings"] = own["cls_token"], own["pos_embed"]
    return out


def dinov2_in_both() -> tuple[nn.Module, nn.Module]:
    """One random DINOv2 as timm and as transformers build it."""
    host = HOSTS["timm"]
    here = host.__class__(lambda: timm_model("vit_small_patch14_dinov2", patch_size=16), "timm").make()
    there = transformers_model("Dinov2Model", "Dinov2Config", mlp_ratio=4).eval()
    keys = there.load_state_dict(as_transformers_dinov2(here), strict=False)
    assert (keys.missing_keys, keys.unexpected_keys) == (["embeddings.mask_token"], [])
    return here, there


@pytest.mark.parametrize("saved_by", ["timm", "transformers"])
def test_one_file_for_two_libraries(saved_by, tmp_path):
    models = dict(zip(("timm", "transformers"), dinov2_in_both(), strict=True))
    x = images()["x"]

    def features(library: str) -> torch.Tensor:
        model = models[library]
        return model.forward_features(x) if library == "timm" else model(x).last_hidden_state

    loaded_by = next(name for name in models if name != saved_by)
    with torch.no_grad():
        base = features(saved_by)
        torch.testing.assert_close(features(loaded_by), base)
        perturb(sb.boost(models[saved_by]))
        sb.save_pretrained(models[saved_by], tmp_path)
        sb.load_pretrained(models[loaded_by], tmp_path)
        torch.testing.assert_close(features(loaded_by), features(saved_by))
        assert (features(loaded_by) - base).abs().max() > 1e-2


def test_fingerprint_knows_a_base_in_another_precision():
    own = fingerprint(tower(HOSTS["timm"].make()))
    for dtype in (torch.bfloat16, torch.float16):
        assert same_base(own, fingerprint(tower(HOSTS["timm"].make().to(dtype)))) is None
    assert same_base(own, fingerprint(tower(HOSTS["timm"].make(seed=1)))) == "layers.0.q.weight"
    boosted = perturb(sb.boost(HOSTS["timm"].make()))
    assert fingerprint(tower(boosted)) == own


def test_loads_onto_a_boosted_model_in_place(saved):
    model = perturb(sb.boost(HOSTS["timm"].make()), seed=7)
    parameters = [p for _, p in sb.named_parameters(model)]
    assert sb.load_pretrained(model, saved) is model
    assert all(a is b for a, (_, b) in zip(parameters, sb.named_parameters(model), strict=True))
    tensors = load_file(saved / "model.safetensors")
    assert torch.equal(boosted_layers(model)[0][2].plus("qkv.weight").chunk(3)[1], tensors["layers.0.k.weight"])


def test_partial_boost(tmp_path):
    model, inputs = perturb(sb.boost(HOSTS["dinov3"].make(), layers=[1])), images()
    sb.save_pretrained(model, tmp_path)
    other = sb.load_pretrained(HOSTS["dinov3"].make(), tmp_path)
    assert [layer.index for layer in sb.status(other).layers] == [1]
    with torch.no_grad():
        assert torch.equal(output(other, inputs), output(model, inputs))


def test_saves_under_an_adapter(tmp_path):
    peft = pytest.importorskip("peft")
    model = perturb(sb.boost(HOSTS["timm"].make()))
    sb.save_pretrained(model, tmp_path / "before")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False), model)
    sb.save_pretrained(model, tmp_path / "after")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    assert before.keys() == after.keys() and all(torch.equal(after[key], value) for key, value in before.items())


def test_from_pretrained_builds_a_timm_base(tmp_path):
    timm = pytest.importorskip("timm")
    options = {"depth": 2, "embed_dim": WIDTH, "num_heads": HEADS, "img_size": SIZE}
    torch.manual_seed(3)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options).eval()
    sb.save_pretrained(perturb(sb.boost(model)), tmp_path)
    torch.manual_seed(3)
    built = sb.from_pretrained(tmp_path, pretrained=False, **options)
    with torch.no_grad():
        assert torch.equal(output(built, images()), output(model, images()))


def test_from_pretrained_builds_a_transformers_base(tmp_path):
    model = HOSTS["siglip"].make()
    model.save_pretrained(tmp_path / "base")
    sb.save_pretrained(perturb(sb.boost(model)), tmp_path / "delta", base=str(tmp_path / "base"))
    built = sb.from_pretrained(tmp_path / "delta")
    assert type(built) is not type(nn.Module) and not built.training
    with torch.no_grad():
        assert torch.equal(output(built, images()), output(model, images()))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"library": "timm", "name": "no_such_model"}, "timm .* has no model 'no_such_model'"),
        ({"library": "transformers", "name": "x", "class": "os.system"}, "has no model class 'os.system'"),
        ({"library": "torchvision", "name": "vit"}, "cannot be built by name.*load_pretrained"),
    ],
)
def test_bases_that_cannot_be_built(saved, base, message):
    edit_config(saved, base_model=base)
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.from_pretrained(saved)


# --- what is refused


def refused(folder: Path, message: str, model: nn.Module | None = None) -> None:
    model = model or HOSTS["timm"].make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(sb.SpatialBoostError, match=message):
        sb.load_pretrained(model, folder)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags


def without(key: str):
    return lambda tensors: {k: v for k, v in tensors.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layers.1.q.weight"), r"missing: layers.1.q.weight \(1\)"),
        (lambda t: t | {"layers.2.gate": torch.zeros(WIDTH)}, r"not expected: layers.2.gate \(1\)"),
        (lambda t: t | {"layers.0.gate": torch.zeros(1)}, r"layers.0.gate \(1,\) for \(32,\)"),
        (
            lambda t: t | {"layers.0.gate": torch.full((WIDTH,), float("nan"))},
            "layers.0.gate has values that are not finite",
        ),
        (
            lambda t: t | {"layers.0.v.bias": torch.full((WIDTH,), float("inf"))},
            "layers.0.v.bias has values that are not finite",
        ),
        (lambda t: t | {"layers.0.v.bias": torch.zeros(WIDTH, dtype=torch.int64)}, "layers.0.v.bias has values"),
    ],
)
@pytest.mark.parametrize("boosted", [False, True])
def test_wrong_tensors(saved, change, message, boosted):
    text = (saved / "config.json").read_text()
    rewrite(saved, change, {"spatialboost": text})
    refused(saved, message, perturb(sb.boost(HOSTS["timm"].make())) if boosted else None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "has format 2; this version of spatialboost reads up to 1. Upgrade"),
        ({"format_version": "absent"}, "lacks, or has of another type: format_version"),
        ({"layers": "all"}, "of another type: layers"),
        ({"layers": [0.5]}, r"has layers=\[0.5\]"),
        ({"gate": "head"}, "gate='head'"),
        ({"width": True}, "of another type: width"),
        ({"width": 64}, "of width 64; VisionTransformer has width 32"),
        ({"depth": 12}, "with 12 attention layers; VisionTransformer has 2"),
        ({"fingerprint": {}}, "trained on other weights than these: layers.0.q.weight differs"),
        ({"fingerprint": {"layers.0.q.weight": ["x"] * 16}}, "trained on other weights"),
    ],
)
def test_wrong_configs(saved, changes, message):
    edit_config(saved, **changes)
    refused(saved, message)


def test_other_width(saved):
    refused(saved, "of width 32; VisionTransformer has width 64", timm_model("vit_tiny_patch16_224", embed_dim=64))


def test_other_base_of_the_same_width(saved):
    refused(saved, "trained on other weights than these", HOSTS["timm"].make(seed=5))


def test_boosted_elsewhere(saved):
    refused(saved, r"boosted at layers \[1\].*unboost", sb.boost(HOSTS["timm"].make(), layers=[1]))


def test_no_attention(saved):
    refused(saved, "no self-attention layer found", nn.Linear(3, 3))


def test_meta_device(saved):
    with torch.device("meta"):
        model = HOSTS["timm"].build()
    with pytest.raises(sb.SpatialBoostError, match="meta device"):
        sb.load_pretrained(model, saved)
    assert not boosted_layers(model)
    with pytest.raises(sb.SpatialBoostError, match="no values to save"):
        sb.save_pretrained(sb.boost(model), saved)


def test_truncated_file(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(saved, "is no whole safetensors file")


def test_pickle_under_the_name_of_safetensors(saved):
    class Bomb:
        def __reduce__(self):
            return os.system, ("touch " + str(saved / "ran"),)

    (saved / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(saved, "is no whole safetensors file")
    assert not (saved / "ran").exists()


def test_huge_config(saved):
    with open(saved / "config.json", "wb") as file:
        file.truncate(1 << 30)
    refused(saved, r"has 1,073,741,824 bytes, of at most 1,048,576")


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "[" * 100_000, '{"format_version": 1}'])
def test_config_that_is_none(saved, text):
    (saved / "config.json").write_text(text)
    refused(saved, "config")


@pytest.mark.parametrize("where", ["", "empty", "not/there"])
def test_no_delta_there(tmp_path, where):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / where, r"no model.safetensors in|there is no folder")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=12))
def test_damaged_header_never_gives_anything_but_our_error(saved, at, noise):
    path = saved / "model.safetensors"
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    at %= header
    damaged = saved.parent / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / "model.safetensors").write_bytes(raw[:at] + noise + raw[at + len(noise) :])
    (damaged / "config.json").write_bytes((saved / "config.json").read_bytes())
    model = HOSTS["timm"].make()
    before = list(model.state_dict())
    try:
        sb.load_pretrained(model, damaged)
    except sb.SpatialBoostError:
        assert list(model.state_dict()) == before


def test_training_facts_that_are_no_json(tmp_path):
    with pytest.raises(sb.SpatialBoostError, match="cannot be written as JSON"):
        sb.save_pretrained(sb.boost(HOSTS["timm"].make()), tmp_path / "x", training={"model": object()})
    assert not (tmp_path / "x").exists()


def test_weights_that_are_not_finite_are_not_saved(saved):
    model = sb.boost(HOSTS["timm"].make())
    next(p for _, p in sb.named_parameters(model)).data.fill_(float("nan"))
    before = (saved / "model.safetensors").read_bytes()
    with pytest.raises(sb.SpatialBoostError, match=r"blocks.0.attn: Attn\+ has values that are not finite"):
        sb.save_pretrained(model, saved)
    assert (saved / "model.safetensors").read_bytes() == before


# --- saves that are cut short


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_save_leaves_a_good_one(saved, nth):
    """The process dies at its nth replacement; the folder holds the old delta or the new one, and loads."""
    code = (
        "import os, sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from hosts import HOSTS, perturb\n"
        "import spatialboost as sb\n"
        "replace, calls = os.replace, []\n"
        "def dying(a, b):\n"
        "    calls.append(b)\n"
        f"    os._exit(9) if len(calls) == {nth} else replace(a, b)\n"
        "os.replace = dying\n"
        f"sb.save_pretrained(perturb(sb.boost(HOSTS['timm'].make()), seed=8), {str(saved)!r}, "
        f"training={{'steps': 99}})\n"
    )
    old = load_file(saved / "model.safetensors")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    sb.load_pretrained(HOSTS["timm"].make(), saved)
    assert read_delta(saved).config["training"]["steps"] == (3 if nth == 1 else 99)
    assert torch.equal(load_file(saved / "model.safetensors")["layers.0.gate"], old["layers.0.gate"]) == (nth == 1)


def test_failed_save_leaves_nothing_behind(saved, monkeypatch):
    monkeypatch.setattr("spatialboost.weights.model_card", lambda config: 1 / 0)
    names = sorted(os.listdir(saved))
    with pytest.raises(ZeroDivisionError):
        sb.save_pretrained(sb.boost(HOSTS["timm"].make()), saved)
    assert sorted(os.listdir(saved)) == names
    sb.load_pretrained(HOSTS["timm"].make(), saved)


# --- the Hub


def test_loads_from_a_filled_cache_without_network(saved, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--me--delta"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    saved.rename(repo / "snapshots" / commit)
    model = sb.load_pretrained(HOSTS["timm"].make(), "me/delta", cache_dir=tmp_path / "cache", local_files_only=True)
    assert len(boosted_layers(model)) == DEPTH


@pytest.mark.parametrize("name", ["me/nothing", "not a name", "../up", "a/b/c"])
def test_repositories_that_are_not_there(name, tmp_path):
    with pytest.raises(sb.SpatialBoostError, match=r"is no folder here|there is no folder"):
        sb.load_pretrained(HOSTS["timm"].make(), name, cache_dir=tmp_path, local_files_only=True)


def test_push_checks_before_it_asks_the_hub():
    with pytest.raises(sb.SpatialBoostError, match="is not boosted"):
        sb.push_to_hub(HOSTS["timm"].make(), "me/delta")
    with pytest.raises(sb.SpatialBoostError, match="could not push to 'not a name'"):
        sb.push_to_hub(sb.boost(HOSTS["timm"].make()), "not a name", token="none")

"""The switches of stage 3: each is one key, trains what it says and nothing else, and is saved and loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import Dinov2Config, Dinov2Model, Trainer

import spatialboost as sb
from spatialboost.boosting.channel import boosted_layers
from spatialboost.encoders import open_encoder, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language import BoostConfig, boost_encoder
from spatialboost.training.config import BoostStageConfig, load_config
from spatialboost.training.methods import METHODS
from spatialboost.training.run import evaluate, train
from training_rows import SHAPE, make_rows, write_parquet

TIMM, HF = "timm", "transformers"
STAGE = {"steps": 2, "batch_size": 4, "log_every": 1, "save_every": 0, "lr": 1e-3}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Rows, the weights of two encoders, and a run of stages 1 and 2 with each."""
    base = tmp_path_factory.mktemp("world")
    write_parquet(make_rows(16), base / "data")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), base / "encoder.safetensors")
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16, "image_size": 32}
    Dinov2Model(Dinov2Config(**shape, mlp_ratio=2)).save_pretrained(base / "dinov2")
    for library in (TIMM, HF):
        given = settings(base, base / library, library)
        train(load_config({**given, "stage1": STAGE, "stage2": STAGE, "stage3": None}))
    return base


def settings(base: Path, out: Path, library: str = TIMM, **stage3: Any) -> dict[str, Any]:
    """A run of stage 3 alone, after the stages of an earlier run."""
    own = {
        TIMM: {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(base / "encoder.safetensors")},
        HF: {"library": "transformers", "name": str(base / "dinov2")},
    }
    earlier = {"earlier_run": str(base / library)} if out != base / library else {}
    small = {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}}
    return {
        "encoder": own[library],
        "teacher": {"kind": "language", "llm": small, "evaluate": 2, **earlier},
        "data": {"folders": [str(base / "data")], "image_size": 32, "held_out": 4},
        "stage1": None,
        "stage2": None,
        "stage3": {**STAGE, "require_answers": False, **stage3},
        "device": "cpu",
        "out": str(out),
    }


def features(encoder: torch.nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return read_tokens(encoder.eval(), images).patches


# library of the encoder, keys of stage 3, and the folder of what it leaves
SWITCHES: dict[str, tuple[str, dict[str, Any], str]] = {
    "q, k and v": (TIMM, {"projections": ["q", "k", "v"]}, "delta"),
    "q, k and v of separate layers": (HF, {"projections": ["q", "k", "v"], "train_projector": True}, "delta"),
    "one gate a layer, last layer": (TIMM, {"gate": "scalar", "layers": [-1]}, "delta"),
    "lora": (TIMM, {"method": "lora", "lora_rank": 2, "train_projector": True}, "adapter"),
    "lora, q and k of a layer": (HF, {"method": "lora", "layers": [0], "projections": ["q", "k"]}, "adapter"),
    "full": (TIMM, {"method": "full"}, "encoder"),
    "full, transformers": (HF, {"method": "full"}, "encoder"),
}


@pytest.mark.parametrize("case", SWITCHES)
def test_each_switch_trains_what_it_says_and_gives_the_same_features_again(world, tmp_path, case):
    library, keys, folder = SWITCHES[case]
    given = settings(world, tmp_path / "out", library, **keys)
    result = train(load_config(given))
    before = open_encoder(load_config(given).encoder).state_dict()
    check = {"delta": check_attn_plus, "adapter": check_lora, "encoder": check_full}[folder]
    check(result.encoder, before, keys)
    projector = {name: p.detach() for name, p in result.teacher.objective.vlm.projector.named_parameters()}
    earlier = load_file(world / library / "stage2" / "projector.safetensors")
    moved = {name for name, p in projector.items() if not torch.equal(p, earlier[name])}
    assert moved == (set(projector) if keys.get("train_projector") else set())

    assert result.delta == tmp_path / "out" / "stage3" / folder
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["stages"]["stage3"]["method"] == keys.get("method", "attn+")
    learnt = features(result.encoder)
    assert torch.equal(features(open_encoder(load_config(given).encoder, delta=result.delta)), learnt)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    assert torch.equal(features(open_encoder(tmp_path / "run.yaml")), learnt)
    if folder == "adapter":
        theirs = peft.PeftModel.from_pretrained(open_encoder(load_config(given).encoder), result.delta)
        assert torch.equal(features(theirs.base_model.model), learnt)
    if folder == "encoder":
        section = {**given["encoder"], "weights": result.delta / "encoder.safetensors"}
        assert torch.equal(features(open_encoder(section)), learnt)


def check_attn_plus(encoder: torch.nn.Module, before: dict[str, torch.Tensor], keys: dict[str, Any]) -> None:
    layers = boosted_layers(encoder)
    assert [channel.index for _, _, channel in layers] == ([1] if "layers" in keys else [0, 1])
    parameters = dict(encoder.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in before.items())
    for name, _, channel in layers:
        assert len(channel.gate) == (1 if keys.get("gate") == "scalar" else 48)
        output = channel.slots["o.weight"].parameter.rpartition(".")[0]
        for own, value in channel.named_parameters():
            base = own.removeprefix("plus_").replace("__", ".")
            frozen = "projections" in keys and base.startswith(f"{output}.")
            assert own == "gate" or torch.equal(value, before[f"{name}.{base}"]) == frozen, own


def check_lora(encoder: torch.nn.Module, before: dict[str, torch.Tensor], keys: dict[str, Any]) -> None:
    parameters = dict(encoder.named_parameters())
    for name, value in before.items():
        parent, _, leaf = name.rpartition(".")
        now = parameters.get(name, parameters.get(f"{parent}.base_layer.{leaf}"))
        assert torch.equal(now, value), name  # the base, bit for bit
    own = {name: p for name, p in parameters.items() if "lora_" in name}
    assert own and all(p.abs().sum() > 0 for p in own.values())
    assert {p.shape[0] for name, p in own.items() if "lora_A" in name} == {keys.get("lora_rank", 16)}
    if "layers" in keys:
        assert all("layers.0." in name or "layer.0." in name for name in own)
        assert len(own) == 4  # A and B of q and of k


def check_full(encoder: torch.nn.Module, before: dict[str, torch.Tensor], keys: dict[str, Any]) -> None:
    same = {name for name, p in encoder.state_dict().items() if torch.equal(p, before[name])}
    unread = {"mask_token", "embeddings.mask_token"}  # no token depends on it
    assert same - unread == set() and "lora" not in "".join(encoder.state_dict())


def test_only_the_weights_that_are_read_are_fine_tuned():
    encoder = VisionTransformer(**SHAPE).requires_grad_(False)
    groups = METHODS["full"].groups(encoder, 0, BoostStageConfig(method="full"), size=(32, 32), seed=0)
    chosen = {id(p) for group in groups for p in group["params"]}
    left = {name for name, p in encoder.named_parameters() if id(p) not in chosen}
    assert left == {name for name in encoder.state_dict() if name.startswith(("blocks.1.", "norm."))}
    assert not any(p.requires_grad for p in encoder.parameters())  # the trainer sets it


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_is_scored_and_loaded_again_and_one_that_is_stopped_ends_the_same(world, tmp_path, monkeypatch, method):
    keys = {"method": method, "steps": 3, "save_every": 2}
    given = settings(world, tmp_path / "whole", **keys)
    whole = train(load_config(given))
    assert {score.answerer for score in evaluate(tmp_path / "whole", rows=2)} == {"image", "text", "guess"}
    assert torch.equal(features(train(load_config(given)).encoder), features(whole.encoder))

    step, left = Trainer.training_step, iter(range(2))

    def stop(*args, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(*args, **options)

    given["out"] = str(tmp_path / "stopped")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "training_step", stop)
        train(load_config(given))
    again = train(load_config(given))
    assert again.stages["stage3"]["fit"]["resumed_from"] == 2
    ours, theirs = (load_file(next(run.delta.glob("*.safetensors"))) for run in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_projector_that_was_trained_on_other_features_is_refused(world, tmp_path):
    given = settings(world, tmp_path / "out")
    with pytest.raises(SpatialBoostError, match=r"earlier_run: .* was trained with layer: -1, and here layer is 0"):
        train(load_config({**given, "layer": 0}))
    given["teacher"]["places"] = True
    with pytest.raises(SpatialBoostError, match=r"was trained with teacher.places: false, and here .* is true"):
        train(load_config(given))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"method": "lora", "gate": "scalar"}, r"gate is 'scalar', which method: lora does not have"),
        ({"method": "full", "layers": [0]}, r"layers is \[0\], which method: full does not have"),
        ({"lora_rank": 4}, r"lora_rank is 4, which method: attn\+ does not have"),
        ({"projections": ["q", "x"]}, r"stage3.projections"),
        ({"projections": []}, r"stage3.projections"),
        ({"method": "prefix"}, r"stage3.method"),
    ],
)
def test_settings_that_the_method_does_not_have_are_refused(world, tmp_path, keys, expected):
    with pytest.raises(SpatialBoostError, match=expected) as caught:
        load_config(settings(world, tmp_path, **keys))
    assert "\n" not in str(caught.value)


def test_wrong_layers_and_projections_are_refused_before_anything_is_changed(parts, tmp_path):
    vlm, _, dataset = parts
    for keys, expected in {
        (("layers", (2,)),): r"layers are \[2\]; expected blocks from 0 to 1",
        (("layers", (-3,)),): r"layers are \[-3\]; expected blocks",
        (("projections", ("q", "o")),): r"qkv.weight of blocks.0.attn holds k, q, v together",
    }.items():
        with pytest.raises(SpatialBoostError, match=expected):
            boost_encoder(vlm, dataset, BoostConfig(**STAGE, **{k: list(v) for k, v in keys}), folder=tmp_path)
        sb.unboost(vlm.encoder) if boosted_layers(vlm.encoder) else None
    sb.boost(vlm.encoder)
    for method in ("lora", "full"):
        with pytest.raises(SpatialBoostError, match=f"method: {method} goes in the place of Attn"):
            boost_encoder(vlm, dataset, BoostConfig(**STAGE, method=method), folder=tmp_path)


def test_lora_refuses_attention_whose_base_it_would_round():
    open_clip = pytest.importorskip("open_clip")
    tower = open_clip.transformer.VisionTransformer(32, 16, 32, 1, 2, 2.0, output_dim=16)
    with pytest.raises(SpatialBoostError, match=r"resblocks.0.attn \(MultiheadAttention\).* from timm or transformers"):
        METHODS["lora"].groups(tower, -1, BoostStageConfig(method="lora"), size=(32, 32), seed=0)

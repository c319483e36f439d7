"""Bases, arguments and names that are wrong in many ways: always one line of our own, and nothing asked in vain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spatialboost as sb
from deltas import refused, rewrite, save_tiny
from host_models import HOSTS
from spatialboost.encoders import open_encoder
from spatialboost.vlm.llms import load_llm
from spatialboost.weights.info import delta_facts

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def failure(delta: Path, *, pretrained: bool = True, **kwargs) -> str:
    with pytest.raises(sb.SpatialBoostError) as caught:
        sb.from_pretrained(delta, pretrained=pretrained, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders with models of transformers that are no base, and with damaged ones."""
    import transformers as hf

    root = tmp_path_factory.mktemp("models")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    hf.BertModel(hf.BertConfig(vocab_size=20, **small)).save_pretrained(root / "text")
    hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2)).save_pretrained(root / "causal")
    hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(root / "plain")
    HOSTS["vit"].make().save_pretrained(root / "vit")
    shutil.copytree(root / "vit", root / "cut")
    (root / "cut" / "model.safetensors").write_bytes((root / "vit" / "model.safetensors").read_bytes()[:500])
    save_tiny(root / "delta")
    (root / "empty").mkdir()
    for name, text in {
        "damaged": '{"model_type":',
        "list": "[1]",
        "typed": json.dumps({"model_type": "vit", "hidden_size": "x"}),
        "zero": json.dumps({"model_type": "vit", **small, "num_attention_heads": 0}),
        "kind": json.dumps({"model_type": ["vit"]}),
        "unknown": json.dumps({"model_type": "no_such_model"}),
        "dtype": json.dumps({"model_type": "vit", "dtype": "nope"}),
    }.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(text)
    return root


ODD = [
    ("text", "BertModel", "attention layers"),
    ("causal", "GPT2LMHeadModel", "attention layers"),
    ("plain", "ResNetModel", "no self-attention layer found"),
    ("text", "ViTModel", "is a bert, from which no ViTModel can be built"),
    ("vit", "RagModel", "from which no RagModel can be built"),
    ("vit", "PreTrainedModel", "can be built"),
    ("vit", "pipeline", "no model class 'pipeline'"),
    ("cut", "ViTModel", "cannot build"),
    ("delta", "ViTModel", "no model_type"),
    ("empty", "ViTModel", "has no config.json"),
    ("nowhere", "ViTModel", "there is no folder"),
    ("vit/config.json", "ViTModel", "there is no folder"),
    ("damaged", "ViTModel", "is not JSON"),
    ("list", "ViTModel", "is not an object"),
    ("typed", "ViTModel", ""),
    ("zero", "ViTModel", ""),
    ("kind", "ViTModel", "no model_type"),
    ("unknown", "ViTModel", ""),
    ("dtype", "ViTModel", ""),
]


@pytest.mark.parametrize(("name", "class_name", "message"), ODD)
@pytest.mark.parametrize("pretrained", [True, False])
def test_a_folder_that_is_no_base(models, tmp_path, name, class_name, message, pretrained):
    rewrite(
        save_tiny(tmp_path), base_model={"library": "transformers", "name": str(models / name), "class": class_name}
    )
    text = failure(tmp_path, pretrained=pretrained)
    assert message in text or not pretrained


@pytest.mark.parametrize(
    "base",
    [
        {},
        {"library": "timm"},
        {"library": "timm", "name": 3},
        {"library": "timm", "name": ""},
        {"library": "timm", "name": "hf-hub:"},
        {"library": "timm", "name": "x/y/z"},
        {"library": "timm", "name": "../x"},
        {"library": "timm", "name": "a" * 100_000},
        {"library": "timm", "name": "vit_tiny_patch16_224\n"},
        {"library": "timm", "name": "vit_tiny_patch16_224.no_tag"},
        {"library": "timm", "name": "VisionTransformer"},
        {"library": "timm", "name": "resnet18"},
        {"library": {}, "name": []},
        {"library": None, "name": "x"},
        {"library": "torchvision", "name": "vit_b_16"},
        {"library": "transformers", "name": "", "class": "ViTModel"},
        {"library": "transformers", "name": "x y", "class": "ViTModel"},
        {"library": "transformers", "name": "C:\\x", "class": "ViTModel"},
        {"library": "transformers", "name": "\ud800", "class": "ViTModel"},
        {"library": "transformers", "name": "x\0y", "class": "ViTModel"},
        {"library": "transformers", "name": "x/y", "class": ["ViTModel"]},
        {"library": "transformers", "name": "x/y", "class": "ViTModel", "revision": ["a"]},
    ],
)
def test_a_base_model_of_wrong_content(tmp_path, base):
    rewrite(save_tiny(tmp_path), base_model=base)
    assert len(failure(tmp_path, pretrained=False)) < 1500


@pytest.mark.parametrize(
    "kwargs",
    [
        *({"depth": "two"}, {"depth": -1}, {"nope": 1}, {"embed_dim": 7}, {"img_size": "x"}, {"patch_size": 0}),
        *({"num_heads": 0}, {"norm_layer": "nope"}, {"dtype": "float7"}, {"dtype": 3}, {"token": 3}, {"token": "a b"}),
    ],
)
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_arguments_that_the_builder_does_not_take(models, tmp_path, kwargs, library):
    name = "vit_tiny_patch16_224" if library == "timm" else str(models / "vit")
    rewrite(save_tiny(tmp_path), base_model={"library": library, "name": name, "class": "ViTModel"})
    failure(tmp_path, pretrained=False, **kwargs)


def test_a_revision_that_is_not_there(hub, tmp_path):
    HOSTS["vit"].make().push_to_hub("me/vit")
    rewrite(save_tiny(tmp_path), base_model={"library": "transformers", "name": "me/vit", "class": "ViTModel"})
    assert "trained on other weights" in failure(tmp_path)
    for revision in ("nowhere", "0" * 40, "a b", "../x"):
        base = {"library": "transformers", "name": "me/vit", "class": "ViTModel", "revision": revision}
        rewrite(tmp_path, base_model=base)
        assert "me/vit" in failure(tmp_path)


# --- a mistyped path

PATHS = [
    *("./delta", "../delta", "runs/x", "out/stage3", "here/x", "~/x", "~", "/tmp/no/such", "C:\\x", "C:/x", "a/b/c"),
    *(
        "delta/",
        "x.yaml/",
        "https://huggingface.co/me/delta",
        "me /delta",
        ".",
        "..",
        "\\\\host\\x",
        "delta",
        "\x1b[31m",
    ),
]


@pytest.mark.parametrize("name", PATHS)
def test_a_mistyped_path_is_not_asked_for_over_the_network(hub, tmp_path, monkeypatch, name):
    (tmp_path / "above" / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above" / "work")
    refused(name, r"there is no folder|no model.safetensors in|leads out")
    for act in (sb.from_pretrained, delta_facts, lambda name: open_encoder(f"hf:{name}"), load_llm):
        if act in (sb.from_pretrained, delta_facts) or name != "delta":  # a model may be called so, such as `gpt2`
            with pytest.raises(sb.SpatialBoostError):
                act(name)
    assert hub.log == []


def test_a_revision_says_that_the_hub_is_meant(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    sb.push_to_hub(sb.boost(HOSTS["timm"].make()), "me/delta")
    refused("me/delta", 'If it is a repository on the Hub, give its `revision`, such as "main"')
    sb.load_pretrained(HOSTS["timm"].make(), "me/delta", revision="main")


# --- anything


@FUZZ
@given(st.dictionaries(st.sampled_from(["library", "name", "class", "revision", "license", "hub_id"]), JSON))
def test_any_base_model_is_refused_in_one_line(tmp_path, changes):
    base = {"library": "timm", "name": "vit_tiny_patch16_224", "class": "VisionTransformer"} | changes
    rewrite(save_tiny(tmp_path / "fuzzed"), base_model=base)
    failure(tmp_path / "fuzzed", pretrained=False)


FIELDS = ["model_type", "architectures", "hidden_size", "num_hidden_layers", "image_size", "patch_size", "dtype"]
FIELDS += ["auto_map", "attn_implementation", "quantization_config", "_name_or_path", "qkv_bias", "hidden_act"]
SMALL = (
    st.none() | st.booleans() | st.integers(-3, 40) | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2)
)


@FUZZ
@given(st.dictionaries(st.sampled_from(FIELDS), SMALL | st.dictionaries(st.text(max_size=4), SMALL), max_size=3))
def test_any_config_of_a_base_builds_it_or_is_refused_in_one_line(models, tmp_path, changes):
    folder = tmp_path / "fuzzed"
    shutil.copytree(models / "vit", folder, dirs_exist_ok=True)
    config = json.loads((models / "vit" / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    try:
        open_encoder(f"hf:{folder}", pretrained=False, image_size=32)
    except sb.SpatialBoostError as error:
        assert "\n" not in str(error)

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal import (
    attach_adapter,
    detach_adapter,
    find_adapter,
    load_adapter,
    read_facts,
    save_adapter,
)
from tiny_vlms import build


@pytest.fixture
def model():
    return attach_adapter(build("llava")[0], 24, seed=3)


def test_what_is_saved_is_loaded(model, tmp_path):
    adapter = find_adapter(model)
    torch.nn.init.normal_(adapter.widen.weight)
    file = save_adapter(model, tmp_path / "new" / "adapter.safetensors", training={"steps": 5})
    assert [path.name for path in file.parent.iterdir()] == ["adapter.safetensors"]
    facts = read_facts(file)
    assert (facts["width"], facts["latent_width"], facts["heads"]) == (32, 24, 2)
    assert facts["training"] == {"steps": 5} and facts["base_model"]["model_type"] == "llava"

    for other in (build("llava")[0], attach_adapter(build("llava")[0], 24)):  # without an adapter, and with a new one
        loaded = find_adapter(load_adapter(other, file))
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in adapter.state_dict().items())
    assert find_adapter(detach_adapter(other)) is None


def test_a_file_for_another_width(model, tmp_path):
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    file = save_adapter(model, tmp_path / "adapter.safetensors")
    config = model.config.to_dict()
    wider = LlamaConfig(**{**config["text_config"], "hidden_size": 64})
    other = LlavaForConditionalGeneration(LlavaConfig(**{**config, "text_config": wider}))
    keys = list(other.state_dict())
    with pytest.raises(SpatialBoostError, match=r"is for a language model of width 32 .* has width 64"):
        load_adapter(other, file)
    assert list(other.state_dict()) == keys


def test_a_file_for_another_model_or_other_latents(model, tmp_path):
    file = save_adapter(model, tmp_path / "adapter.safetensors")
    with pytest.raises(SpatialBoostError, match="is for a llava; this model is a qwen2_5_vl"):
        load_adapter(build("qwen2_5_vl")[0], file)
    other = attach_adapter(build("llava")[0], 48)
    with pytest.raises(
        SpatialBoostError, match=r"has width 32, latent_width 24, heads 2; the adapter .* latent_width 48"
    ):
        load_adapter(other, file)
    assert find_adapter(other).latent_width == 48


def test_damaged_and_foreign_files(model, tmp_path):
    file = save_adapter(model, tmp_path / "adapter.safetensors")
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(raw)
    (tmp_path / "short.safetensors").write_bytes(raw[: len(raw) // 2])
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["spatialboost_adapter"])
    save_file({"a": torch.zeros(2)}, tmp_path / "few.safetensors", {"spatialboost_adapter": json.dumps(facts)})
    newer = {"spatialboost_adapter": json.dumps({**facts, "version": 3})}
    save_file({"a": torch.zeros(2)}, tmp_path / "newer.safetensors", newer)
    for name, text in {
        "flipped": "is damaged: .* is not as it was saved",
        "short": "is not a complete safetensors file",
        "foreign": "is no scene adapter",
        "few": "is no complete scene adapter: .* is missing",
        "newer": "has version 3; this version of spatialboost reads 2",
        "missing": "there is no file",
    }.items():
        plain, _ = build("llava")
        with pytest.raises(SpatialBoostError, match=text):
            load_adapter(plain, tmp_path / f"{name}.safetensors")
        assert find_adapter(plain) is None


def test_values_that_are_not_finite(model, tmp_path):
    file = save_adapter(model, tmp_path / "adapter.safetensors")
    before = file.read_bytes()
    find_adapter(model).norm.weight.data[0] = float("nan")
    with pytest.raises(SpatialBoostError, match=r"not finite \(norm.weight\)"):
        save_adapter(model, file)
    assert file.read_bytes() == before

"""The image tower of a model with a language model is recognised by what its layers are, whatever their names."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

import spatialboost as sb
from host_models import HEADS, HOSTS, WIDTH

SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 99}


class Pair(nn.Module):
    """A model of vision and language as research code writes it."""

    def __init__(self, visual: str, image: nn.Module, language: str, text: nn.Module) -> None:
        super().__init__()
        setattr(self, visual, image)
        setattr(self, language, text)


class CausalBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = CausalSelfAttention()


class CausalSelfAttention(nn.Module):
    """As in small GPTs: one packed projection, and a lower triangle as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.ones(8, 8).tril()[None, None])

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = (q @ k.transpose(-1, -2)).masked_fill(self.mask[..., : x.shape[1], : x.shape[1]] == 0, float("-inf"))
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class TinyGPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(99, WIDTH)
        self.blocks = nn.ModuleList(CausalBlock() for _ in range(3))


LANGUAGE = {
    "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(**SMALL, num_key_value_heads=2)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, num_key_value_heads=2)),
    "gpt2": lambda: transformers.GPT2Model(transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99)),
    "opt": lambda: transformers.OPTModel(
        transformers.OPTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, vocab_size=99)
    ),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SMALL)),
    "t5": lambda: transformers.T5EncoderModel(
        transformers.T5Config(d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2, vocab_size=99)
    ),
    "own gpt": TinyGPT,
}


@pytest.mark.parametrize("host", ["timm", "siglip", "torchvision", "dino_hub"])
@pytest.mark.parametrize("language", LANGUAGE)
def test_only_the_image_tower_is_boosted(language, host):
    model = Pair("visual_encoder", HOSTS[host].make(), "llama_model", LANGUAGE[language]())
    sb.boost(model)
    assert {layer.name.partition(".")[0] for layer in sb.status(model).layers} == {"visual_encoder"}
    assert len(sb.status(model).layers) == 2
    assert all(reason for name, _, reason in sb.status(model).passed_over if name.startswith("llama_model"))


@pytest.mark.parametrize("language", ["llama", "own gpt", "bert"])
def test_a_language_model_inside_another_module(language):
    head = nn.ModuleDict({"projector": nn.Linear(32, 32), "lm": LANGUAGE[language]()})
    model = nn.ModuleDict({"eyes": nn.Sequential(HOSTS["timm"].make()), "mouth": head})
    sb.boost(model)
    assert {layer.name.partition(".")[0] for layer in sb.status(model).layers} == {"eyes"}


def test_causal_attention_over_images_is_boosted():
    config = transformers.ImageGPTConfig(n_embd=32, n_layer=2, n_head=2, n_positions=16, vocab_size=99)
    assert len(sb.status(sb.boost(transformers.ImageGPTModel(config))).layers) == 2


class Resampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 32, batch_first=True), 2)


@pytest.mark.parametrize(
    "make, names",
    [
        (lambda: nn.ModuleDict({"a": HOSTS["timm"].make(), "b": HOSTS["timm"].make()}), ["a", "b"]),
        (lambda: nn.ModuleDict({"dino": HOSTS["dinov2"].make(), "siglip": HOSTS["siglip"].make()}), ["dino", "siglip"]),
        (lambda: Pair("eyes", HOSTS["timm"].make(), "former", Resampler()), ["eyes", "former"]),
        (lambda: nn.Sequential(HOSTS["dino_hub"].make(), Resampler()), ["0", "1"]),
    ],
    ids=["twins", "two libraries", "resampler", "sequential"],
)
def test_several_encoders_are_in_question(make, names):
    model = make()
    with pytest.raises(sb.SpatialBoostError, match=rf"several encoders.*{names[0]} \(2\), {names[1]} \(2\).*layers='"):
        sb.boost(model)
    assert all(p.requires_grad for p in model.parameters())
    assert {n.name.partition(".")[0] for n in sb.status(sb.boost(model, layers=names[0])).layers} == {names[0]}
    assert len(sb.status(sb.boost(sb.unboost(model), layers=names)).layers) == 4

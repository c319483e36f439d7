"""Words and images enter language models as embeddings: as large as the model's own, whatever it multiplies."""

from __future__ import annotations

import pytest
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.llm_checks import check_embeddings, num_positions, word_scale
from spatialboost.vlm.model import SpatialVLM

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 48}
GEMMA = SHAPE | {"head_dim": 16}
FALCON = SHAPE | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
PLAIN = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
MODELS = {
    "Llama": SHAPE,
    "Gemma": GEMMA,  # these three multiply in the embedding module (until transformers 5: in the model)
    "Gemma2": GEMMA,
    "Gemma3": GEMMA,
    "Granite": SHAPE | {"embedding_multiplier": 5.0},  # in the model, of tokens and of embeddings
    "FalconH1": FALCON | {"embedding_multiplier": 5.0},  # in the model, of tokens only
    "Cohere": SHAPE,
    "Phi3": SHAPE | {"pad_token_id": 0},
    "OPT": PLAIN | {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0},
    "GPT2": {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 48},
}
LEARNED = ["OPT", "GPT2"]  # positions, of which there are no more than they have been made for


def make(name: str):
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config", None)
    if config is None:
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    llm = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    return llm(config(**MODELS[name])).eval()


def read_by_blocks(llm, **inputs):
    """What enters the first block."""
    found = []
    blocks = next(m for m in llm.modules() if isinstance(m, torch.nn.ModuleList))
    handle = blocks[0].register_forward_pre_hook(
        lambda _, args, kwargs: found.append((args[0] if args else kwargs["hidden_states"]).detach()), with_kwargs=True
    )
    with torch.no_grad():
        llm(**inputs, use_cache=False)
    handle.remove()
    return found[0]


@pytest.fixture(params=MODELS)
def vlm(request):
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=2, num_classes=0)
    return SpatialVLM(encoder.eval(), make(request.param)).eval()


def test_words_are_read_as_if_they_were_tokens(vlm):
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    words = vlm.embed(ids, ids < 0)
    torch.testing.assert_close(read_by_blocks(vlm.llm, inputs_embeds=words), read_by_blocks(vlm.llm, input_ids=ids))
    assert vlm._word_scale == (5.0 if "Falcon" in type(vlm.llm).__name__ else 1.0)
    check_embeddings(vlm.llm)


def test_images_enter_as_large_as_words(vlm):
    """At the entry of the first block, after whatever the model multiplies."""
    ids = torch.arange(3, 43)[None]
    mask = ids < 23
    embeds = vlm.embed(ids, mask, patch_features=torch.randn(1, 20, 48))
    entered = read_by_blocks(vlm.llm, inputs_embeds=embeds)
    assert 0.6 < (entered[mask].square().mean() / entered[~mask].square().mean()).sqrt() < 1.6


def test_positions_of_a_model(vlm):
    """Beyond the positions that it learned, a model fails; others go on, but were not made for it."""
    most = num_positions(vlm.llm)
    assert most == 48
    ids = torch.zeros(1, most + 1, dtype=torch.long)
    vlm(input_ids=ids[:, :-1], visual_mask=ids[:, :-1] > 0)
    with pytest.raises(SpatialBoostError, match="49 tokens, and the language model was made for at most 48"):
        vlm(input_ids=ids, visual_mask=ids > 0)
    if type(vlm.llm).__name__.startswith(tuple(LEARNED)):
        with pytest.raises(IndexError):
            vlm.llm(input_ids=ids)


@pytest.mark.parametrize("scaling", ["linear", "dynamic", "yarn", "llama3"])
def test_scaled_rotary_positions_keep_the_length_of_the_configuration(scaling):
    """`max_position_embeddings` counts, also where positions are scaled, and where attention has a window."""
    rope = {"rope_type": scaling, "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 12}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if scaling == "llama3" else {}
    config = transformers.MistralConfig(**GEMMA, sliding_window=8, rope_scaling=rope)
    assert num_positions(transformers.MistralForCausalLM(config)) == 48


def test_a_model_that_takes_no_embeddings_is_refused():
    """As a model of the Hub may: it reads its tokens' numbers, too."""

    class ReadsNumbers(transformers.GPT2LMHeadModel):
        def forward(self, input_ids=None, **inputs):
            out = super().forward(input_ids=input_ids, **inputs)
            if input_ids is not None:
                out.logits = out.logits + input_ids[..., None]
            return out

    llm = ReadsNumbers(transformers.GPT2Config(**MODELS["GPT2"]))
    with pytest.raises(SpatialBoostError, match="ReadsNumbers reads words that are given as embeddings otherwise"):
        check_embeddings(llm)
    assert word_scale(llm) == 1

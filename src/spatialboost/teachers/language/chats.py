"""Conversations of rows: choice of turns, shuffled answers, and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.questions.kinds import KINDS
from spatialboost.teachers.language.turns import Order, arrange_turns
from spatialboost.teachers.protocol import BAD_DATA, row_images, row_meta
from spatialboost.training.data import RowDataset, RowImages
from spatialboost.training.features import FeatureStore
from spatialboost.vlm.chat import IMAGE, encode_chat, plain_messages
from spatialboost.vlm.image_prompt import ImagePrompt
from spatialboost.vlm.pooling import PatchPool

Row = Mapping[str, Any]  # "images": list, "messages": chat, "meta": JSON text or dictionary with "turns"
Chat = tuple[list[dict[str, Any]], list[str]]  # messages, and the kind of each question-answer pair

MOST_SOURCES = 64  # rows that are searched for an answer of the same turn and kind


class ChatExamples:
    """Makes the tokens of a row's conversation. It can be pickled and contains no model.

    Args:
        rows: All rows.
        tokenizer: Tokenizer of the language model.
        num_tokens: Visual tokens of one image.
        max_length: Largest number of tokens; turns that do not fit are left out.
        turns: Keep only turns of these kinds (``meta["turns"][i]["kind"]``); a row without such a turn is bad.
        shuffled: Replaces the answers by those of other rows, for the control experiment; None keeps the answers.
        order: Order of the turns, see `arrange_turns`; None leaves them as they are.
        seed: Random seed for the order ``random``.
        prompt: How images stand in the text; points are then said by its names. None: visual tokens alone.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: Any,
        num_tokens: int,
        *,
        max_length: int | None = None,
        turns: Sequence[str] | None = None,
        shuffled: ShuffledAnswers | None = None,
        order: Order | None = None,
        seed: int = 0,
        prompt: ImagePrompt | None = None,
    ) -> None:
        self.order, self.seed, self.prompt = order, seed, prompt
        self.rows, self.tokenizer, self.num_tokens = rows, tokenizer, num_tokens
        self.max_length, self.turns, self.shuffled = max_length, turns, shuffled

    def __call__(self, number: int, row: Row) -> dict[str, Tensor]:
        """The conversation, encoded by `spatialboost.vlm.chat.encode_chat`."""
        messages, _ = self.chat(number, row)
        counts = self.visual_tokens(row)
        marks = sum(message["content"].count(IMAGE) for message in messages)
        tokens: ImagePrompt | list[int] = counts
        if self.prompt is not None and marks == len(counts):  # else encode_chat tells what does not fit
            tokens = self.prompt
        encoded = encode_chat(messages, self.tokenizer, num_visual_tokens=tokens, max_length=self.max_length)
        if int(encoded["visual_mask"].sum()) < sum(counts):
            raise SpatialBoostError(
                f"an image stands after the turns that fit into {self.max_length} tokens: put the images first, "
                "increase max_length or give fewer or smaller images"
            )
        return encoded

    def chat(self, number: int, row: Row | None = None) -> Chat:
        """Messages of a row and the kind of each turn."""
        chat = read_chat(self.rows[number] if row is None else row, self.turns)
        chat = chat if self.shuffled is None else self.shuffled(number, chat, self._unshuffled_chat)
        chat = chat if self.order is None else arrange_turns(chat, self.order, [self.seed, number])
        return chat if self.prompt is None else (self.prompt.reworded(chat[0]), chat[1])

    def visual_tokens(self, row: Row) -> list[int]:
        """Number of visual tokens of each image of a row."""
        return [self.num_tokens] * len(row_images(row))

    def _unshuffled_chat(self, number: int) -> Chat:
        return read_chat(self.rows[number], self.turns)


class ChatDataset(RowDataset):
    """Conversations with their images, for `spatialboost.vlm.Collator`; tokenised when they are requested.

    Example:
        >>> train = ChatDataset(rows, RowImages(encoder, 224), tokenizer, numbers=range(900))  # doctest: +SKIP
        >>> train[0]["input_ids"].shape  # doctest: +SKIP

    Args:
        rows: Rows with ``images``, ``messages``, and ``meta`` if turns are chosen or answers are scored.
        images: How images are prepared.
        tokenizer: Tokenizer of the language model.
        numbers: Numbers of the rows to use; None uses all.
        max_length: Largest number of tokens; turns that do not fit are left out.
        pool: The pooling of visual tokens of the `SpatialVLM`; None: each patch is one token.
        prompt: The prompt of the `SpatialVLM`; None: visual tokens alone.
        turns: Keep only turns of these kinds.
        shuffle_answers: Exchange answers between rows, see `ShuffledAnswers`.
        seed: Random seed for shuffled answers.
        features: Store for the features of a frozen encoder, see `RowDataset`.
    """

    make_example: ChatExamples

    def __init__(
        self,
        rows: Sequence[Row],
        images: RowImages,
        tokenizer: Any,
        *,
        numbers: Sequence[int] | None = None,
        max_length: int | None = None,
        pool: PatchPool | None = None,
        prompt: ImagePrompt | None = None,
        turns: Sequence[str] | None = None,
        shuffle_answers: bool = False,
        seed: int = 0,
        features: FeatureStore | None = None,
    ) -> None:
        numbers = range(len(rows)) if numbers is None else numbers
        shuffled = ShuffledAnswers(numbers, seed) if shuffle_answers else None
        count = images.num_tokens if pool is None else pool.num_tokens
        count = count if prompt is None else prompt.num_tokens
        options: dict[str, Any] = {"max_length": max_length, "turns": turns, "shuffled": shuffled, "prompt": prompt}
        examples = ChatExamples(rows, tokenizer, count, **options)
        super().__init__(rows, images, examples, numbers=numbers, features=features)


class ShuffledAnswers:
    """Replaces each answer by another row's answer to the same turn and kind of question, for the control experiment.

    So an answer has a plausible form but does not belong to the image. The rows get a random circular order. A row
    takes its answers from the next row. If that row has no such turn or is bad, the row after it is tried, and so on,
    for at most 64 rows. If none of them has a fitting answer, the answer is not replaced.

    Example:
        >>> rows = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": str(i)}] for i in range(4)]
        >>> shuffled = ShuffledAnswers(range(4), seed=0)
        >>> [shuffled(i, (rows[i], ["depth"]), lambda j: (rows[j], ["depth"]))[0][1]["content"] for i in range(4)]
        ['1', '3', '0', '2']

    Args:
        numbers: Numbers of the rows that exchange answers.
        seed: Random seed for the order of the rows.
    """

    def __init__(self, numbers: Sequence[int], seed: int) -> None:
        self.order = np.random.default_rng(seed).permutation(np.asarray(numbers))
        ranked = np.argsort(self.order)
        self._sorted, self._places = self.order[ranked], ranked

    def __call__(self, number: int, chat: Chat, read: Any) -> Chat:
        """The conversation with replaced answers; `read` returns the conversation of a row by its number."""
        messages, kinds = [dict(message) for message in chat[0]], chat[1]
        wanted = set(range(len(kinds)))
        for source in self._sources(number):
            try:
                theirs, their_kinds = read(source)
            except BAD_DATA:  # a bad row has no answers
                continue
            for turn in sorted(wanted):
                if turn < len(their_kinds) and their_kinds[turn] == kinds[turn]:
                    messages[2 * turn + 1] = _exchanged(kinds[turn], messages[2 * turn + 1], theirs[2 * turn + 1])
                    wanted.remove(turn)
            if not wanted:
                break
        return messages, kinds

    def _sources(self, number: int) -> Any:
        place = int(self._places[np.searchsorted(self._sorted, number)])
        count = len(self.order)
        return (int(self.order[(place + step) % count]) for step in range(1, min(MOST_SOURCES + 1, count)))


def _exchanged(kind: str, answer: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The other row's answer, to the question of this row as far as the kind knows how."""
    if kind not in KINDS:
        return dict(other)
    return {**other, "content": KINDS[kind].exchanged(answer["content"], other["content"])}


def read_chat(row: Row, turns: Sequence[str] | None = None) -> Chat:
    """Messages of a row and the kind of each turn; with `turns`, only turns of these kinds.

    Example:
        >>> row = {"messages": [{"role": "user", "content": "<image>\\nA?"}, {"role": "assistant", "content": "a"},
        ...                     {"role": "user", "content": "B?"}, {"role": "assistant", "content": "b"}],
        ...        "meta": '{"turns": [{"kind": "depth"}, {"kind": "closer"}]}'}
        >>> read_chat(row, ["closer"])
        ([{'role': 'user', 'content': '<image>\\nB?'}, {'role': 'assistant', 'content': 'b'}], ['closer'])
    """
    messages: list[dict[str, Any]] = [dict(message) for message in plain_messages(row.get("messages"))]
    kinds = row_meta(row, "turns", "kind")
    pairs = list(zip(messages[::2], messages[1::2], strict=False))
    alternates = [message["role"] for message in messages] == ["user", "assistant"] * len(pairs)
    if not alternates or len(kinds) != len(pairs):
        if turns is None:
            _check_roles([message["role"] for message in messages])
            return messages, []
        raise SpatialBoostError(
            "turns can only be chosen if user and assistant alternate and `meta` has the kind of each turn"
        )
    if turns is None:
        return messages, kinds
    first = messages[0]["content"]
    num_images = first.count(IMAGE)
    if num_images:
        messages[0]["content"] = first.replace(IMAGE, "").lstrip("\n")
    kept = [(pair, kind) for pair, kind in zip(pairs, kinds, strict=True) if kind in turns]
    if not kept:
        raise SpatialBoostError(f"no turn of kind {', '.join(turns)}; there are {', '.join(sorted(set(kinds)))}")
    messages = [message for pair, _ in kept for message in pair]
    messages[0]["content"] = f"{IMAGE}\n" * num_images + messages[0]["content"]
    return messages, [kind for _, kind in kept]


def _check_roles(roles: Sequence[str]) -> None:
    """Check that user and assistant alternate, after a system message or without one."""
    spoken = roles[1:] if roles[0] == "system" else roles
    if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(spoken)):
        raise SpatialBoostError(
            f"the roles of its messages are {', '.join(roles)[:200]}; expected user and assistant in turn, at most "
            "with a system message before them"
        )

"""Conversations of rows: which turns are kept, how answers are dealt out anew, and their tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.training.data import RowDataset, RowImages
from spatialboost.training.features import FeatureStore
from spatialboost.vlm.chat import IMAGE, encode_chat

Row = Mapping[str, Any]  # "images": list, "messages": chat, "meta": JSON text or dictionary with "turns"
Chat = tuple[list[dict[str, Any]], list[str]]  # messages, and the kind of each question-answer pair

MOST_GIVERS = 64  # rows that are asked for an answer of the kind that is needed


class ChatExamples:
    """Makes the tokens of a row's conversation. It pickles and holds no model.

    Args:
        rows: All rows.
        tokenizer: Of the language model.
        num_tokens: Visual tokens of one image.
        max_length: Tokens; whole turns beyond it are left out.
        turns: Keep only turns of these kinds (``meta["turns"][i]["kind"]``); a row with none cannot be used.
        deal: Gives the answers of other rows, for the control experiment; None leaves the answers as they are.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: Any,
        num_tokens: int,
        *,
        max_length: int | None = None,
        turns: Sequence[str] | None = None,
        deal: DealtAnswers | None = None,
    ) -> None:
        self.rows, self.tokenizer, self.num_tokens = rows, tokenizer, num_tokens
        self.max_length, self.turns, self.deal = max_length, turns, deal

    def __call__(self, number: int, row: Row) -> dict[str, Tensor]:
        """What `spatialboost.vlm.chat.encode_chat` makes of the conversation."""
        messages, _ = self.chat(number, row)
        counts = self.visual_tokens(row)
        return encode_chat(messages, self.tokenizer, num_visual_tokens=counts, max_length=self.max_length)

    def chat(self, number: int, row: Row | None = None) -> Chat:
        """Messages of a row and the kind of each turn."""
        chat = read_chat(self.rows[number] if row is None else row, self.turns)
        return chat if self.deal is None else self.deal(number, chat, self._chat_of_another)

    def visual_tokens(self, row: Row) -> list[int]:
        """Tokens of each image of a row."""
        return [self.num_tokens] * len(row["images"])

    def _chat_of_another(self, number: int) -> Chat:
        return read_chat(self.rows[number], self.turns)


class ChatDataset(RowDataset):
    """Conversations with their images, for `spatialboost.vlm.Collator`: tokenised when they are asked for.

    Example:
        >>> train = ChatDataset(rows, RowImages(encoder, 224), tokenizer, numbers=range(900))  # doctest: +SKIP
        >>> train[0]["input_ids"].shape  # doctest: +SKIP

    Args:
        rows: With ``images``, ``messages``, and ``meta`` if turns are chosen or answers scored.
        images: How images are prepared.
        tokenizer: Of the language model.
        numbers: Rows to use; None is all.
        max_length: Tokens; whole turns beyond it are left out.
        turns: Keep only turns of these kinds.
        shuffle_answers: Deal the answers out anew, see `DealtAnswers`.
        seed: Of the dealing.
        features: See `RowDataset`.
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
        turns: Sequence[str] | None = None,
        shuffle_answers: bool = False,
        seed: int = 0,
        features: FeatureStore | None = None,
    ) -> None:
        numbers = range(len(rows)) if numbers is None else numbers
        deal = DealtAnswers(numbers, seed) if shuffle_answers else None
        examples = ChatExamples(rows, tokenizer, images.num_tokens, max_length=max_length, turns=turns, deal=deal)
        super().__init__(rows, images, examples, numbers=numbers, features=features)


class DealtAnswers:
    """The control experiment: each answer goes to the question of another row, of the same turn and kind.

    So the words are right and what they say is wrong. The rows stand in a circle, in an order drawn once; a row takes
    its answers from the next one, and an answer that this one does not have (no such turn, a bad row) from the one
    behind it, and so on, at most 64 rows far. An answer that none of them has stays where it is.

    Example:
        >>> rows = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": str(i)}] for i in range(4)]
        >>> deal = DealtAnswers(range(4), seed=0)
        >>> [deal(i, (rows[i], ["depth"]), lambda j: (rows[j], ["depth"]))[0][1]["content"] for i in range(4)]
        ['1', '3', '0', '2']

    Args:
        numbers: Of the rows among which answers are dealt.
        seed: Of the order.
    """

    def __init__(self, numbers: Sequence[int], seed: int) -> None:
        self.order = np.random.default_rng(seed).permutation(np.asarray(numbers))
        ranked = np.argsort(self.order)
        self._sorted, self._places = self.order[ranked], ranked

    def __call__(self, number: int, chat: Chat, read: Any) -> Chat:
        """The conversation with other answers; `read` gives the conversation of a row."""
        messages, kinds = [dict(message) for message in chat[0]], chat[1]
        wanted = set(range(len(kinds)))
        for giver in self._givers(number):
            try:
                theirs, their_kinds = read(giver)
            except Exception:  # a bad row has nothing to give
                continue
            for turn in sorted(wanted):
                if turn < len(their_kinds) and their_kinds[turn] == kinds[turn]:
                    messages[2 * turn + 1] = dict(theirs[2 * turn + 1])
                    wanted.remove(turn)
            if not wanted:
                break
        return messages, kinds

    def _givers(self, number: int) -> Any:
        place = int(self._places[np.searchsorted(self._sorted, number)])
        count = len(self.order)
        return (int(self.order[(place + step) % count]) for step in range(1, min(MOST_GIVERS + 1, count)))


def read_chat(row: Row, turns: Sequence[str] | None = None) -> Chat:
    """Messages of a row and the kind of each of its turns, only those asked for.

    Example:
        >>> row = {"messages": [{"role": "user", "content": "<image>\\nA?"}, {"role": "assistant", "content": "a"},
        ...                     {"role": "user", "content": "B?"}, {"role": "assistant", "content": "b"}],
        ...        "meta": '{"turns": [{"kind": "depth"}, {"kind": "closer"}]}'}
        >>> read_chat(row, ["closer"])
        ([{'role': 'user', 'content': '<image>\\nB?'}, {'role': 'assistant', 'content': 'b'}], ['closer'])
    """
    messages = [dict(message) for message in row["messages"]]
    meta = row.get("meta") or {}
    meta = json.loads(meta) if isinstance(meta, str) else meta
    pairs = list(zip(messages[::2], messages[1::2], strict=False))
    kinds = [str(turn["kind"]) for turn in meta.get("turns", [])]
    alternates = [message["role"] for message in messages] == ["user", "assistant"] * len(pairs)
    if not alternates or len(kinds) != len(pairs):
        if turns is None:
            return messages, []
        raise SpatialBoostError(
            "turns can only be chosen where user and assistant alternate and meta names each turn's kind"
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

"""How well the answers can be guessed from the text of the questions alone, without the image, for each kind."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from spatialboost.scenes.questions.kinds import KINDS, scoring_of
from spatialboost.scenes.questions.scoring import read_length, read_verdict

# Shape legend: T = turns, F = features, B = bins of lengths.

_FOLDS = 5
_MAX_TURNS = 4000  # of one kind: evenly spaced ones are used
_MIN_TURNS = 20  # fewer cannot be cross-validated
_MAX_ANSWERS = 20  # a kind with more different answers is free text
_RARE = 3  # a word or a word pair must occur in this many questions
_BIN = 0.05  # of the logarithm of a length
_INVERSE_PENALTY = 0.1  # of the logistic regression


@dataclass(frozen=True)
class TextOnly:
    """The baseline of one kind of question.

    Attributes:
        asked: number of turns.
        prior: fraction of right answers of the best constant answer.
        text_only: fraction of right answers of a classifier that reads only the question. None if there are too few
            turns, or if the answers are free text.
    """

    asked: int
    prior: float
    text_only: float | None


def measure_text_only(talks: Iterable[tuple[Sequence[Mapping[str, str]], Mapping[str, Any]]]) -> dict[str, TextOnly]:
    """Cross-validate a classifier of the questions' texts, for each kind of question.

    Example:
        >>> from spatialboost.scenes.questions.conversation import build_conversation
        >>> from spatialboost.scenes.rooms import Rooms
        >>> talks = [build_conversation(view, seed=i) for i, view in enumerate(Rooms(30, size=48))]
        >>> table = measure_text_only((talk.messages, talk.meta) for talk in talks)
        >>> table["closer"].asked
        60

    The classifier is a logistic regression on the words of the question, all ordered pairs of its words, and its
    numbers with their squares and products. It is trained on four fifths of the conversations and answers the others,
    five times. A question that refers to an earlier turn is read together with the answer of that turn. An answer
    that is one of the names in the question counts as the first or the second of them. Lengths are classified in
    bins, and the length with the best chance to be right by the kind's own scoring is the guess.

    The more a classifier beats the constant answer, the more of the answers can be learned without looking at the
    image.

    Args:
        talks: messages and ``meta`` of each conversation.

    Returns:
        kind -> its baseline, in the order of the table of kinds.
    """
    turns: dict[str, list[_Read]] = defaultdict(list)
    groups: dict[str, int] = {}  # conversations about the same view are never split
    for number, (messages, meta) in enumerate(talks):
        group = groups.setdefault(str(meta.get("source", number)), len(groups))
        for turn in _read_turns(messages, meta, group):
            turns[turn.kind].append(turn)
    order = [*(kind for kind in KINDS if kind in turns), *(kind for kind in turns if kind not in KINDS)]
    return {kind: _measure(kind, turns[kind]) for kind in order}


class _Read(NamedTuple):
    """A turn: the number of its view, its kind, the text that is read, the answer, and the answer as a choice."""

    group: int
    kind: str
    text: str
    answer: str
    label: str


def _read_turns(messages: Sequence[Mapping[str, str]], meta: Mapping[str, Any], group: int) -> Iterator[_Read]:
    last: dict[str, str] = {}
    for turn, question, message in zip(meta["turns"], messages[::2], messages[1::2], strict=True):
        kind, text, answer = turn["kind"], question["content"].replace("<image>", " "), message["content"]
        if kind in KINDS and KINDS[kind].follows is not None:
            text = f"{last.get(str(KINDS[kind].follows), '')} {text}"
        label = read_verdict(answer)
        choices = [f"The {name}." for name in turn.get("names", ())]
        yield _Read(group, kind, text, answer, f"name {choices.index(label)}" if label in choices else label)
        last[kind] = answer


def _measure(kind: str, turns: Sequence[_Read]) -> TextOnly:
    asked = len(turns)
    if asked > _MAX_TURNS:
        turns = [turns[i] for i in np.linspace(0, asked - 1, _MAX_TURNS).round().astype(int)]
    fold_T = np.array([turn.group for turn in turns]) % _FOLDS
    texts, lengths = [turn.text for turn in turns], [read_length(turn.answer) for turn in turns]
    is_length = scoring_of(kind).error(turns[0].answer, turns[0].answer) is not None and None not in lengths
    if is_length:
        labels_T = np.round(np.log(np.maximum(np.array(lengths, np.float64), 0.01)) / _BIN).astype(int)
    else:
        counts = Counter(turn.label for turn in turns)
        if len(counts) > _MAX_ANSWERS:
            return TextOnly(asked, counts.most_common(1)[0][1] / len(turns), None)
        labels_T = np.array([list(counts).index(turn.label) for turn in turns])
    # bins of lengths that count as the same: within a quarter of each other
    tolerance = getattr(scoring_of(kind), "tolerance", 0.0)
    reach = round(np.log1p(tolerance) / _BIN) if is_length else 0
    prior = max(float((np.abs(labels_T - value) <= reach).mean()) for value in set(labels_T.tolist()))
    if len(turns) < _MIN_TURNS or len(set(fold_T.tolist())) < 2:
        return TextOnly(asked, prior, None)
    right_T = np.zeros(len(turns), bool)
    for fold in np.unique(fold_T):
        train_T, test_T = fold_T != fold, fold_T == fold
        guesses = _classify(texts, labels_T, train_T, test_T, reach)
        right_T[test_T] = np.abs(guesses - labels_T[test_T]) <= reach
    return TextOnly(asked, prior, float(right_T.mean()))


def _classify(
    texts: Sequence[str], labels_T: np.ndarray, train_T: np.ndarray, test_T: np.ndarray, reach: int
) -> np.ndarray:
    """The guesses for the test part. With a reach, the label whose neighbourhood has the highest probability."""
    from sklearn.linear_model import LogisticRegression

    if len(set(labels_T[train_T].tolist())) < 2:
        return np.full(int(test_T.sum()), labels_T[train_T][0])
    coarse_T = labels_T // (reach or 1)  # fewer classes: neighbouring bins of lengths are learned together
    features_TF = _features(texts, train_T)
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=300)
    model.fit(features_TF[train_T], coarse_T[train_T])
    chances_TB = model.predict_proba(features_TF[test_T])
    if not reach:
        return np.asarray(model.classes_[chances_TB.argmax(1)])
    # each class spreads its probability over its bins as the training part does
    bins = np.arange(labels_T.min(), labels_T.max() + 1)
    spread = np.zeros((len(model.classes_), len(bins)))
    for row, value in enumerate(model.classes_):
        inside = labels_T[train_T][coarse_T[train_T] == value]
        spread[row] = np.bincount(inside - bins[0], minlength=len(bins)) / len(inside)
    mass = np.apply_along_axis(lambda line: np.convolve(line, np.ones(2 * reach + 1), "same"), 1, chances_TB @ spread)
    return np.asarray(bins[mass.argmax(1)])


def _features(texts: Sequence[str], train_T: np.ndarray) -> Any:
    """Words, ordered word pairs and numbers of each text, as a sparse matrix ``(T, F)``."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    parts = []
    words = CountVectorizer(analyzer=_words_and_pairs, binary=True, min_df=_RARE)
    try:
        words.fit([text for text, train in zip(texts, train_T, strict=True) if train])
        parts.append(words.transform(texts).astype(np.float64))
    except ValueError:  # no word occurs often enough
        pass
    numbers = [[float(number) for number in re.findall(r"\d+\.\d+", text)] for text in texts]
    width = max(map(len, numbers))
    if width:
        padded = np.array([[*row, *[0.0] * (width - len(row))] for row in numbers])
        powers = PolynomialFeatures(2 if width <= 8 else 1, include_bias=False).fit_transform(padded)
        scaler = StandardScaler().fit(powers[train_T])
        # in proportion to the words: each number has more to say than one of many words
        parts.append(csr_matrix(3 * scaler.transform(powers)))
    return csr_matrix(hstack(parts)) if parts else csr_matrix(np.zeros((len(texts), 1)))


def _words_and_pairs(text: str) -> list[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return [*words, *(f"{first} {second}" for first, second in combinations(words, 2))]

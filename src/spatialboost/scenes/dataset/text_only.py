"""How well the answers can be guessed from the text of the questions alone, without the image, for each kind."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from spatialboost.scenes.questions.kinds import KINDS, scoring_of
from spatialboost.scenes.questions.scoring import read_length, read_verdict

# Shape legend: T = turns, F = features, B = bins of lengths.

FOLDS = 5
MAX_TURNS = 4000  # of one kind: evenly spaced ones are used
_MIN_TURNS = 20  # fewer cannot be cross-validated
_MAX_ANSWERS = 20  # a kind with more different answers is free text
_RARE = 3  # a word or a word pair must occur in this many questions
_MANY_WORDS = 25  # of a longer text, such as one with a caption, only pairs of words are used
_BIN = 0.05  # of the logarithm of a length
_INVERSE_PENALTY = 0.1  # of the logistic regression


@dataclass(frozen=True)
class TextOnly:
    """The baseline of one kind of question."""

    asked: int  # number of turns
    prior: float  # fraction of right answers of the best constant answer
    # fraction of right answers of a classifier that reads only the question. None if there are too few turns, or if the
    # answers are free text.
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

    The classifier is a logistic regression on the words of the question, all ordered pairs and triples of its words
    (only pairs in long texts and for lengths), and its numbers with their squares and products. It is trained on four
    fifths of the conversations and answers the others, five times. A question that refers to an earlier turn is read
    alone and together with the answer of that turn; the better result counts. An answer that is one of the names in the
    question counts as the first or the second of them. Lengths are classified in bins, and the length with the best
    chance to be right by the kind's own scoring is the guess.

    The more a classifier beats the constant answer, the more of the answers can be learned without looking at the
    image.

    Returns:
        kind -> its baseline, in the order of the table of kinds. A kind with several forms of question has one entry
        for each form, such as ``"vqa where"``.
    """
    return {kind: measure_kind(turns) for kind, turns in read_turns(talks).items()}


class ReadTurn(NamedTuple):
    """A turn as the classifier reads it."""

    row: int  # number of the conversation
    number: int  # number of the turn in it
    group: int  # number of the view; conversations about the same view are never split
    kind: str  # kind of question
    question: str  # text of the question
    earlier: str  # the answer of an earlier turn that the question refers to, or empty
    answer: str  # the answer
    label: str  # the answer as a choice


def read_turns(
    talks: Iterable[tuple[Sequence[Mapping[str, str]], Mapping[str, Any]]],
) -> dict[str, list[ReadTurn]]:
    """All turns by their kind, and by their form if the kind has several; in the order of the table of kinds."""
    turns: dict[str, list[ReadTurn]] = defaultdict(list)
    groups: dict[str, int] = {}
    for row, (messages, meta) in enumerate(talks):
        group = groups.setdefault(str(meta.get("source", row)), len(groups))
        last: dict[str, str] = {}
        texts = zip(meta["turns"], messages[::2], messages[1::2], strict=True)
        for number, (turn, question, message) in enumerate(texts):
            kind, text, answer = str(turn["kind"]), question["content"].replace("<image>", " "), message["content"]
            earlier = last.get(str(KINDS[kind].follows), "") if kind in KINDS else ""
            last[kind] = answer
            label = read_verdict(answer)
            choices = [f"The {name}." for name in turn.get("names", ())]
            label = f"name {choices.index(label)}" if label in choices else label
            form = f"{kind} {turn['form']}" if "form" in turn else kind
            turns[form].append(ReadTurn(row, number, group, kind, text, earlier, answer, label))
    order = list(KINDS)
    ranks = {form: order.index(read[0].kind) if read[0].kind in order else len(order) for form, read in turns.items()}
    return {form: turns[form] for form in sorted(turns, key=lambda form: ranks[form])}


@dataclass(frozen=True)
class Labels:
    """The answers of turns of one kind as numbers."""

    values_T: np.ndarray  # number of each answer, int (T,). Of lengths: the bin of the logarithm.
    reach: int  # answers whose numbers differ by at most this count as the same

    @classmethod
    def of(cls, turns: Sequence[ReadTurn]) -> Labels | None:
        """None if the answers are free text."""
        scoring, lengths = scoring_of(turns[0].kind), [read_length(turn.answer) for turn in turns]
        if scoring.error(turns[0].answer, turns[0].answer) is not None and None not in lengths:
            metres_T = np.maximum(np.array(lengths, np.float64), 0.01)
            # bins of lengths that count as the same: within a quarter of each other
            reach = round(np.log1p(getattr(scoring, "tolerance", 0.0)) / _BIN)
            return cls(np.round(np.log(metres_T) / _BIN).astype(int), reach)
        known = list(dict.fromkeys(turn.label for turn in turns))
        if len(known) > _MAX_ANSWERS:
            return None
        return cls(np.array([known.index(turn.label) for turn in turns]), 0)

    @property
    def prior(self) -> float:
        """Fraction of right answers of the best constant answer."""
        values = set(self.values_T.tolist())
        return max(float((np.abs(self.values_T - value) <= self.reach).mean()) for value in values)


def measure_kind(turns: Sequence[ReadTurn]) -> TextOnly:
    """The baseline of turns of one kind, from `read_turns`."""
    asked = len(turns)
    if asked > MAX_TURNS:
        turns = [turns[i] for i in np.linspace(0, asked - 1, MAX_TURNS).round().astype(int)]
    labels = Labels.of(turns)
    if labels is None:
        return TextOnly(asked, Counter(turn.label for turn in turns).most_common(1)[0][1] / len(turns), None)
    found = guess_answers(turns, labels, np.array([turn.group for turn in turns]) % FOLDS)
    return TextOnly(asked, labels.prior, None if found is None else float(found[0].mean()))


def guess_answers(
    turns: Sequence[ReadTurn], labels: Labels, fold_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Guess the answers of each fold after training on the others, from the questions or also from earlier answers.

    Returns:
        Whether each guess is right, bool ``(T,)``, and the probability that the classifier gave the true answer, float
        ``(T,)``. None if there are too few turns.
    """
    if len(turns) < _MIN_TURNS or len(set(fold_T.tolist())) < 2:
        return None
    found = [_guess([turn.question for turn in turns], labels, fold_T)]
    if any(turn.earlier for turn in turns):
        found.append(_guess([f"{turn.earlier} {turn.question}" for turn in turns], labels, fold_T))
    return max(found, key=lambda guess: float(guess[0].mean()))


def _guess(texts: Sequence[str], labels: Labels, fold_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    right_T, chances_T = np.zeros(len(texts), bool), np.zeros(len(texts))
    for fold in np.unique(fold_T):
        test_T = fold_T == fold
        bins, mass_TB = _classify(texts, labels, ~test_T, test_T)
        truth_T = labels.values_T[test_T]
        right_T[test_T] = np.abs(bins[mass_TB.argmax(1)] - truth_T) <= labels.reach
        chances_T[test_T] = (mass_TB * (bins == truth_T[:, None])).sum(1)  # an answer that is new has none
    return right_T, chances_T


def _classify(
    texts: Sequence[str], labels: Labels, train_T: np.ndarray, test_T: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The possible answers, and for each text of the test part the probability that each of them counts as right."""
    from sklearn.linear_model import LogisticRegression

    values_T, reach = labels.values_T, labels.reach
    if len(set(values_T[train_T].tolist())) < 2:
        return values_T[train_T][:1], np.ones((int(test_T.sum()), 1))
    coarse_T = values_T // (reach or 1)  # fewer classes: neighbouring bins of lengths are learned together
    # "closer, the A or the B?" needs three words together: which, and the order of the names
    features_TF = _features(texts, train_T, 2 if reach else 3)
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=300)
    model.fit(features_TF[train_T], coarse_T[train_T])
    chances_TB = model.predict_proba(features_TF[test_T])
    if not reach:
        return model.classes_, chances_TB
    # each class spreads its probability over its bins as the training part does
    bins = np.arange(values_T.min(), values_T.max() + 1)
    spread = np.zeros((len(model.classes_), len(bins)))
    for row, value in enumerate(model.classes_):
        inside = values_T[train_T][coarse_T[train_T] == value]
        spread[row] = np.bincount(inside - bins[0], minlength=len(bins)) / len(inside)
    mass_TB = np.apply_along_axis(
        lambda line: np.convolve(line, np.ones(2 * reach + 1), "same"), 1, chances_TB @ spread
    )
    return bins, mass_TB


def _features(texts: Sequence[str], train_T: np.ndarray, most: int) -> Any:
    """Words, up to ``most`` of them in their order, and numbers of each text, as a sparse matrix ``(T, F)``."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    parts = []
    words = CountVectorizer(analyzer=list, binary=True, min_df=_RARE)
    found = [_combinations(text, most) for text in texts]
    try:
        words.fit([each for each, train in zip(found, train_T, strict=True) if train])
        parts.append(words.transform(found).astype(np.float64))
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


@lru_cache(maxsize=MAX_TURNS)
def _combinations(text: str, most: int) -> tuple[str, ...]:
    """Words of a text, and what up to this many of them are in their order."""
    words = re.findall(r"[a-z]+", text.lower())
    sizes = range(1, 1 + (min(most, 2) if len(words) > _MANY_WORDS else most))
    return tuple(" ".join(chosen) for size in sizes for chosen in combinations(words, size))

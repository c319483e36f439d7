"""How an answer is read out of a reply, and how a number is scored. The rules are those of lmms-eval 0.7.3."""

from __future__ import annotations

import re
import string

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the mean relative accuracy

_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_TEENS = ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: number for number, word in enumerate((*_ONES, *_TEENS))}
_WORDS |= {word: 10 * number for number, word in enumerate(_TENS, 2)} | {"hundred": 100, "thousand": 1000}
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def mean_relative_accuracy(found: float, true: float) -> float:
    """Share of the thresholds 0.50, 0.55, ..., 0.95 above which the relative accuracy of a number lies.

    Example:
        >>> mean_relative_accuracy(4.0, 4.0), mean_relative_accuracy(3.0, 4.0), mean_relative_accuracy(9.0, 4.0)
        (1.0, 0.6, 0.0)

    Relative accuracy is ``1 - |found - true| / true``. Where the true number is 0, the absolute error counts.

    Source: VSI-Bench (arXiv 2412.14171), equation 1; the case of 0 is from SPAR-Bench.
    """
    error = abs(found - true) if true == 0 else abs((found - true) / true)
    return float((error <= 1 - THRESHOLDS).mean())


def first_word(reply: str) -> str:
    """The text before the first blank, without a full stop.

    Example:
        >>> first_word("B. the bed"), first_word("The bed")
        ('B', 'The')
    """
    return reply.split(" ")[0].rstrip(".").strip()


def first_number(reply: str) -> float | None:
    """The first number of a reply, in digits or in English words; None if there is none.

    Example:
        >>> first_number("There are twenty-one chairs, or 22."), first_number("about 2.5 m"), first_number("many")
        (21.0, 2.5, None)
    """
    text = reply.strip().lower()
    digits = _NUMBER.search(text)
    words: list[str] = []
    start = len(text)
    for word in re.finditer(r"[a-z]+", text):
        if word[0] in _WORDS:
            start = min(start, word.start())
            words.append(word[0])
        elif words and word[0] != "and":
            break
    if digits is not None and digits.start() < start:
        return float(digits[0])
    return _spelled(words) if words else None


def _spelled(words: list[str]) -> float:
    """The number of words such as three hundred twenty one."""
    total = current = 0
    for word in words:
        value = _WORDS[word]
        if value == 1000:
            total, current = total + max(current, 1) * 1000, 0
        else:
            current = max(current, 1) * 100 if value == 100 else current + value
    return float(total + current)


def stated_letter(reply: str, letters: str = string.ascii_uppercase) -> str:
    """The letter of a choice in a short reply, or in one that states it later; "" if there is none.

    Example:
        >>> stated_letter("(B)", "AB"), stated_letter("The correct answer is (A).", "AB"), stated_letter("A dog", "AB")
        ('B', 'A', 'A')

    In this order: a first line of at most four characters that is just the letter; the last letter after the word
    "answer"; the last letter in brackets; a letter at the beginning.
    """
    text, choice = reply.strip(), f"[{re.escape(letters)}]"
    line = text.split("\n", 1)[0].strip()
    if len(line) <= 4 and (found := re.match(rf"^\(?({choice})\)?[\.\s:,)]*$", line, re.IGNORECASE)):
        return found[1].upper()
    stated = re.findall(rf"answers?(?:\s+is)?\s*[:\-]?\s*\(?({choice})\)?(?![A-Za-z])", text, re.IGNORECASE)
    stated = stated or re.findall(rf"\(({choice})\)", text)
    if stated:
        return stated[-1].upper()
    return leading_letter(text, letters)


def leading_letter(reply: str, letters: str = string.ascii_uppercase) -> str:
    """The letter at the beginning of a reply; "" if there is none.

    Example:
        >>> leading_letter("(B) the bed"), leading_letter("the bed"), leading_letter("42")
        ('B', 'T', '')
    """
    found = re.match(rf"[\(\s]*([{re.escape(letters)}])", reply.strip(), re.IGNORECASE)
    return found[1].upper() if found else ""


def lone_letter(text: str, letters: str = "ABCD") -> str:
    """The first letter of a choice that stands alone; "" if there is none.

    Example:
        >>> lone_letter("It is b, I think"), lone_letter("right")
        ('B', '')
    """
    found = re.search(rf"\b([{letters}])\b", text, re.IGNORECASE)
    return found[1].upper() if found else ""


def only_choice(reply: str, choices: dict[str, str]) -> str:
    """The only letter of a choice among the words of a reply, or else the only choice whose text is in it.

    Example:
        >>> choices = {"A": "left", "B": "right"}
        >>> only_choice("B.", choices), only_choice("on the Right side", choices), only_choice("A or B", choices)
        ('B', 'B', '')

    Source: the exact matching of VLMEvalKit in the copy that All-Angles Bench hands out.
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    named = [letter for letter in choices if letter in words]
    if len(named) == 1:
        return named[0]
    if not named and "Z" in words:  # what a judge says if no choice fits
        return ""
    told = [letter for letter, text in choices.items() if text.lower() in reply.lower()]
    return told[0] if len(told) == 1 else ""

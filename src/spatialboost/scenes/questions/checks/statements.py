"""Read what a text states about left, above, in front, sizes, distances, depths and counts, as `Claim` objects.

The text may be written by a language model. Each clause that contains a word of geometry must have one of the forms
below as a whole; otherwise, nobody knows what it claims, and the text cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from spatialboost.scenes.questions.checks.claims import Claim, Name, core_of
from spatialboost.scenes.questions.checks.grammar import (
    BODY,
    COUNT,
    DEPTH,
    DISTANCE,
    ELIDED,
    ELIDED_AT,
    EXTREME_WORDS,
    GEOMETRY,
    IN_ORDER,
    JOINTS,
    LENGTH,
    MISSING,
    NUMBERS,
    PLACE,
    PLACED_AT,
    RELATES,
    RELATION,
    SUPERLATIVE,
    THERE,
    THING,
    TWISTS,
    WAYS,
    length_of,
    places_of,
    sentences_of,
    singular,
    states_geometry,
)

_VAGUE = """object thing item one it image scene picture photo room view camera viewer observer yes no is are a an the
    and or of in not that which what where there"""
VAGUE = frozenset(["", *_VAGUE.split()])  # words that are never taken for the name of an object
OTHER_IMAGE = re.compile(r"\b(?:image|view|picture|photo|frame) \d")

Reading = tuple[list[Claim], str | None]  # the claims of a clause, and the mark of what it is about


class UnreadableError(ValueError):
    """A clause has words of geometry, but none of the forms that can be checked."""


@dataclass(frozen=True)
class Words:
    """The names that a text can use for the objects of some views.

    Example:
        >>> words = Words.of([[["red box on the floor"], ["blue ball"]]])
        >>> words.marked("Is the red box left of the Blue ball?")
        'is @0 left of @1?'
        >>> [claim.relation for claim in words.read("The box is red. It is left of the blue ball and 2.1 m away.")]
        ['left', 'depth']
        >>> words.read("The box is somewhere near the window.")
        Traceback (most recent call last):
        ...
        spatialboost.scenes.questions.checks.statements.UnreadableError: @0 is somewhere near the window
    """

    names: tuple[str, ...]  # all different descriptions
    # what each is called in a text, longest first, and the number of its description
    phrases: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, views: Sequence[Sequence[Sequence[str]]]) -> Words:
        """The words for the objects of each view. Each object has one or more names; the first is its description."""
        names = tuple(dict.fromkeys(thing[0] for view in views for thing in view))
        phrases: dict[str, int | None] = {}
        full: dict[str, int | None] = {}
        for number, name in enumerate(names):
            called = {text.lower() for view in views for thing in view if thing[0] == name for text in thing}
            for text in called:
                full[text] = None if text in full else number
            cores = [core_of(text).split() for text in called]
            shorter = {" ".join(parts[i:]) for parts in cores for i in range(len(parts))}  # "box" for "large red box"
            shorter |= {f"{part} {parts[-1]}" for parts in cores for part in parts[:-1]}
            for phrase in shorter:
                phrases[phrase] = None if phrase in phrases else number
        phrases |= full
        found = [
            (phrase, number)
            for phrase, number in phrases.items()
            if number is not None
            and phrase not in VAGUE
            and not (GEOMETRY.fullmatch(phrase) or OTHER_IMAGE.search(phrase))
        ]
        return cls(names, tuple(sorted(found, key=lambda each: -len(each[0]))))

    def marked(self, text: str) -> str:
        """The text in lower case, with a mark in place of each name of an object."""
        text = re.sub(r"[\u2018\u2019]", "'", text.lower())
        text = re.sub(r"[\u201c\u201d\"]", "", text)
        text = re.sub(r"\b(is|are|was|were|does|do)n't\b", r"\1 not", text).replace("it's", "it is")
        text = re.sub(r"\s+", " ", text.replace("\u2013", "-").replace("\u2014", ", ")).strip()
        for phrase, number in self.phrases:
            text = re.sub(rf"(?:\b(?:the|an?|this|that) )?(?<![\w@-]){re.escape(phrase)}(?![\w-])", f"@{number}", text)
        ordinal = {"first": 1, "second": 2, "third": 3, "fourth": 4}

        def scoped(found: re.Match[str]) -> str:
            number = int(found[2]) if found[2] else ordinal[found[3]]
            return f"{found[1]}:{number - 1}"

        image = r"(?:image|view|picture|photo|frame)"
        return re.sub(rf"(@\d+) (?:in|of|from) (?:{image} (\d+)|the (first|second|third|fourth) {image})", scoped, text)

    def name(self, mark: str) -> Name:
        """The name that a mark stands for."""
        number, _, view = mark[1:].partition(":")
        return Name(self.names[int(number)], int(view) if view else None)

    def read(self, text: str, *, subject: str | None = None, clear: bool = True) -> list[Claim]:
        """The claims of a text.

        Args:
            text: one or more sentences; not a question.
            subject: the mark of the object that a sentence without subject is about.
            clear: whether "it" can also mean this object where "it" is not the subject, as in "behind it".

        Raises:
            UnreadableError: a clause has words of geometry, and none of the forms of this file.
        """
        claims: list[Claim] = []
        for sentence in sentences_of(self.marked(text)):
            found, subject, clear = self._read_sentence(sentence, subject, clear)
            claims += found
        return claims

    def length(self, marked: str) -> tuple[float, float] | None:
        """Metres and slack of an answer that is nothing but a length; None if it is something else."""
        found = re.fullmatch(rf"(?:it is |they are |the (?:depth|distance) is )?{LENGTH}(?: away| apart)?[ .]*", marked)
        return length_of(found) if found else None

    def modifiers(self, marked: str) -> list[str]:
        """The parts of a question that say where a thing is: "@0 to the left of @1" in "what colour is @0 to ...?"."""
        pattern = rf"{THING},? (?:that is |which is |located |placed )?(?:{RELATION} {THING}|{PLACE})"
        return [found[0].strip() for found in re.finditer(pattern, marked)]

    def _read_sentence(self, sentence: str, subject: str | None, clear: bool) -> tuple[list[Claim], str | None, bool]:
        """The claims of one marked sentence, what "it" is after it, and whether only one thing was mentioned."""
        view = re.match(r"in (?:image|view|picture|photo) (\d+),? ", sentence)
        if view and not re.search(r"@\d+:", sentence):
            number = int(view[1]) - 1
            sentence = re.sub(r"(@\d+)", rf"\1:{number}", sentence[view.end() :])
        parts = [part.strip() for part in re.split(JOINTS, sentence)]
        joints = re.findall(JOINTS, sentence)
        claims: list[Claim] = []
        others: list[str] = []  # clauses without geometry
        start = 0
        while start < len(parts):
            for end in range(len(parts), start, -1):
                clause = parts[start] + "".join(
                    f"{joint}{part}" if joint.startswith((",", ";", ":")) else f" {joint.strip()} {part}"
                    for joint, part in zip(joints[start : end - 1], parts[start + 1 : end], strict=True)
                )
                clause = re.sub(r"\s+", " ", clause).strip(" ,;")
                found = self._read_clause(clause, subject, clear)
                if found is not None:
                    claims += found[0]
                    subject = found[1] or subject
                    clear = len({*re.findall(THING, clause)} - {"@?"}) < 2 if "@" in clause else clear
                    break
            else:
                clause = parts[start]
                if states_geometry(clause):
                    raise UnreadableError(clause)
                others.append(clause)
                mentioned = re.findall(THING, clause)
                subject = mentioned[0] if len(mentioned) == 1 else None if mentioned else subject
                end = start + 1
            start = end
        if claims and any(map(TWISTS.search, others)):
            raise UnreadableError(sentence)
        return claims, subject, clear

    def _read_clause(self, clause: str, subject: str | None, clear: bool) -> Reading | None:
        """The claims of a clause that has one of the forms, and its subject; None if it has none of them."""
        if clause in ("yes", "no", ""):
            return [], None
        clause = re.sub(r"\bit\b" if clear else r"^(?:(?:and|but|yes|no),? )*it\b", "@?", clause)
        readers = (self._read_relation, self._read_length, self._read_extreme, self._read_place, self._read_others)
        return next((found for read in readers if (found := read(clause, subject)) is not None), None)

    def _read_relation(self, clause: str, subject: str | None) -> Reading | None:
        for form in (*RELATES, *ELIDED):
            if found := form.fullmatch(clause):
                subjects, others = _marks(found, "subject", subject), _marks(found, "other", subject)
                if not subjects or not others:
                    return None
                relation = next(name for name in BODY if found[name])
                names = [(self.name(a), self.name(b)) for a in subjects for b in others]
                return [Claim(relation, pair, negated=_negated(found)) for pair in names], _only(subjects)
        return None

    def _read_length(self, clause: str, subject: str | None) -> Reading | None:
        for relation, count, forms in (("distance", 2, DISTANCE), ("depth", 1, DEPTH)):
            for form in forms:
                if found := form.fullmatch(clause):
                    marks = _marks(found, "subject", subject)
                    marks += _marks(found, "other", subject) if "other" in form.groupindex else []
                    if len(marks) != count:
                        return None
                    value, slack = length_of(found)
                    names = tuple(map(self.name, marks))
                    return [Claim(relation, names, value=value, slack=slack, negated=_negated(found))], marks[0]
        return None

    def _read_extreme(self, clause: str, subject: str | None) -> Reading | None:
        for form in SUPERLATIVE:
            if found := form.fullmatch(clause):
                marks = _marks(found, "subject", subject)
                if len(marks) != 1:
                    return None
                relation = next(name for name in EXTREME_WORDS if found[name])
                return [Claim(relation, (self.name(marks[0]),), negated=_negated(found))], marks[0]
        return None

    def _read_place(self, clause: str, subject: str | None) -> Reading | None:
        for form in (*PLACED_AT, *ELIDED_AT):
            if found := form.fullmatch(clause):
                marks, places, negated = _marks(found, "subject", subject), places_of(found), _negated(found)
                if not marks or not places or (negated and len(places) > 1):
                    return None
                return [Claim(place, (self.name(mark),), negated=negated) for mark in marks for place in places], _only(
                    marks
                )
        return None

    def _read_others(self, clause: str, subject: str | None) -> Reading | None:
        """An order of several things, a thing that is there or is missing, a number of things."""
        if found := IN_ORDER.fullmatch(clause):
            marks = _marks(found, "subject", None)
            return [Claim(WAYS[found["way"]], (self.name(a), self.name(b))) for a, b in pairwise(marks)], None
        for negated, forms in ((True, MISSING), (False, THERE)):
            for form in forms:
                if found := form.fullmatch(clause):
                    marks = _marks(found, "subject", None)
                    return [Claim("exists", (self.name(mark),), negated=negated) for mark in marks], _only(marks)
        for form in COUNT:
            if (found := form.fullmatch(clause)) and not states_geometry(found["noun"]):
                return [count_claim(found["number"], found["noun"])], None
        return None


def _marks(found: re.Match[str], group: str, subject: str | None) -> list[str]:
    """The marks of a list of things; "it", and a subject that is left out, is the subject before it.

    Empty if a thing is not known.
    """
    text = found[group] if group in found.re.groupindex else "@?"
    marks = [subject if mark == "@?" else mark for mark in re.findall(THING, text)]
    return [mark for mark in marks if mark] if None not in marks else []


def count_claim(number: str, noun: str) -> Claim:
    """The claim that there are so many things of a name in the plural."""
    value = float(NUMBERS.get(number, number))
    return Claim("count", value=value, noun=singular(noun))


def _negated(found: re.Match[str]) -> bool:
    return "not" in found.re.groupindex and found["not"] is not None


def _only(marks: Sequence[str | None]) -> str | None:
    return marks[0] if len(marks) == 1 else None

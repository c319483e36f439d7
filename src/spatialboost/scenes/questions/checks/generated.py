"""Check a text that a language model wrote: everything that it states about geometry must be true in the layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from spatialboost.scenes.questions.checks.claims import EXTREMES, Claim, Facts
from spatialboost.scenes.questions.checks.grammar import (
    NUMBERS,
    compared,
    fragment_of,
    sentences_of,
    states_geometry,
    superlative_of,
)
from spatialboost.scenes.questions.checks.statements import UnreadableError, Words, count_claim

STYLES = ("common", "adversarial", "multi-choice")
LETTERS = "ABCD"
MAX_LENGTH = 600  # characters
_FORBIDDEN = re.compile(
    r"[<>|{}\[\]`*#@\\]|https?:|\b(?:USER|ASSISTANT|SYSTEM|INST|Human|Assistant|User|System):|\bAI\b"
)
_OPTIONS = re.compile(r"^(.+?\?.*?) A[.)] (.+?) B[.)] (.+?) C[.)] (.+?) D[.)] (.+)$")
# "C", "C. a box" or "A box. Answer: C."
_ANSWER = re.compile(
    r"\(?(?P<letter>[A-D])\)?(?:[.:)] ?(?P<option>.*?))?\.?|(?:(?P<before>.+?)\. )?Answer: (?P<last>[A-D])\.?"
)
_PLAIN_NAME = re.compile(
    r"(?!.*\b(?:image|view|picture|photo|frame) \d)(?!.*\b(?:or|not|no|yes|it|which|what|where)\b)"
    r"(?!(?:camera|viewer|observer|image|scene|picture|photo|room|view|objects?|things?|items?|one|meters?|feet|foot)$)"
    r"[^\W\d_](?:[\w', -]*\w)",
    re.IGNORECASE,
)
FALSE, UNREADABLE, FORM, MARKUP = (
    "it states something about geometry that the layout does not show",
    "it has words of geometry in a form that cannot be checked",
    "it does not have the expected form",
    "it has markup or special tokens",
)


def check_form(text: object) -> Iterator[str]:
    """Check that a text is one line of plain words: no markup, no special tokens, not empty and not too long."""
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_LENGTH:
        yield FORM
    elif _FORBIDDEN.search(text) or not text.isprintable():
        yield MARKUP


def words_of(views: Sequence[Facts]) -> Words:
    """What a text can call the objects of these views."""
    return Words.of(
        [[[thing["description"], *thing.get("aliases", ())] for thing in facts["objects"]] for facts in views]
    )


def readable_names(views: Sequence[Facts]) -> frozenset[str]:
    """The names of objects that mean the same object in a text, and cannot be mistaken for another word.

    Example:
        >>> views = [{"objects": [{"description": "red box"}, {"description": "image 2"}, {"description": "no"}]}]
        >>> readable_names(views)
        frozenset({'red box'})
    """
    words = words_of(views)
    return frozenset(
        name
        for facts in views
        for thing in facts["objects"]
        for name in (thing["description"], *thing.get("aliases", ()))
        if _PLAIN_NAME.fullmatch(name)
        and words.marked(f"is the {name} here") == f"is @{words.names.index(thing['description'])} here"
    )


def named_in(text: str, facts: Facts) -> list[int]:
    """Numbers of the objects that a text names, in the order of the objects."""
    words = words_of([facts])
    marks = re.findall(r"@(\d+)", words.marked(text)) if not list(check_form(text)) else []
    named = {words.names[int(mark)] for mark in marks}
    return [number for number, thing in enumerate(facts["objects"]) if thing["description"] in named]


def pairs_told(text: str, facts: Facts) -> list[list[int]]:
    """Pairs of objects between which a text states a relation: sorted numbers of objects."""
    numbers = {thing["description"]: number for number, thing in enumerate(facts["objects"])}
    pairs: set[tuple[int, ...]] = set()
    for claim in words_of([facts]).read(text):
        named = sorted({numbers[name.description] for name in claim.names})
        others = [[number] for number in numbers.values()] if claim.relation in EXTREMES else [[]]
        pairs |= {tuple(sorted({*named, *other})) for other in others}
    return [list(pair) for pair in sorted(pairs) if len(pair) == 2]


def check_text(text: str, views: Sequence[Facts]) -> Iterator[str]:
    """Check a caption or another text that is not an answer.

    Example:
        >>> ball = {"description": "ball", "extent_m": [0, 0, 1, 1, 1, 2], "centre_xy": [0.2, 0.5], "depth_m": 1.1}
        >>> views = [{"objects": [ball], "scene_box": [0, 0, 0, 4, 4, 4], "depth_noise": 0.0}]
        >>> list(check_text("A red ball lies on a carpet. The ball is 1.1 meters away.", views))
        []
        >>> list(check_text("The ball is on the right side.", views))
        ['it states something about geometry that the layout does not show']
        >>> list(check_text("The ball lies close to a cat.", views))
        ['it has words of geometry in a form that cannot be checked']
    """
    problems = list(check_form(text))
    if problems:
        yield from problems
        return
    try:
        yield from _judge(words_of(views).read(text), views)
    except UnreadableError:
        yield UNREADABLE


def true_sentences(text: str, views: Sequence[Facts]) -> tuple[list[str], list[str]]:
    """The sentences of a text that can be used, and the problems of the others.

    A sentence that begins with a pronoun goes with the one before it.
    """
    kept: list[str] = []
    problems: list[str] = []
    groups: list[str] = []
    for sentence in re.findall(r"\S.*?(?:[.!?](?=\s|$)|$)", text):
        if groups and re.match(r"(?:It|They|This|That|These|Those|He|She|Its|Their)\b", sentence):
            groups[-1] += f" {sentence}"
        else:
            groups.append(sentence)
    for group in groups:
        found = list(check_text(group, views))
        problems += found[:1]
        kept += [] if found else [group]
    return kept, problems


def check_pair(question: str, answer: str, style: str, views: Sequence[Facts]) -> Iterator[str]:
    """Check a question and its answer.

    Args:
        question: the question; a multi-choice question ends in "A. ... B. ... C. ... D. ...".
        answer: the answer; of a multi-choice question the letter, with or without the text of the option.
        style: a name in ``STYLES``.
        views: the facts of the views, as in ``meta``.
    """
    problems = [*check_form(question), *check_form(answer)]
    if problems or style not in STYLES:
        yield problems[0] if problems else FORM
        return
    words = words_of(views)
    try:
        if style != "multi-choice":
            yield from _judge(_claims_of_pair(words, question, answer, style), views)
            return
        parsed = _OPTIONS.match(question)
        options = [option.strip(" .") for option in parsed.groups()[1:]] if parsed else []
        chosen = _ANSWER.fullmatch(answer)
        if not parsed or not chosen or len({option.lower() for option in options}) < len(LETTERS):
            yield FORM
            return
        right = LETTERS.index(chosen["letter"] or chosen["last"])
        stated = (chosen["option"] or chosen["before"] or options[right]).strip(" .").lower()
        if stated != options[right].lower():
            yield FORM
            return
        yield from _check_options(words, parsed[1], options, right, views)
    except UnreadableError:
        yield UNREADABLE


def _check_options(
    words: Words, stem: str, options: Sequence[str], right: int, views: Sequence[Facts]
) -> Iterator[str]:
    """Check that the right option is true, and that every other one is false, if they are about geometry."""
    stem = re.sub(r"(?<=\?).*$", "", stem)
    marks = [words.marked(option) for option in options]
    if all(re.fullmatch(r"@\d+:\d+", mark) for mark in marks):  # things in several images, compared with each other
        end = re.search(r"(?:is|are) (?:the )?(closest|nearest|farthest) (?:to|from) (?:its|their) camera", stem)
        if end is None:
            raise UnreadableError(stem)
        names = [words.name(mark) for mark in marks]
        relation = "behind" if end[1] == "farthest" else "front"
        others = [Claim(relation, (names[right], name)) for i, name in enumerate(names) if i != right]
        yield from _judge(others, views)
        return
    if not any(states_geometry(words.marked(text)) for text in (stem, *options)):
        return
    for number, option in enumerate(options):
        claims = _claims_of_pair(words, stem, option, "common")
        if not claims:
            raise UnreadableError(option)
        verdicts = [claim.truth(views) for claim in claims]
        if (number == right and not all(verdicts)) or (number != right and False not in verdicts):
            yield FALSE


def _judge(claims: Iterable[Claim], views: Sequence[Facts]) -> Iterator[str]:
    if not all(claim.truth(views) for claim in claims):
        yield FALSE


def _claims_of_pair(words: Words, question: str, answer: str, style: str) -> list[Claim]:
    """Everything that a question and its answer claim together.

    Raises:
        UnreadableError: a part cannot be read.
    """
    *before, asked = sentences_of(words.marked(question)) or [""]
    view = re.match(r"in (?:image|view|picture|photo) (\d+),? ", asked)
    if view and not re.search(r"@\d+:", asked):
        scope = int(view[1]) - 1
        asked = re.sub(r"(@\d+)", rf"\1:{scope}", asked[view.end() :])
        answer = re.sub(r"(@\d+)(?![\d:])", rf"\1:{scope}", words.marked(answer))
    reply = words.marked(answer)
    if before and re.fullmatch(r"(?:am i |is (?:that|this|it) |are they )?(?:right|true|correct|so)", asked):
        asked = f"{before.pop()}, right"
    claims = [] if style == "adversarial" else [claim for text in before for claim in words.read(text)]
    found = _asked(words, asked, reply)
    if found is not None:
        return claims + found
    premises = _premises(words, asked)
    if premises is None:
        raise UnreadableError(asked)
    stated = words.read(reply)
    if style != "adversarial":
        return claims + premises + stated
    # A false premise is what an adversarial question is for. Then the answer has to correct it.
    taken = premises + [claim for text in before for claim in words.read(text)]
    if any(not any(set(claim.names) == set(premise.names) for claim in stated) for premise in taken):
        raise UnreadableError(reply)
    return stated


def _asked(words: Words, asked: str, reply: str) -> list[Claim] | None:
    """The claims of a question about geometry together with its answer; None if it is none."""
    yes = re.match(r"(yes|no)\b,? ?", reply) or re.search(r"answer: (yes|no)\b", reply)
    tag = re.fullmatch(
        r"(.+?),? (?:isn't it|is not it|is it not|right|correct|is that right|is that correct|true)", asked
    ) or re.fullmatch(r"is it (?:true|right|correct) that (.+)", asked)
    if yes and tag:
        asked = tag[1]
    if yes and (claims := _yes_no(words, asked)):
        last = re.search(r"answer: (yes|no)\b", reply)
        if last and last[1] != yes[1]:
            raise UnreadableError(reply)
        rest = re.sub(r"^(?:yes|no)\b,? ?|answer: (?:yes|no)\b", "", reply)
        if yes[1] == "no" and len(claims) > 1:
            raise UnreadableError(asked)
        own = claims if yes[1] == "yes" else [claims[0].denied()]
        it = re.findall(r"@\d+(?::\d+)?", asked)
        return own + words.read(rest, subject=it[0] if it else None, clear=len(set(it)) < 2)
    things = re.findall(r"@\d+(?::\d+)?", reply)
    if found := re.fullmatch(
        r"(?:which|what)(?: of these objects| of the objects| of these| of them| object| thing| item| one)*"
        r"(?: is| are| lies| stands| sits| appears| looks)? (?P<what>.+)",
        asked,
    ):
        what = found["what"]
        if things and states_geometry(what):
            return _about(words, what, things[0], reply) if len(things) == 1 else _full_answer(words, what, reply)
    if found := re.fullmatch(
        r"where is (@\d+(?::\d+)?)(?: located| placed)?(?: in the (?:image|scene|picture|photo))?", asked
    ):
        return words.read(reply, subject=found[1]) or None
    if found := re.fullmatch(
        r"where is (@\d+(?::\d+)?)(?: located| placed)?,? (?:as )?(?:relative to|compared (?:to|with)|seen from|from|"
        r"in relation to|with respect to) (@\d+(?::\d+)?)",
        asked,
    ):
        return _fragments(words, found[1], found[2], reply)
    if re.match(r"(?:how far|what is the (?:distance|depth)|how deep|at what distance)", asked):
        return _measured(words, asked, reply)
    if found := re.fullmatch(r"how many (.+?)(?: (?:are|is|can|do|does)\b.*)?", asked):
        number = re.match(rf"(?:there (?:is|are) )?(\d+|{'|'.join(NUMBERS)})\b", reply)
        if number and not states_geometry(re.sub(r"\bmany\b", "", found[1])):
            return [count_claim(number[1], found[1])]
        raise UnreadableError(asked)
    return None


def _yes_no(words: Words, asked: str) -> list[Claim] | None:
    """The claims that "yes" makes; None if the question is not such a question about geometry or named things."""
    thing = r"@\d+(?::\d+)?"
    if found := re.fullmatch(rf"(?:is|are) there (?:any )?({thing})(?: (?:visible|present))?(?: in .*)?", asked):
        return [Claim("exists", (words.name(found[1]),))]
    if found := re.fullmatch(
        rf"(?:is|are|does|do) ({thing}) (?:(?:look|appear|seem|lie|stand|sit) )?(?:to be )?(.+)", asked
    ):
        if not states_geometry(found[2]):
            return None
        return words.read(f"{found[1]} is {found[2]}")
    if re.match(thing, asked) and states_geometry(asked):
        return words.read(asked)
    return None


def _about(words: Words, what: str, thing: str, reply: str) -> list[Claim]:
    """The claims of "which is WHAT?" if the answer is this thing."""
    name = words.name(thing)
    claims = [] if re.fullmatch(r"(?:it is |that is )?@\d+(?::\d+)?(?: is| does)?[. ]*", reply) else words.read(reply)
    if (relation := superlative_of(what)) is not None:
        return [*claims, Claim(relation, (name,))]
    if (found := compared(what)) is not None:  # "closer to the camera, @0 or @1"
        relation, marks = found
        others = [mark for mark in marks if mark != thing]
        if thing not in marks or len(marks) - len(others) != 1:
            raise UnreadableError(what)
        return [*claims, *(Claim(relation, (name, words.name(other))) for other in others)]
    return claims + words.read(f"{thing} is {what}")


def _full_answer(words: Words, what: str, reply: str) -> list[Claim]:
    """The claims of an answer that is a sentence. It must say which object it is, with the asked relation."""
    claims = words.read(reply)
    relation = superlative_of(what)
    found = compared(what)
    asked = relation or (found[0] if found else None)
    if asked is None or not any(claim.relation == asked and not claim.negated for claim in claims):
        raise UnreadableError(reply)
    return claims


def _fragments(words: Words, subject: str, other: str, reply: str) -> list[Claim]:
    """The claims of "where is SUBJECT relative to OTHER?"."""
    parts = [
        part
        for part in re.split(r", and | and |, ", re.sub(r"^(?:it|@\d+(?::\d+)?) is ", "", reply.strip(" .")))
        if part
    ]
    claims: list[Claim] = []
    for part in parts:
        relation = fragment_of(part)
        if relation is None:
            claims += words.read(f"{subject} is {part}") or _unreadable(part)
        else:
            claims.append(Claim(relation, (words.name(subject), words.name(other))))
    return claims or _unreadable(reply)


def _measured(words: Words, asked: str, reply: str) -> list[Claim]:
    """The claim of a question for a distance or a depth."""
    things = re.findall(r"@\d+(?::\d+)?", asked)
    camera = r"(?:the )?(?:camera|viewer|observer|us|you)"
    if len(things) == 2 and re.fullmatch(rf"[a-z ]*{things[0]} (?:from|and|to) {things[1]}", asked):
        relation = "distance"
    elif len(things) == 1 and re.fullmatch(rf"[a-z ]*{things[0]}(?: away)?(?: (?:from|to) {camera})?", asked):
        relation = "depth"
    else:
        raise UnreadableError(asked)
    stated = words.length(reply)
    if stated is None:
        claims = words.read(reply)
        if not any(claim.relation == relation for claim in claims):
            raise UnreadableError(reply)
        return claims
    value, slack = stated
    return [Claim(relation, tuple(words.name(thing) for thing in things), value=value, slack=slack)]


def _premises(words: Words, asked: str) -> list[Claim] | None:
    """What a question that does not ask for geometry takes for granted; None if it cannot be read."""
    if not states_geometry(asked):
        return []
    if re.match(r"(?:is|are|does|do|can|was|were)\b", asked):  # it is not answered by yes or no
        return None
    claims: list[Claim] = []
    text = asked
    for found in words.modifiers(asked):
        claims += words.read(found)
        text = text.replace(found, "@", 1)
    return None if states_geometry(text) else claims


def _unreadable(text: str) -> list[Claim]:
    raise UnreadableError(text)

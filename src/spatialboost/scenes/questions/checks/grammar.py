"""The words of geometry, and the forms of clauses that are understood. Marks stand for the names of objects.

A mark is `@3` for the third description, `@3:1` for it in the image with number 1, `@?` for "it".
"""

from __future__ import annotations

import re

from spatialboost.scenes.questions.checks.claims import slack_of

# --- words

NUMBERS = {
    word: number
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    )
}
UNITS = {
    **dict.fromkeys(["m", "meter", "meters", "metre", "metres"], 1.0),
    **dict.fromkeys(["cm", "centimeter", "centimeters", "centimetre", "centimetres"], 0.01),
    **dict.fromkeys(["mm", "millimeter", "millimeters", "millimetre", "millimetres"], 0.001),
    **dict.fromkeys(["ft", "foot", "feet"], 0.3048),
    **dict.fromkeys(["inch", "inches"], 0.0254),
}
GEOMETRY = re.compile(
    r"\b(?:left|leftmost|leftwards?|right|rightmost|rightwards?|above|below|beneath|under|underneath|over|overhead|atop|"
    r"top|topmost|bottom|bottommost|up|upper|uppermost|upwards?|down|lower|lowest|downwards?|high|higher|highest|low|"
    r"front|behind|back|background|foreground|beyond|past|beside|besides|next|near|nearby|nearer|nearest|"
    r"close|closer|closest|far|farther|farthest|further|furthest|distan(?:t|ce|ces|tly)|between|among|amid|adjacent|"
    r"opposite|across|around|along|alongside|against|inside|outside|within|middle|cent(?:er|re|ered|red|ral)|corners?|"
    r"edges?|sides?|ends?|away|apart|deep|deeper|deepest|depths?|large|larger|largest|big|bigger|biggest|small|smaller|"
    r"smallest|tiny|huge|tall|taller|tallest|short|shorter|shortest|wide|wider|widest|narrow|narrower|narrowest|"
    r"long|longer|longest|sizes?|sized|heights?|widths?|lengths?|north|south|east|west|align(?:ed|s)?|parallel|"
    r"perpendicular|vertical(?:ly)?|horizontal(?:ly)?|diagonal(?:ly)?|surround(?:ed|s|ing)?|occlud(?:ed|es|ing)|"
    r"overlap\w*|block(?:ed|ing)|hidden|hides|touch(?:es|ing)?|facing|positions?|locations?|counts?|number|many|several|"
    r"few|fewer|couple|pair|multiple|both|dozens?|single|only|"
    rf"{'|'.join(word for word in NUMBERS if word != 'one')}|{'|'.join(UNITS)})\b|\d"
)
# Words that change what the clause around them says
TWISTS = re.compile(
    r"\b(?:not|no|n't|never|neither|nor|none|without|false|wrong|incorrect|untrue|if|unless|whether|would|could|might|"
    r"may|perhaps|maybe|possibly|probably|or|either|except|than|almost|nearly|seldom|rarely|hardly|barely|unlike|contrary|"
    r"instead|rather)\b|n't\b"
)

# --- grammar. `@3` stands for the third description, `@3:1` for it in the image with number 1, `@?` for "it".

THING = r"@(?:\d+(?::\d+)?|\?)"
LIST = rf"{THING}(?:(?: ?, and | ?, | and ){THING})*"
CAMERA = r"(?: (?:to|from|of) (?:the |its |their )?(?:camera|viewer|observer|us|viewpoint|you|me))?"
IMAGE = r"(?: (?:in|of|within) (?:the|this) (?:image|scene|picture|photo|photograph|view|frame|room|shot))?"
PLACED = r"(?:(?:also|located|positioned|placed|situated|seen|found|visible|shown|standing|sitting|lying|resting) )*"
VERB = (
    r"(?:(?:is|are|was|were|sits|stands|lies|rests|appears|appear|seems|seem|looks|look|can be|remains|hangs) )"
    rf"(?:(?P<not>not) )?(?:to be )?{PLACED}"
)
BODY = {  # of the relations of two objects
    "left": r"(?:(?:on|to|at) the left(?:[- ]hand)?(?: side)? of|left of)",
    "right": r"(?:(?:on|to|at) the right(?:[- ]hand)?(?: side)? of|right of)",
    "above": r"(?:above|higher(?: up)? than)",
    "below": r"(?:below|beneath|under|underneath|lower(?: down)? than)",
    "front": rf"(?:in front of|(?:closer|nearer){CAMERA} than)",
    "behind": rf"(?:behind|(?:farther|further)(?: away)?{CAMERA} than)",
    "larger": r"(?:(?:larger|bigger)(?: in size)? than)",
    "smaller": r"(?:smaller(?: in size)? than)",
    "taller": r"taller than",
    "shorter": r"shorter than",
    "wider": r"wider than",
    "narrower": r"narrower than",
}
RELATION = "(?:" + "|".join(f"(?P<{name}>{body})" for name, body in BODY.items()) + ")"
BARE = {  # the same, as an answer to "where is it, compared with the other one?"
    **{side: rf"(?:on|to|at) the {side}(?:[- ]hand)?(?: side)?" for side in ("left", "right")},
    "above": r"above",
    "below": r"(?:below|beneath|underneath)",
    "front": r"in front",
    "behind": r"behind",
}
COMPARATIVE = {
    "front": rf"(?:closer|nearer){CAMERA}",
    "behind": rf"(?:farther|further)(?: away)?{CAMERA}",
    "larger": r"(?:larger|bigger)",
    "smaller": r"smaller",
    "taller": r"taller",
    "shorter": r"shorter",
    "wider": r"wider",
    "narrower": r"narrower",
    "above": r"higher(?: up)?",
    "below": r"lower(?: down)?",
    "left": r"(?:(?:farther|further) (?:to the )?left|more to the left)",
    "right": r"(?:(?:farther|further) (?:to the )?right|more to the right)",
}
OBJECT = r"(?: (?:object|thing|item|one|of them|of these|of all|of the objects|named object))?"
EXTREME_WORDS = {
    "leftmost": rf"(?:leftmost{OBJECT}|(?:farthest|furthest) (?:to the )?left)",
    "rightmost": rf"(?:rightmost{OBJECT}|(?:farthest|furthest) (?:to the )?right)",
    "highest": rf"(?:highest|topmost|uppermost){OBJECT}",
    "lowest": rf"(?:lowest|bottommost){OBJECT}",
    "closest": rf"(?:closest|nearest){OBJECT}{CAMERA}",
    "farthest": rf"(?:farthest|furthest|most distant)(?: away)?{OBJECT}(?: away)?{CAMERA}",
    "largest": rf"(?:largest|biggest){OBJECT}",
    "smallest": rf"smallest{OBJECT}",
    "tallest": rf"tallest{OBJECT}",
    "widest": rf"widest{OBJECT}",
}
EXTREME = "(?:the )?(?:" + "|".join(f"(?P<{name}>{body})" for name, body in EXTREME_WORDS.items()) + ")"
PLACE = (
    r"(?:(?:on|in|at|to|toward|towards) the )(?:(?P<vertical>top|upper|bottom|lower)?[ -]?(?P<side>left|right)?"
    r"|(?P<middle>middle|center|centre))(?:[- ]hand)?(?: (?:side|part|half|corner|area))?" + IMAGE
)
NUMBER = rf"(?P<number>\d+(?:\.\d+)?|{'|'.join(NUMBERS)})"
HEDGE = r"(?:(?P<hedge>about|approximately|roughly|around|nearly|almost|some|approx\.?|circa) )?"
LENGTH = rf"{HEDGE}{NUMBER} ?(?P<unit>{'|'.join(UNITS)})"
OPEN = (
    r"(?:(?:yes|no|and|but|so|while|whereas|here|overall|also|then|also|however|in fact|actually|instead|"
    r"comparing their 3d (?:positions|sizes)|in (?:the|this) "
    r"(?:image|scene|picture|photo|photograph|view|room)|we see|we can see|you can see|there is|there are|"
    r"the (?:image|scene|picture|photo|photograph|view|room) (?:shows|has|contains|features|includes)) ?,? ?)*"
)
TAIL = IMAGE


def form(pattern: str) -> re.Pattern[str]:
    """A clause of this pattern, with an opening such as "yes," and the name of the image at its end."""
    return re.compile(rf"{OPEN}{pattern}{TAIL}(?:, (?:as seen|seen) from the (?:camera|viewer))?")


SUBJECT, OTHER = rf"(?P<subject>{LIST})", rf"(?P<other>{LIST})"
RELATES = [
    form(rf"{SUBJECT},? {VERB}{RELATION} {OTHER}"),
    form(rf"{SUBJECT},? (?:that is |which is |located |placed |positioned )?{RELATION} {OTHER}"),
    form(rf"{RELATION} {OTHER} ?,? (?:{VERB}|there is |there are |we see )(?:also )?{SUBJECT}"),
]
ELIDED = [form(rf"(?:which |that |it |it's )?(?:{VERB})?{RELATION} {OTHER}")]
SUPERLATIVE = [
    form(rf"{SUBJECT} {VERB}{EXTREME}"),
    form(rf"{EXTREME} {VERB}{SUBJECT}"),
]
PLACED_AT = [
    form(rf"{SUBJECT},? (?:{VERB})?{PLACE}"),
    form(rf"{PLACE} ?,? (?:{VERB}|there is |there are )?{SUBJECT}"),
]
ELIDED_AT = [form(rf"(?:which |that |it )?(?:{VERB})?{PLACE}")]
DEPTH = [
    form(rf"{SUBJECT} {VERB}{LENGTH}(?: away| deep)?{CAMERA}"),
    form(rf"the (?:depth of|distance to) {SUBJECT} {VERB}{LENGTH}"),
    form(rf"the depth {VERB}{LENGTH}"),
    form(rf"(?:{VERB})?{LENGTH} (?:away|deep){CAMERA}"),
]
DISTANCE = [
    form(rf"{SUBJECT} {VERB}{LENGTH}(?: away)? from {OTHER}"),
    form(rf"the distance (?:between|from) {SUBJECT} {VERB}{LENGTH}"),
    form(rf"the distance (?:between|from) {SUBJECT} (?:and|to) {OTHER} {VERB}{LENGTH}"),
    form(rf"{SUBJECT} {VERB}{LENGTH} apart"),
    form(rf"(?:{VERB})?{LENGTH}(?: away)? from {OTHER}"),
]
COUNT = [form(rf"(?:exactly )?{NUMBER} (?P<noun>[a-z][a-z -]*?)(?: (?:are|is) (?:visible|shown|there))?")]
IN_ORDER = re.compile(
    r"(?:from (?P<way>left to right|right to left|front to back|back to front|near to far|closest to farthest|"
    r"nearest to farthest|farthest to closest|top to bottom|bottom to top))[,:]? ?"
    rf"(?:(?:there (?:is|are)|we see|the (?:image|scene|picture|photo|view|room) (?:shows|has|contains)|are|is) ?:? ?)?"
    rf"(?P<subject>{THING}(?:(?: ?, and | ?, | and |, then | then ){THING})+){TAIL}"
)
WAYS = {"left to right": "left", "right to left": "right", "top to bottom": "above", "bottom to top": "below"}
WAYS |= dict.fromkeys(["front to back", "near to far", "closest to farthest", "nearest to farthest"], "front")
WAYS |= dict.fromkeys(["back to front", "farthest to closest"], "behind")
MISSING = [form(rf"(?:there (?:is|are)|i see|we see) no {SUBJECT}"), form(rf"no,? {SUBJECT}")]
THERE = [form(rf"(?:there (?:is|are)) {SUBJECT}(?: (?:visible|present))?")]


def superlative_of(marked: str) -> str | None:
    """The relation of "closest to the camera", "the leftmost object", ..."""
    found = re.fullmatch(rf"{EXTREME}{TAIL}", marked)
    return found and next(name for name in EXTREME_WORDS if found[name])


def compared(marked: str) -> tuple[str, list[str]] | None:
    """The relation and the marks of "closer to the camera, @0 or @1"."""
    for relation, body in COMPARATIVE.items():
        if found := re.fullmatch(rf"(?:the )?{body}{TAIL}[,:]? ({THING}(?:(?:, | or |, or ){THING})+)", marked):
            return relation, re.findall(THING, found[1])
    return None


def fragment_of(marked: str) -> str | None:
    """The relation of "to the left" or "behind it", as an answer to the question where one thing is from another."""
    for relation, body in BARE.items():
        if re.fullmatch(rf"{body}(?: of)?(?: it)?", marked):
            return relation
    return None


JOINTS = re.compile(r": |, and |, but |, while |, whereas |, which |, |; | and | but | while | whereas | which (?=is)")


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, without their full stops."""
    return [
        part.strip(" .") for part in re.split(r"(?<!\d)[.!?](?=\s|$)|(?<=\d)[.!?](?=\s|$)", text) if part.strip(" .")
    ]


def states_geometry(text: str) -> bool:
    """Whether a marked text has a word of geometry."""
    return GEOMETRY.search(re.sub(THING, "@", text)) is not None


def singular(noun: str) -> str:
    """The singular of an English noun; "" for "objects" and the like, which mean all.

    Example:
        >>> singular("red boxes"), singular("objects"), singular("shelves")
        ('red box', '', 'shelf')
    """
    noun = re.sub(r"^(?:visible|named|different) ", "", noun.strip())
    if noun in ("object", "objects", "things", "thing", "items", "item"):
        return ""
    for ending, single in (("shelves", "shelf"), ("knives", "knife"), ("people", "person"), ("men", "man")):
        if noun.endswith(ending):
            return noun.removesuffix(ending) + single
    if re.search(r"(?:[sxz]|ch|sh)es$", noun):
        return noun[:-2]
    return f"{noun[:-3]}y" if noun.endswith("ies") else noun.removesuffix("s") if not noun.endswith("ss") else noun


def length_of(found: re.Match[str]) -> tuple[float, float]:
    """Metres, and the error that the text allows, from the groups number, unit and hedge."""
    number = str(NUMBERS.get(found["number"], found["number"]))
    unit = UNITS[found["unit"]]
    return float(number) * unit, slack_of(number, unit, hedged=bool(found["hedge"]))


def places_of(found: re.Match[str]) -> list[str]:
    """The relations of a place such as "in the top left corner"; none for a place without such a word."""
    if found["middle"]:
        return ["at middle"]
    heights = {"top": "at top", "upper": "at top", "bottom": "at bottom", "lower": "at bottom"}
    places = [heights[found["vertical"]]] if found["vertical"] else []
    return places + ([f"at {found['side']}"] if found["side"] else [])

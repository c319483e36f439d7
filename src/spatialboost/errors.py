"""The one exception that the library raises on purpose, and how foreign text is made safe to show."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# What looks like a secret: a token of the Hub, a key of a language model's server, the value of an Authorization
# header, a password in a URL.
SECRETS = re.compile(
    r"\b(?:(?:hf|api_org)_[A-Za-z0-9]{10,}|sk-[A-Za-z0-9_-]{16,})"
    r"|(?<=Bearer )[^\s'\"]+|(?<=://)[^\s/@'\"]+:[^\s/@'\"]+(?=@)"
)


def plain(text: str) -> str:
    r"""Text that changes nothing on a terminal: control characters and lone surrogates are written as escapes.

    Example:
        >>> plain("\x1b[31mred")
        '\\x1b[31mred'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def redact(text: str) -> str:
    """Text without tokens and passwords.

    Example:
        >>> redact("https://me:secret@example.org: no access with hf_abcdefghijklmnop")
        'https://***@example.org: no access with ***'
    """
    return SECRETS.sub("***", text)


class SpatialBoostError(ValueError):
    """A mistake that the user can correct: the message says what was found, what was expected and what to do.

    A message may contain foreign text, so it is made safe to show: without tokens, without control characters.

    Example:
        >>> from spatialboost.errors import SpatialBoostError
        >>> issubclass(SpatialBoostError, ValueError)
        True
    """

    everywhere = False

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(plain(str(message))))


def everywhere(error: SpatialBoostError) -> SpatialBoostError:
    """Mark an error that all processes of a distributed run raise together: only the main process prints it.

    Example:
        >>> everywhere(SpatialBoostError("no rows")).everywhere
        True
    """
    error.everywhere = True
    return error


class StoppedError(RuntimeError):
    """Work that cannot go on now, through no fault of an item: a server is down, a budget is spent, a disk is full.

    It is no `SpatialBoostError`, so that it stops a build instead of being counted as one more bad item. What is done
    is kept, and the same command continues.

    Example:
        >>> issubclass(StoppedError, ValueError)
        False
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(redact(plain(str(message))))


def unknown(what: str, name: object, known: Iterable[str]) -> SpatialBoostError:
    """The error for an unknown name: it gives the name, all known names, and the known name that is most similar.

    Example:
        >>> print(unknown("probe", "dept", ["depth", "knn"]))
        unknown probe 'dept'; known are depth, knn. Did you mean 'depth'?
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return SpatialBoostError(f"unknown {what} {name!r}; known are {', '.join(names)}{hint}")

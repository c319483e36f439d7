"""The teachers that a configuration can name."""

from __future__ import annotations

from importlib import import_module

from spatialboost.errors import unknown
from spatialboost.teachers.protocol import Teacher

# Name in `teacher: {kind: ...}` -> "module:class". A module is imported only when a configuration names it.
TEACHERS: dict[str, str] = {
    "language": "spatialboost.teachers.language.teacher:LanguageTeacher",
    "pixel": "spatialboost.teachers.pixel.teacher:PixelTeacher",
    "correspondence": "spatialboost.teachers.correspondence.teacher:CorrespondenceTeacher",
    "language-correspondence": "spatialboost.teachers.correspondence.language.teacher:LanguageCorrespondenceTeacher",
    "field": "spatialboost.teachers.field.teacher:FieldTeacher",
}


def teacher_class(kind: str) -> type[Teacher]:
    """The class of a teacher.

    Example:
        >>> teacher_class("language").__name__
        'LanguageTeacher'

    Raises:
        SpatialBoostError: No teacher has this name; the message suggests the most similar one.
    """
    if not isinstance(kind, str) or kind not in TEACHERS:
        raise unknown("teacher", kind, TEACHERS)
    module, _, name = TEACHERS[kind].partition(":")
    return getattr(import_module(module), name)

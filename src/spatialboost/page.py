"""HTML pages from templates: escaped, and with one style for all pages of the library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def fill_template(
    package: str, template: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None
) -> str:
    """A page as HTML; every value is escaped.

    Example:
        >>> page = fill_template("spatialboost.probes", "report.html.j2", {"title": "a < b"})
        >>> "<title>a &lt; b</title>" in page
        True

    Args:
        package: the package whose folder ``templates`` has the template. ``style.css.j2``, which templates include, is
            in the folder of this library.
        template: name of the template.
        values: what the template shows.
        filters: functions that the template uses as filters, by name.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader(package), PackageLoader("spatialboost")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= dict(filters or {})
    return environment.get_template(template).render(**values)

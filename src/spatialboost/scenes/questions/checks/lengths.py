"""Lengths in answers: their form and their value."""

from __future__ import annotations

import re
from collections.abc import Iterator

LENGTH = re.compile(r"(\d+\.\d{3}) meters|(\d+\.\d) centimeters")
ROUNDING = 1e-6  # meta keeps six decimals


def check_length(text: str | None, metres: float) -> Iterator[str]:
    """Check the unit, the number of decimals and the value: metres with three, centimetres with one if below 0.5 m."""
    parsed = LENGTH.fullmatch(text or "")
    if not parsed:
        yield "the answer states no length in the expected form"
        return
    stated = float(parsed[1]) if parsed[1] else float(parsed[2]) / 100
    if abs(stated - metres) > 0.0005 + 2 * ROUNDING:
        yield f"the answer says {stated} m, the ground truth is {metres:.6f} m"
    if (parsed[1] is None) != (stated < 0.5):
        yield f"{text!r}: expected centimeters below half a meter, meters from there on"

"""Spans of time as people type them."""

import re
from typing import Final

from icehouse.errors import InvalidFormat

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})([smhdw])")


def parse_duration(text: str) -> int:
    """Seconds, from a whole number and a unit: ``90m``, ``12h``, ``30d``, ``4w``.

    Raises:
        InvalidFormat: anything else.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidFormat(f"span of time {text!r}: expected a whole number and one of s, m, h, d, w, such as 30d")
    return int(match[1]) * _UNITS[match[2]]


def duration_text(seconds: int) -> str:
    """A span of time for people, in the largest unit that divides it: ``30d``; what `parse_duration` reads."""
    unit, factor = max(((unit, factor) for unit, factor in _UNITS.items() if seconds % factor == 0), key=lambda u: u[1])
    return f"{seconds // factor}{unit}"

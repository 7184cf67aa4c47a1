"""Sizes as people type them."""

import re
from typing import Final

from icehouse.errors import InvalidFormat

_UNITS: Final = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE: Final = re.compile(r"([1-9][0-9]{0,17}) ?([A-Za-z]{0,3})")


def parse_size(text: str) -> int:
    """Bytes, from a whole number and a unit: ``100GiB``, ``20GB``, ``500 MiB``, or a number alone.

    Raises:
        InvalidFormat: anything else.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        raise InvalidFormat(
            f"size {text!r}: expected a whole number and one of KiB, MiB, GiB, TiB, kB, MB, GB, TB, such as 100GiB"
        )
    return int(match[1]) * _UNITS[match[2]]

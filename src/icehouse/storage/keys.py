"""Which keys blobs may have, the same for every backend."""

from __future__ import annotations

import re
from typing import Final

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt

UNFINISHED: Final = "unfinished"
"""First segment of the keys of what writers left. No blob can be stored below it."""

MAX_SEGMENT_LENGTH: Final = 255  # A file name on the usual file systems.
MAX_KEY_LENGTH: Final = 1024  # An object's key in S3.

_SEGMENT: Final = rf"(?!\.\.?(?:/|\Z))[a-z0-9._-]{{1,{MAX_SEGMENT_LENGTH}}}"
_KEY: Final = re.compile(f"{_SEGMENT}(?:/{_SEGMENT})+")
_ONE_SEGMENT: Final = re.compile(_SEGMENT)


def check_key(key: str) -> None:
    """Let a well-formed key pass, also one below `UNFINISHED`.

    Two segments or more, so that files beside the topmost folders, such as a database, can be neither read nor deleted.

    Raises:
        InvalidFormat: one segment only, an empty one, ``.`` or ``..``, a letter outside ``a-z0-9._-``, or too long.
    """
    if len(key) > MAX_KEY_LENGTH or _KEY.fullmatch(key) is None:
        raise InvalidFormat(
            f"blob key {excerpt(key)}: expected two or more segments of a-z 0-9 . _ - joined by '/', none of them '.' "
            f"or '..', each at most {MAX_SEGMENT_LENGTH} long and all together at most {MAX_KEY_LENGTH}"
        )


def check_new_key(key: str) -> None:
    """Let a key pass that a blob may be stored under.

    Raises:
        InvalidFormat: as `check_key`, or the key is below `UNFINISHED`.
    """
    check_key(key)
    if is_unfinished_key(key):
        raise InvalidFormat(f"blob key {excerpt(key)}: keys below '{UNFINISHED}/' name what writers left")


def is_unfinished_key(key: str) -> bool:
    """Whether *key* names what a writer left."""
    return key.startswith(f"{UNFINISHED}/")


def is_segment(name: str) -> bool:
    """Whether *name* may stand in a key."""
    return _ONE_SEGMENT.fullmatch(name) is not None

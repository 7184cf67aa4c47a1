"""Finding a few bytes among many: NARs are searched whole, and Python's own search would take longer than hashing."""

from typing import TYPE_CHECKING, cast

import stringzilla  # pyright: ignore[reportMissingTypeStubs] - it has none; the one function that is used has its type here

if TYPE_CHECKING:
    from collections.abc import Callable

find_bytes = cast("Callable[[bytes | bytearray | memoryview, bytes, int], int]", stringzilla.find)  # pyright: ignore[reportUnknownMemberType]
"""Where *needle* first stands in *data* at or after *start*; -1 if nowhere."""

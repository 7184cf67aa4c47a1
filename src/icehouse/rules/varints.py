"""Unsigned integers in as few bytes as they need, as all our binary formats write them.

LEB128: seven bits a byte, the lowest first; the high bit says that more follow. At most nine bytes (63 bits), and the
shortest form only, so that a value has one encoding.
"""

from collections.abc import Iterable, Sequence

from icehouse.errors import InvalidFormat

_MAX_SHIFT = 63


def append_varint(out: bytearray, value: int) -> None:
    """Append *value*, which is not negative and below 2**63."""
    while value > 0x7F:  # noqa: PLR2004 - seven bits
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def append_ascending(out: bytearray, values: Iterable[int]) -> None:
    """Append ascending *values* as the first one and then each one's distance from the one before."""
    previous = 0
    for value in values:
        append_varint(out, value - previous)
        previous = value


class VarintReader:
    """Reads a format from front to back. Every read checks that the bytes are there."""

    __slots__ = ("_data", "_what", "offset")

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        """Read *data*; *what* names the format in errors."""
        self._data = bytes(data)
        self._what = what
        self.offset = 0

    @property
    def remaining(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self.offset

    def fail(self, message: str) -> InvalidFormat:
        """An error that names the format and the place."""
        return InvalidFormat(f"{self._what}, byte {self.offset}: {message}")

    def varint(self, limit: int) -> int:
        """The next integer.

        Raises:
            InvalidFormat: it is cut off, not in its shortest form, or above *limit*.
        """
        data, offset = self._data, self.offset
        value = shift = 0
        while True:
            if offset >= len(data):
                raise self.fail("an integer is cut off")
            byte = data[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 - the bit that says "more"
                break
            shift += 7
            if shift >= _MAX_SHIFT:
                raise self.fail("an integer has over 63 bits")
        if byte == 0 and shift:
            raise self.fail("an integer is not in its shortest form")
        if value > limit:
            raise self.fail(f"{value} is over the limit of {limit}")
        self.offset = offset
        return value

    def ascending(self, count: int, step: int, limit: int) -> tuple[int, ...]:
        """*count* integers, each at least *step* above the one before, the last at most *limit*."""
        values: list[int] = []
        value = 0
        for index in range(count):
            distance = self.varint(limit)
            if index and distance < step:
                raise self.fail(f"{distance} is less than {step} above the value before")
            value += distance
            values.append(value)
        if value > limit:
            raise self.fail(f"{value} is over the limit of {limit}")
        return tuple(values)

    def take(self, size: int) -> bytes:
        """The next *size* bytes."""
        if size > self.remaining:
            raise self.fail(f"{size} bytes were expected, {self.remaining} are left")
        start = self.offset
        self.offset += size
        return self._data[start : self.offset]

    def finish(self) -> None:
        """Check that nothing is left."""
        if self.remaining:
            raise self.fail(f"{self.remaining} bytes too many")


def encode_varints(values: Sequence[int]) -> bytes:
    """All *values*, one after another."""
    out = bytearray()
    for value in values:
        append_varint(out, value)
    return bytes(out)

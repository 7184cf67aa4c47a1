"""Files that decode to much more than they have, or that announce much, and what decoding one costs.

``python -m tests.fuzz.bombs COMPRESSION`` decodes its standard input and prints the measurement as JSON.
"""

from __future__ import annotations

import json
import lzma
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backports.zstd import CompressionParameter, compress

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.nix.compression import Compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.recompress import make_compressor
from tests.nix.compressed import MAKERS

MAX_BYTES: Final = 1024**3
_MEMBER_BYTES: Final = 32 * 1024**2
_MEMBERS: Final = 8
_WIDE_BYTES: Final = 160 * 1024**2
_FEED_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """What decoding took. *outcome* is ``decoded``, or the name of the error."""

    outcome: str
    decoded_bytes: int
    peak_bytes: int
    """How much more memory the process had at its peak than before."""


def _members(compression: Compression) -> bytes:
    return MAKERS[compression](bytes(_MEMBER_BYTES)) * _MEMBERS


def _brotli() -> bytes:
    return MAKERS[Compression.BR](bytes(_MEMBER_BYTES * _MEMBERS))


def _zstd_of_the_widest_window() -> bytes:
    options: dict[int, int] = {CompressionParameter.window_log: 27, CompressionParameter.compression_level: 1}
    return compress(bytes(_MEMBER_BYTES * _MEMBERS), options=options)


def _zstd_that_announces_much() -> bytes:
    """One segment of 2**62 bytes: whoever believes it reserves them all."""
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + b"\x01\x00\x00"


def _zstd_that_skips_much() -> bytes:
    return struct.pack("<II", 0x184D2A50, 2**32 - 1) + bytes(1024**2)


def _xz_of_a_wide_dictionary() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 96 * 1024**2}]
    return lzma.compress(bytes(_WIDE_BYTES), filters=filters)


def _lzip_of_the_widest_dictionary() -> bytes:
    encoder = make_compressor(Compression.LZIP)
    member = bytearray(encoder.compress(bytes(_WIDE_BYTES)) + encoder.flush())
    member[5] = 27
    return bytes(member)


def _gzip_of_a_long_name() -> bytes:
    return b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 32 * 1024**2


BOMBS: Final[dict[str, tuple[Compression, Callable[[], bytes]]]] = {
    **{
        f"{compression.value}: many zeros": (compression, lambda compression=compression: _members(compression))
        for compression in Compression
        if compression not in {Compression.NONE, Compression.BR}
    },
    **{
        f"{compression.value}: many members": (compression, lambda compression=compression: _empty_members(compression))
        for compression in Compression
        if compression not in {Compression.NONE, Compression.BR}
    },
    "br: many zeros": (Compression.BR, _brotli),
    "zstd: the widest window": (Compression.ZSTD, _zstd_of_the_widest_window),
    "zstd: announces 2**62 bytes": (Compression.ZSTD, _zstd_that_announces_much),
    "zstd: skips 4 GiB": (Compression.ZSTD, _zstd_that_skips_much),
    "xz: a dictionary of 96 MiB": (Compression.XZ, _xz_of_a_wide_dictionary),
    "lzip: a dictionary of 128 MiB": (Compression.LZIP, _lzip_of_the_widest_dictionary),
    "gzip: a name of 32 MiB": (Compression.GZIP, _gzip_of_a_long_name),
}


WIDE: Final = frozenset(name for name in BOMBS if "window" in name or "dictionary" in name)
"""Those that make a decoder remember as much of its output as it may."""


def _empty_members(compression: Compression) -> bytes:
    return MAKERS[compression](b"") * 10_000


def measure(name: str) -> Cost:
    """Decode a bomb in a process of its own."""
    compression, make = BOMBS[name]
    command = [sys.executable, "-m", "tests.fuzz.bombs", compression.value]
    return Cost(**json.loads(subprocess.run(command, input=make(), check=True, capture_output=True).stdout))


def _decode(compression: Compression, data: bytes) -> Cost:
    before = _read_peak_kib()
    decompressor = Decompressor(compression, max_bytes=MAX_BYTES)
    decoded_bytes = 0
    outcome = "decoded"
    try:
        for start in range(0, len(data), _FEED_BYTES):
            for piece in decompressor.feed(data[start : start + _FEED_BYTES]):
                decoded_bytes += len(piece)
        decompressor.finish()
    except (InvalidFormat, TooLarge) as exc:
        outcome = type(exc).__name__
    return Cost(outcome, decoded_bytes, (_read_peak_kib() - before) * 1024)


def _read_peak_kib() -> int:
    """Of this process since it began; what `resource` tells begins with the process that started it."""
    match = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


if __name__ == "__main__":
    cost = _decode(Compression(sys.argv[1]), sys.stdin.buffer.read())
    print(json.dumps({name: getattr(cost, name) for name in cost.__slots__}))  # noqa: T201  its result

"""Bytes to try our formats on: seeded noise, store hashes, and chunks that are hard to compress patchably."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from icehouse.nix import nix32

STORE_PREFIX: Final = b"/nix/store/"
_LETTERS: Final = nix32.ALPHABET.encode()
_LETTER_OF_BYTE: Final = bytes(_LETTERS[value & 31] for value in range(256))


def noise(seed: str, size: int) -> bytes:
    """The generator of `docs/design/formats.md`: BLAKE3 of *seed*, extended to *size* bytes."""
    return blake3(seed.encode()).digest(length=size)


def store_hashes(seed: str, count: int) -> list[bytes]:
    """*count* store hashes: of each byte of noise the lowest five bits choose a letter."""
    letters = noise(f"{seed}: store hashes", 32 * count).translate(_LETTER_OF_BYTE)
    return [letters[start : start + 32] for start in range(0, len(letters), 32)]


@dataclass(frozen=True, slots=True)
class Sample:
    """A zeroed chunk."""

    raw: bytes
    positions: tuple[int, ...]


def join(parts: Sequence[bytes | None]) -> Sample:
    """The chunk made of *parts*; None stands for a store hash."""
    raw = bytearray()
    positions: list[int] = []
    for part in parts:
        if part is None:
            positions.append(len(raw))
            raw += bytes(32)
        else:
            raw += part
    return Sample(bytes(raw), tuple(positions))


def _zeros(chooser: random.Random, count: int) -> list[bytes | None]:
    parts: list[bytes | None] = [bytes(chooser.randrange(3000))]
    for _ in range(count):
        parts += [None, bytes(chooser.choice([0, 1, 3, 32, 500]))]
    return parts


def _short_period(chooser: random.Random, count: int) -> list[bytes | None]:
    period = chooser.randbytes(chooser.randint(1, 12))
    parts: list[bytes | None] = []
    for _ in range(count):
        parts += [period * chooser.randrange(40), None]
    return [*parts, period * chooser.randrange(2000)]


def _scripts(chooser: random.Random, count: int) -> list[bytes | None]:
    names = [b"bash-5.2/bin/bash", b"coreutils-9.1/bin", b"gnused-4.9/bin", b"lib", b"a"]
    parts: list[bytes | None] = []
    while count > 0:
        parts.append(b"#! ")
        for name in names[: min(count, len(names))]:
            parts += [STORE_PREFIX, None, b"-" + name + b":"]
        parts.append(b"\nset -eu\nexport PATH\nexec @out@/bin/.wrapped -a 0 " + chooser.randbytes(2) + b"\n")
        count -= len(names)
    return parts


def _path_list(chooser: random.Random, count: int) -> list[bytes | None]:
    parts: list[bytes | None] = []
    for index in range(count):
        parts += [STORE_PREFIX, None, f"-package-{chooser.randrange(50)}.{index}\n{index * 37}\n\n0\n".encode()]
    return parts


def _back_to_back(_chooser: random.Random, count: int) -> list[bytes | None]:
    parts: list[bytes | None] = []
    for _ in range(count):
        parts += [STORE_PREFIX, None, b"-"]
    return parts


def _touching(_chooser: random.Random, count: int) -> list[bytes | None]:
    return [None] * count


def _noise(chooser: random.Random, count: int) -> list[bytes | None]:
    parts: list[bytes | None] = [chooser.randbytes(chooser.randrange(4000))]
    for _ in range(count):
        parts += [None, chooser.randbytes(chooser.randrange(300))]
    return parts


def _continuations(chooser: random.Random, count: int) -> list[bytes | None]:
    """What stands around each store hash comes again with some byte: one time in 256 a match runs into the hash."""
    before, after = chooser.randbytes(8), chooser.randbytes(8)
    parts: list[bytes | None] = []
    for index in range(count):
        value, gap = bytes([index & 255]), chooser.randbytes(30)
        parts += [gap + before, None, after + gap[::-1] + before + value + gap + value + after]
    return parts


KINDS: Final[dict[str, Callable[[random.Random, int], list[bytes | None]]]] = {
    "zeros": _zeros,
    "short period": _short_period,
    "scripts": _scripts,
    "path list": _path_list,
    "back to back": _back_to_back,
    "touching": _touching,
    "noise": _noise,
    "continuations": _continuations,
}


def make_sample(kind: str, seed: int, count: int) -> Sample:
    """A chunk of that *kind* with *count* store hashes; never empty."""
    sample = join(KINDS[kind](random.Random(seed), count))
    return sample if sample.raw else Sample(b"\0", ())

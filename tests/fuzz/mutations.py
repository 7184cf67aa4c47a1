"""Changes of inputs that mostly stay close to what a reader accepts, so that they get far into it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Final

MAX_INPUT_BYTES: Final = 16 * 1024

_EDGES: Final = (0, 1, 7, 8, 127, 128, 255, 256, 4095, 4096, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
_TOKENS: Final = (
    *(struct.pack("<Q", value) for value in _EDGES),
    *(struct.pack("<I", value & 0xFFFF_FFFF) for value in _EDGES),
    b"\xff" * 9 + b"\x01",  # longer than our integers may be
    b"\x80\x00",  # not in its shortest form
    b"\x28\xb5\x2f\xfd",
    b"\x50\x2a\x4d\x18\x00\x00\x00\x00",
    b"\xfd7zXZ\x00",
    b"\x1f\x8b\x08",
    b"BZh9",
    b"LZIP\x01",
    b"\x04\x22\x4d\x18",
    b"nix-archive-1",
    *(struct.pack("<Q", len(word)) + word + bytes(-len(word) % 8) for word in (b"(", b")", b"entry", b"node", b"name")),
    b"..",
    b"/",
    b"\0",
    b"\n",
    b"\r\n",
    b": ",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    "٣".encode(),  # a digit, but for Nix
    b"StorePath: /nix/store/",
    b"References: ",
    b"Sig: ",
    b"CA: fixed:r:sha256:",
    b"9" * 30,
    b"-1",
    b'{"',
    b"[" * 600,
)

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def mutate(chooser: random.Random, inputs: Sequence[bytes]) -> bytes:
    """One of *inputs*, changed one to five times."""
    data = bytearray(chooser.choice(inputs))
    for _ in range(chooser.randint(1, 5)):
        chooser.choice(_MUTATIONS)(chooser, data, inputs)
    return bytes(data[:MAX_INPUT_BYTES])


def _place(chooser: random.Random, data: bytearray) -> int:
    return chooser.randint(0, len(data))


def _stretch(chooser: random.Random, data: bytearray) -> slice:
    start = _place(chooser, data)
    return slice(start, start + min(chooser.choice((1, 2, 8, 32, 1000)), chooser.randint(1, 2000)))


def _flip_bit(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    if data:
        data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)


def _set_byte(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    if data:
        data[chooser.randrange(len(data))] = chooser.randrange(256)


def _truncate(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    del data[_place(chooser, data) :]


def _delete(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    del data[_stretch(chooser, data)]


def _duplicate(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    part = data[_stretch(chooser, data)]
    place = _place(chooser, data)
    data[place:place] = part * chooser.choice((1, 1, 2, 50))
    del data[MAX_INPUT_BYTES:]


def _move(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    stretch = _stretch(chooser, data)
    part = data[stretch]
    del data[stretch]
    place = _place(chooser, data)
    data[place:place] = part


def _splice(chooser: random.Random, data: bytearray, inputs: Sequence[bytes]) -> None:
    other = chooser.choice(inputs)
    data[_place(chooser, data) :] = other[chooser.randint(0, len(other)) :]


def _append(chooser: random.Random, data: bytearray, inputs: Sequence[bytes]) -> None:
    data += chooser.choice(inputs)


def _add_to_u64(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    """Of a NAR: its lengths stand at multiples of 8."""
    if len(data) >= 8:
        place = chooser.randrange(len(data) // 8) * 8
        value: int = struct.unpack_from("<Q", data, place)[0]
        changed = (
            value + chooser.choice((-8, -1, 1, 8, 2**32, 2**63)) if chooser.random() < 0.5 else chooser.choice(_EDGES)
        )
        struct.pack_into("<Q", data, place, changed % 2**64)


def _add_to_byte(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    """Of a format of varints: most are one byte."""
    if data:
        place = chooser.randrange(len(data))
        data[place] = (data[place] + chooser.choice((-1, 1, 128))) % 256


def _insert_token(chooser: random.Random, data: bytearray, _inputs: Sequence[bytes]) -> None:
    place = _place(chooser, data)
    token = chooser.choice(_TOKENS)
    data[place : place + chooser.choice((0, len(token)))] = token


_MUTATIONS: Final[tuple[Mutation, ...]] = (
    _flip_bit,
    _set_byte,
    _truncate,
    _delete,
    _duplicate,
    _move,
    _splice,
    _append,
    _add_to_u64,
    _add_to_byte,
    _insert_token,
)

"""The store paths of the state machine, and their clients: few, small, and with as much in common as real ones."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from icehouse.api.publish import PathBody
from icehouse.nix.hashes import NixHash
from icehouse.nix.narinfo import NarInfo
from icehouse.nix.signing import PathInfo, SecretKey, fingerprint
from icehouse.nix.store_paths import NIX_STORE, HashPart, StorePath
from icehouse.rules.chunks import CutChunk
from tests.services.publishing import cut, nar_of, path_body

UPSTREAM_KEY: Final = SecretKey.generate("upstream-1", bytes(range(1, 33)))
BUILDS: Final = (0, 1)
"""Each path was built twice; the second time some of it came out otherwise."""


@dataclass(frozen=True, slots=True)
class Thing:
    """A store path."""

    base_name: str
    references: tuple[str, ...]
    seeds: tuple[int, int]
    """Of the bytes of each build. What has the same ones, and references of the same length, shares its chunks."""
    size: int = 1_500
    common: int = 0
    """Bytes at the beginning that both builds have."""

    @property
    def hash_part(self) -> HashPart:
        return StorePath.parse(self.base_name).hash_part


def _name(letter: str, name: str) -> str:
    return f"{letter * 32}-{name}"


EXTERNAL: Final = _name("x", "libc")
"""Only the upstream has it."""

_LIB_A, _LIB_B, _MID_C, _MID_D, _APP, _TOOL, _BIG_H, _BIG_I, _FAR = (
    _name(letter, name)
    for letter, name in zip("abcdfghij", ("lib", "lib", "mid", "mid", "app", "tool", "big", "big", "far"), strict=True)
)

THINGS: Final = {
    thing.base_name: thing
    for thing in (
        Thing(_LIB_A, (), (1, 2)),
        Thing(_LIB_B, (), (1, 3)),  # the first build is the same NAR as that of the other library
        Thing(_MID_C, (_LIB_A,), (4, 14)),
        Thing(_MID_D, (_LIB_B,), (4, 14)),  # the same chunk with another store hash in it
        Thing(_APP, (_APP, _MID_C, _MID_D), (5, 15)),
        Thing(_TOOL, (_APP,), (6, 16)),
        Thing(_BIG_H, (_LIB_A,), (7, 17), size=1_150_000, common=600_000),  # several chunks
        Thing(_BIG_I, (_BIG_H, _LIB_B), (7, 18), size=1_150_000, common=900_000),
        Thing(_FAR, (EXTERNAL, _LIB_A), (9, 19)),
    )
}
NAMES: Final = tuple(THINGS)
"""What a path refers to comes before it."""


@cache
def nar(base_name: str, build: int) -> bytes:
    """The NAR of a build."""
    thing = THINGS[base_name]
    first = random.Random(thing.seeds[0]).randbytes(thing.size)
    own = random.Random(thing.seeds[build]).randbytes(thing.size)
    text = b"".join(b" /nix/store/%s/x" % reference.encode() for reference in thing.references)
    return nar_of(first[: thing.common] + own[thing.common :] + text + b" text" * 200)


@cache
def chunks(base_name: str, build: int) -> list[CutChunk]:
    """Its chunks."""
    return cut(nar(base_name, build))


def body(base_name: str, build: int) -> PathBody:
    """The path as a push names it."""
    return path_body(base_name, nar(base_name, build), THINGS[base_name].references)


def evidence() -> PathBody:
    """The external path, with the upstream's signature."""
    unsigned = path_body(EXTERNAL, b"the bytes are elsewhere")
    digest = NixHash.parse(unsigned.nar_hash).digest
    info = PathInfo(StorePath.parse(EXTERNAL), digest, unsigned.nar_size, ())
    signature = UPSTREAM_KEY.sign(fingerprint(info, NIX_STORE)).render()
    return PathBody(
        store_path=EXTERNAL,
        nar_hash=unsigned.nar_hash,
        nar_size=unsigned.nar_size,
        references=[],
        signatures=[signature],
    )


def closure(base_names: Sequence[str]) -> list[str]:
    """Those paths with all that they reach, references first; without the external one."""
    found: set[str] = set()
    waiting = list(base_names)
    while waiting:
        base_name = waiting.pop()
        if base_name in THINGS and base_name not in found:
            found.add(base_name)
            waiting += THINGS[base_name].references
    return [base_name for base_name in NAMES if base_name in found]


@cache
def known_nars() -> dict[bytes, tuple[str, int]]:
    """By SHA-256: a path and the build that have it."""
    return {hashlib.sha256(nar(name, build)).digest(): (name, build) for name in NAMES for build in BUILDS}


class Elsewhere:
    """Another cache, that has one build of each path."""

    def __init__(self, build: int) -> None:
        self.url = f"https://build-{build}"
        self._build = build

    async def find(self, hash_part: HashPart) -> NarInfo | None:
        thing = next(thing for thing in THINGS.values() if thing.hash_part == hash_part)
        data = nar(thing.base_name, self._build)
        path = StorePath.parse(thing.base_name)
        digest = hashlib.sha256(data).digest()
        return NarInfo(path, NIX_STORE, "nar/any.nar", "none", None, None, digest, len(data), ())

    async def read(self, info: NarInfo) -> AsyncGenerator[bytes]:
        yield nar(info.store_path.base_name, self._build)

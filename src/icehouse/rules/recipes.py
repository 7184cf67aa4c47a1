"""Recipes: how a NAR is put together from chunks and store hashes.

The formats page (`docs/design/formats.md`, "Recipes") has the layout, byte by byte.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.rules.chunks import STORE_HASH_BYTES
from icehouse.rules.varints import VarintReader, append_varint, encode_varints

MAX_RECIPE_BYTES: Final = 8 * 1024 * 1024
"""Of one NAR. One with some four million store hashes in it reaches this."""

_VERSION: Final = 1
_MAX_NUMBER: Final = 2**62
_LETTERS: Final = frozenset(b"0123456789abcdfghijklmnpqrsvwxyz")


@dataclass(frozen=True, slots=True)
class Run:
    """`count` chunks with consecutive numbers."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """A NAR in terms of a domain's chunks. Always well formed; whether the chunks exist is for the database to say."""

    runs: tuple[Run, ...]
    hashes: tuple[bytes, ...]
    """The distinct store hashes, 32 letters each, in the order of their first use."""
    patches: "array[int]"
    """For each position of each chunk in turn, the index in `hashes` of what stands there."""

    @property
    def chunk_count(self) -> int:
        """Chunks, counted as often as they are used."""
        return sum(run.count for run in self.runs)


def make_recipe(numbers: Iterable[int], store_hashes: Iterable[bytes]) -> Recipe:
    """The recipe of a NAR whose chunks are *numbers*, with *store_hashes* at their positions, in order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][0] + runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    indices: dict[bytes, int] = {}
    patches = array("L", (indices.setdefault(store_hash, len(indices)) for store_hash in store_hashes))
    return Recipe(tuple(Run(first, count) for first, count in runs), tuple(indices), patches)


def render_recipe(recipe: Recipe) -> bytes:
    """The encoding that `parse_recipe` reads."""
    out = bytearray()
    append_varint(out, _VERSION)
    append_varint(out, len(recipe.runs))
    for run in recipe.runs:
        append_varint(out, run.first)
        append_varint(out, run.count)
    append_varint(out, len(recipe.hashes))
    out += b"".join(recipe.hashes)
    append_varint(out, len(recipe.patches))
    out += encode_varints(recipe.patches)
    return bytes(out)


def parse_recipe(data: bytes, *, max_chunks: int) -> Recipe:
    """The inverse of `render_recipe`.

    Args:
        data: at most `MAX_RECIPE_BYTES`.
        max_chunks: how many chunks, repeated ones counted, a NAR of the declared size can have.

    Raises:
        InvalidFormat: the encoding is broken, a store hash has a letter outside Nix32, an index is out of range,
            or there are more than *max_chunks* chunks (a few bytes could else name terabytes).
        TooLarge: *data* is too long.
    """
    if len(data) > MAX_RECIPE_BYTES:
        raise TooLarge(f"a recipe of {len(data)} bytes; at most {MAX_RECIPE_BYTES} are accepted")
    reader = VarintReader(data, "recipe")
    version = reader.varint(2**31)
    if version != _VERSION:
        raise reader.fail(f"version {version}; this program knows version {_VERSION}")
    runs: list[Run] = []
    chunk_count = 0
    for _ in range(reader.varint(len(data))):
        first, count = reader.varint(_MAX_NUMBER), reader.varint(_MAX_NUMBER)
        chunk_count += count
        if not first or not count or chunk_count > max_chunks:
            raise reader.fail(f"a run of {count} chunks from number {first}; at most {max_chunks} chunks fit this NAR")
        runs.append(Run(first, count))
    hash_bytes = reader.take(reader.varint(len(data)) * STORE_HASH_BYTES)
    if not _LETTERS.issuperset(hash_bytes):
        raise reader.fail("a store hash has a letter outside Nix32")
    hashes = tuple(hash_bytes[at : at + STORE_HASH_BYTES] for at in range(0, len(hash_bytes), STORE_HASH_BYTES))
    patches = array("L", (reader.varint(len(hashes) - 1) for _ in range(_patch_count(reader, hashes))))
    reader.finish()
    if len(set(hashes)) != len(hashes):
        raise InvalidFormat("recipe: a store hash is listed twice")
    return Recipe(tuple(runs), hashes, patches)


def parse_runs(data: bytes) -> tuple[Run, ...]:
    """The runs alone of a recipe that was checked when it was kept.

    Raises:
        InvalidFormat: it is damaged.
    """
    reader = VarintReader(data, "recipe")
    version = reader.varint(2**31)
    if version != _VERSION:
        raise reader.fail(f"version {version}; this program knows version {_VERSION}")
    return tuple(Run(reader.varint(_MAX_NUMBER), reader.varint(_MAX_NUMBER)) for _ in range(reader.varint(len(data))))


def merge_runs(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The same chunks in as few runs as can be: equal for NARs that differ in nothing but store hashes."""
    merged: list[Run] = []
    for run in runs:
        if merged and merged[-1].first + merged[-1].count == run.first:
            merged[-1] = Run(merged[-1].first, merged[-1].count + run.count)
        else:
            merged.append(run)
    return tuple(merged)


def _patch_count(reader: VarintReader, hashes: tuple[bytes, ...]) -> int:
    count = reader.varint(reader.remaining)
    if count and not hashes:
        raise reader.fail(f"{count} patches and no store hash")
    return count

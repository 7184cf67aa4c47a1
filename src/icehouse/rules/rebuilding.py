"""Making the database again: what the journal tells, and how far back to read it."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from icehouse.errors import InvalidFormat
from icehouse.rules.chunks import CHUNK_NAME_BYTES, STORE_HASH_BYTES, max_chunks
from icehouse.rules.journal import JournalEntry, JournalNar
from icehouse.rules.varints import VarintReader

_MARGIN_SECONDS: Final = 24 * 3600
"""How far before the newest row the journal is read: clocks differ. What was purged is in the trash for longer."""

_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class NarParts:
    """A NAR of the journal, taken apart."""

    nar_hash: bytes
    nar_size: int
    chunks: list[bytes]
    """The first bytes of each chunk's identity, in order."""
    hashes: list[bytes]
    patches: "array[int]"

    def filled(self) -> list[bytes]:
        """What stands at each position of each chunk in turn."""
        return [self.hashes[index] for index in self.patches]


@dataclass(slots=True)
class ToldCache:
    """What the journal tells of a cache; its newest object is right."""

    name: str
    domain_id: int
    is_public: bool
    store_dir: str
    created_at: int
    """Of the oldest object."""
    upstreams: set[str] = field(default_factory=set[str])
    key_names: set[str] = field(default_factory=set[str])
    """That something was signed by."""
    told_at: int = 0
    """When its newest object was made."""
    required_keys: tuple[str, ...] = ()
    """Of which it demands a signature."""


def journal_begin(newest_row_at: int | None) -> int:
    """From which time on to read the journal, if the newest path of the database was made at *newest_row_at*.

    What came before is in the database or was removed since, and must not come back.
    """
    return 0 if newest_row_at is None else max(0, newest_row_at - _MARGIN_SECONDS)


def take_apart(nar: JournalNar) -> NarParts:
    """The parts of a NAR, within their limits.

    Raises:
        InvalidFormat: lengths do not fit, or a patch names a store hash that is not there.
    """
    count, rest = divmod(len(nar.chunks), CHUNK_NAME_BYTES)
    if rest or nar.nar_size <= 0 or not 0 < count <= max_chunks(nar.nar_size) or len(nar.nar_hash) != _HASH_BYTES:
        raise InvalidFormat(f"a NAR of {nar.nar_size} bytes with {len(nar.chunks)} bytes of chunk names")
    hash_bytes = nar.hashes.encode()
    if len(hash_bytes) % STORE_HASH_BYTES:
        raise InvalidFormat(f"store hashes of {len(hash_bytes)} bytes, which is no multiple of {STORE_HASH_BYTES}")
    hashes = [hash_bytes[at : at + STORE_HASH_BYTES] for at in range(0, len(hash_bytes), STORE_HASH_BYTES)]
    reader = VarintReader(nar.patches, "patches")
    patches = array("L")
    while reader.remaining:
        patches.append(reader.varint(len(hashes) - 1))
    names = [nar.chunks[at : at + CHUNK_NAME_BYTES] for at in range(0, len(nar.chunks), CHUNK_NAME_BYTES)]
    return NarParts(nar.nar_hash, nar.nar_size, names, hashes, patches)


def note_entry(caches: dict[str, ToldCache], domain_id: int, entry: JournalEntry) -> None:
    """Add what an object of the journal tells of its cache. They come in the order of their times.

    A name that is another domain's in a later object is another cache: the earlier one was deleted.
    """
    told = caches.get(entry.cache)
    if told is None or told.domain_id != domain_id:
        told = ToldCache(entry.cache, domain_id, entry.is_public, entry.store_dir, entry.created_at)
        caches[entry.cache] = told
    told.is_public, told.store_dir = entry.is_public, entry.store_dir
    required = () if entry.required_keys is msgspec.UNSET else tuple(entry.required_keys)
    if required or entry.created_at > told.told_at:  # Which of a second came last is not known; doubt demands.
        told.required_keys = required
    told.told_at = entry.created_at
    told.upstreams.update(external.upstream for external in entry.externals)
    told.key_names.update(text.partition(":")[0] for path in entry.paths for text in path.signatures.split())


def next_key_name(first: str, taken: Iterable[str]) -> str:
    """The name for a new key of a cache whose first would be called *first*, ``….-1``: one that nothing is signed by.

    A client that trusts the old key of that name would else take what the new one signed for forged.
    """
    stem = first.removesuffix("1")
    numbers = [
        int(name.removeprefix(stem)) for name in taken if name.startswith(stem) and name[len(stem) :].isdecimal()
    ]
    return f"{stem}{max(numbers, default=0) + 1}"

"""The journal: what a publish made visible, as one small object beside the packs; and which signatures are demanded.

With the packs it is enough to make the database again. The formats page (`docs/design/formats.md`, "Journal") says
how it may grow.
"""

from typing import Final

import msgspec
from backports.zstd import CompressionParameter, ZstdError, compress, decompress

from icehouse.errors import InvalidFormat

_VERSION: Final = 1
_OPTIONS: Final[dict[int, int]] = {CompressionParameter.compression_level: 9, CompressionParameter.checksum_flag: 1}


class JournalNar(msgspec.Struct, frozen=True, kw_only=True):
    """A NAR and its recipe, in terms that outlive the database. Bytes are base64 in the JSON."""

    nar_hash: bytes
    nar_size: int
    file_hash: bytes
    file_size: int
    chunks: bytes
    """The name of each chunk, `rules.chunks.CHUNK_NAME_BYTES` long, in order. Identities would make the journal half as
    large again; whoever rebuilds a NAR checks its hash."""
    hashes: str
    """The distinct store hashes, 32 letters each."""
    patches: bytes
    """As in a recipe: varints."""


class JournalPath(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A path row. Texts as in the database."""

    store_path: str
    nar_hash: bytes
    references: str
    signatures: str
    deriver: str | None = None
    system: str | None = None
    ca: str | None = None


class JournalExternal(msgspec.Struct, frozen=True, kw_only=True):
    """An external row."""

    store_path: str
    nar_hash: bytes
    nar_size: int
    references: str
    signature: str
    upstream: str


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What one publish made visible; or, without paths, that a cache demands other signatures."""

    version: int = _VERSION
    cache: str
    store_dir: str
    is_public: bool
    created_at: int
    published_by: int | None
    nars: list[JournalNar]
    paths: list[JournalPath]
    externals: list[JournalExternal]
    required_keys: list[str] | msgspec.UnsetType = msgspec.UNSET
    """Of which the cache demanded a signature then; left out: of none."""


class _AnyEntry(msgspec.Struct):
    """What an entry of every version has."""

    version: int


def render_journal_entry(entry: JournalEntry) -> bytes:
    """JSON in one zstd frame with a checksum."""
    return compress(msgspec.json.encode(entry), options=_OPTIONS)


def parse_journal_entry(data: bytes) -> JournalEntry:
    """The inverse of `render_journal_entry`, for objects that this server wrote.

    Raises:
        InvalidFormat: the object is damaged, or of a version that this program does not know.
    """
    try:
        text = decompress(data)
        version = msgspec.json.decode(text, type=_AnyEntry).version
        if version != _VERSION:
            raise InvalidFormat(f"a journal object of version {version}; this program knows version {_VERSION}")
        return msgspec.json.decode(text, type=JournalEntry)
    except (ZstdError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidFormat(f"a journal object is damaged: {exc}") from exc

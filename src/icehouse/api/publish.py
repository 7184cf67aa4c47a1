"""Bodies of native publishing, in the order in which a push uses them (design, section 5)."""

from typing import Literal

import msgspec


class MissingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST …/missing``."""

    hash_parts: list[str]
    """Each the first 32 letters of a base name."""


class MissingAnswer(msgspec.Struct, frozen=True):
    """The hash parts that are not visible in the cache, in the order asked."""

    missing: list[str]


class ChunksMissingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST …/chunks/missing``: identities of 32 bytes, back to back (base64 in JSON)."""

    identities: bytes
    """32 bytes each, back to back (base64 in JSON)."""


class ChunksMissingAnswer(msgspec.Struct, frozen=True):
    """Which of the chunks the domain has."""

    known: bytes
    """One bit a chunk, the lowest bit of the first byte first; 1: known."""
    numbers: list[int]
    """The numbers of the known ones, in the order asked."""


class PackAnswer(msgspec.Struct, frozen=True):
    """Answer of ``PUT …/packs``: the numbers of all its chunks, in the order of its index."""

    numbers: list[int]
    stored_bytes: int
    """Bytes added to the store: the pack object's size, 0 if every chunk was known already."""


class NarBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One NAR to register."""

    nar_hash: str
    """``sha256:`` and 52 letters of Nix32."""
    nar_size: int
    """In bytes, not compressed."""
    recipe: bytes
    """As in ``docs/design/formats.md`` (base64 in JSON)."""


class NarsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST …/nars``."""

    nars: list[NarBody]
    """Those to register, in any order."""
    verify: bool = False
    """Prove what is stored already again, instead of trusting the proof made when it came."""


class NarResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one NAR."""

    nar_hash: str
    state: Literal["stored", "pending", "missing-chunks", "refused"]
    file_size: int | None = None
    missing: bytes = b""
    """With `missing-chunks`: the identities to send (again), 32 bytes each; the recipe is then sent again too."""
    reason: str = ""
    """With `refused`: what is wrong with the recipe."""


class NarsAnswer(msgspec.Struct, frozen=True):
    """One result a NAR, in the order sent. Status 202 if any is pending: ask ``GET …/nars/{nar hash}`` (52 letters)."""

    results: list[NarResult]


class PathBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One path to publish, or (without a NAR stored here) one external reference."""

    store_path: str
    """Base name."""
    nar_hash: str
    """``sha256:`` and 52 letters of Nix32."""
    nar_size: int
    """In bytes, not compressed."""
    references: list[str]
    """Base names; may hold the path itself."""
    deriver: str | None = None
    """Base name of the derivation that it was built from; null: not known."""
    system: str | None = None
    """For instance `x86_64-linux`; null: not known."""
    ca: str | None = None
    """For a content-addressed path, its content address as narinfos have it; null: it is none."""
    signatures: list[str] = []
    """`<key name>:<base64>`, as narinfos have them."""


class PathsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST …/paths``: published all together, or not at all."""

    paths: list[PathBody]
    """What they refer to is among them, visible already, or in `externals`."""
    externals: list[PathBody] = []
    """References that an upstream has; `signatures` hold the evidence."""


class RefusedPath(msgspec.Struct, frozen=True):
    """Why one path could not be published."""

    store_path: str
    reason: str


class PathsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was published. With anything in `refused` (status 409) nothing was."""

    published: list[str]
    """Base names that are new."""
    merged: list[str]
    """Base names that were there with the same NAR and references; new valid signatures were added."""
    refused: list[RefusedPath]


class PromoteAnswer(PathsAnswer, frozen=True, kw_only=True):
    """What became of a promotion."""

    left_nars: int = 0
    """NARs that have still to be copied, since the caches are of two domains. Above 0 nothing was published yet: repeat
    the request."""


class PromoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST …/promotions``."""

    source: str
    """The name of the cache that has the path."""
    hash_part: str
    """Of the path."""

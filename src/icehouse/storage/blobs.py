"""The `BlobStore` protocol: immutable bytes under keys."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NewType, Protocol

BlobKey = NewType("BlobKey", str)
"""A relative path of `[a-z0-9._-]` segments joined by `/`, such as `packs/1/4f/4f…e2`."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What a listing says of one blob."""

    key: BlobKey
    size_bytes: int
    modified_at: float
    """Seconds since the epoch."""
    is_unfinished: bool = False
    """True for what a writer left that was neither committed nor aborted. Such a key can only be deleted."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes of a blob in an open file, for whoever can have the kernel copy them. They stay what they are.

    The file is open as long as this is referred to.
    """

    descriptor: int
    offset: int
    size: int
    owner: object = field(repr=False)

    def __len__(self) -> int:
        return self.size


Piece = bytes | bytearray | FilePart
"""Of an answer."""


class BlobWriter(Protocol):
    """A blob in the making. Used by one thread at a time; its methods block and belong in a worker thread."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append *data*.

        Raises:
            OverQuota: the disk is full; what was written is gone.
            Unavailable: the backend failed.
        """
        ...

    def read_back(self, offset: int, size: int) -> bytes:
        """Bytes that were written before, for those who need them again before the commit."""
        ...

    def commit(self, key: BlobKey) -> None:
        """Make the blob durable under *key*, and only then return. A blob that is there already is replaced.

        Keys name bytes, so the old blob has the same ones, or is damaged and healed by this.

        After an error nothing is visible under *key* that was not before.
        """
        ...

    def abort(self) -> None:
        """Drop what was written. After `commit` it does nothing."""
        ...


class BlobStore(Protocol):
    """Immutable blobs under keys. Any number of threads and tasks may use one store.

    A blob that `commit` or `put` returned for survives a power cut. A key names the same bytes for ever, or is absent.
    Methods without `async` block and belong in worker threads, except `read_warm` and `find_warm`.
    """

    def create(self) -> BlobWriter:
        """A writer for a blob whose key is known only when its bytes are."""
        ...

    def put(self, key: BlobKey, data: bytes) -> None:
        """Store a small blob in one go; the same promise as `BlobWriter.commit`."""
        ...

    def size(self, key: BlobKey) -> int:
        """Size in bytes.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    def describe(self, key: BlobKey) -> BlobInfo:
        """What a listing says of the blob.

        Raises:
            NotFound: there is no such blob.
        """
        ...

    def read_into(self, key: BlobKey, offset: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes from *offset* on.

        Raises:
            NotFound: there is no such blob.
            Corrupt: the blob ends before the buffer is full.
            Unavailable: the backend failed.
        """
        ...

    def read_warm(self, key: BlobKey, offset: int, buffer: memoryview) -> bool:
        """Like `read_into`, but only if that needs no waiting; else False, with *buffer* in any state. Never blocks."""
        ...

    def find_warm(self, key: BlobKey, offset: int, size: int) -> FilePart | None:
        """That part of the blob in an open file, if all of it is in memory; `None` if in doubt. Never blocks."""
        ...

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All blobs whose key starts with *prefix*, unfinished ones too, in no order, a page at a time."""
        ...

    def delete(self, key: BlobKey) -> None:
        """Remove a blob, durably. Removing what is absent is no error."""
        ...

    def delete_unchanged(self, info: BlobInfo) -> bool:
        """Remove what *info* tells of, durably; False, and it stays, if it was put again since.

        Whoever puts a blob makes it known only afterwards. So one that nobody knew and that is removed like this is
        never one that somebody is just about to make known.
        """
        ...

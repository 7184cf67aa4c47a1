"""Rows of NAR files that stock Nix uploaded: staged ones, and aliases."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from icehouse.db.caches import CacheRow
from icehouse.db.nars import find_nars
from icehouse.db.schema import nar, path, upload
from icehouse.errors import Conflict


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A NAR file as stock Nix made it. Its bytes are not kept: they are there as the NAR's chunks."""

    file_name: str
    """Below ``nar/``."""
    compression: str
    """As in a narinfo."""
    file_hash: bytes
    """SHA-256 of the file."""
    file_size: int
    crc32: int
    """Of the NAR, where the file is gzip; else 0."""


@dataclass(frozen=True, slots=True)
class UploadRow:
    """The upload of a file to a cache, and the NAR in it."""

    file: UploadedFile
    nar_id: int
    nar_hash: bytes
    nar_size: int
    stored_hash: bytes
    """SHA-256 of the NAR's file as it is stored now."""
    path_id: int | None
    """Of a path of the cache, visible or hidden, that has this NAR."""


def find_upload(connection: Connection, cache_id: int, file_name: str) -> UploadRow | None:
    """The upload of that name."""
    paths = select(func.min(path.c.id)).where(path.c.nar_id == upload.c.nar_id, path.c.cache_id == cache_id)
    row = connection.execute(
        select(
            upload.c.compression,
            upload.c.file_hash,
            upload.c.file_size,
            upload.c.crc32,
            nar.c.id,
            nar.c.nar_hash,
            nar.c.nar_size,
            nar.c.file_hash.label("stored_hash"),
            paths.scalar_subquery().label("path_id"),
        ).where(upload.c.cache_id == cache_id, upload.c.file_name == file_name, nar.c.id == upload.c.nar_id)
    ).one_or_none()
    if row is None:
        return None
    file = UploadedFile(file_name, row.compression, row.file_hash, row.file_size, row.crc32)
    return UploadRow(file, row.id, row.nar_hash, row.nar_size, row.stored_hash, row.path_id)


def put_upload(
    connection: Connection, cache: CacheRow, file: UploadedFile, nar_hash: bytes, *, now: int, token_id: int | None
) -> None:
    """Add the upload of a NAR that the cache's domain has. One of the same name is replaced.

    Raises:
        Conflict: the NAR was removed meanwhile.
    """
    found = find_nars(connection, cache.domain_id, [nar_hash]).get(nar_hash)
    if found is None:
        raise Conflict("the NAR was removed while it was uploaded; upload it again")
    connection.execute(delete(upload).where(upload.c.cache_id == cache.id, upload.c.file_name == file.file_name))
    connection.execute(
        insert(upload).values(
            cache_id=cache.id,
            file_name=file.file_name,
            compression=file.compression,
            file_hash=file.file_hash,
            file_size=file.file_size,
            crc32=file.crc32,
            nar_id=found.id,
            created_at=now,
            published_by=token_id,
        )
    )

"""Backups of the database in the object store, and their way back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDecompressor, ZstdError

from icehouse.db.backup import check_copy, copy_database, replace_database, skip_domains
from icehouse.db.files import file_errors, locked, make_private_file, write_private_file
from icehouse.db.migrate import prepare_database
from icehouse.errors import Corrupt, InvalidFormat, NotFound
from icehouse.rules.backups import (
    DEFAULT_KEEP,
    PREAMBLE_BYTES,
    BackupHead,
    BackupName,
    is_due,
    parse_head,
    parse_preamble,
    plan_removal,
    render_head,
)
from icehouse.services.start import DataFolder
from icehouse.storage.blobs import BlobKey, BlobStore

_SETTINGS: Final = "icehouse.toml"
_PREFIX: Final = "backups/"
_PIECE_BYTES: Final = 1024 * 1024
_OPTIONS: Final[dict[int, int]] = {CompressionParameter.compression_level: 6, CompressionParameter.checksum_flag: 1}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup in the object store."""

    name: str
    made_at: int
    revision: str
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did."""

    name: str
    made_at: int
    kept: str | None
    """Where the database that was there is now; null: there was none."""
    has_secret: bool
    """Whether the folder has the secret, without which no server starts."""
    newer_packs: int
    """Packs that are newer than the backup."""
    newer_publishes: int
    """Objects of the journal that are newer: `rebuild` brings their paths back."""


class Backups:
    """The backups of one server."""

    def __init__(self, folder: DataFolder, blobs: BlobStore, clock: Callable[[], int]) -> None:
        """Join the parts. *clock* gives seconds since the epoch."""
        self._folder = folder
        self._blobs = blobs
        self._clock = clock

    async def back_up(self, *, keep: int = DEFAULT_KEEP) -> Backup:
        """Make a backup, durably, and then remove old ones so that *keep* are left.

        Raises:
            Conflict: another backup is being made.
            OverQuota: the disk is full.
            Corrupt, Unavailable: the database or the backend failed.
        """
        return await asyncio.to_thread(self._back_up, keep)

    async def back_up_if_due(self, *, keep: int = DEFAULT_KEEP) -> Backup | None:
        """Make a backup if there is none of the last day. The errors are those of `back_up`."""
        backups = await self.list_backups()
        if not is_due([BackupName(backup.made_at, backup.revision) for backup in backups], now=self._clock()):
            return None
        backup = await self.back_up(keep=keep)
        _log.info("backed up the database", name=backup.name, bytes=backup.stored_bytes)
        return backup

    async def list_backups(self) -> list[Backup]:
        """All backups, the newest first."""
        return await asyncio.to_thread(self._list)

    def _back_up(self, keep: int) -> Backup:
        plan_removal([], keep=keep)
        copy = self._folder.path / "backup.unfinished"
        lock = self._folder.path / "backup.lock"
        with file_errors(lock), locked(lock, refusal="another backup is being made"):
            try:
                made_at = self._clock()
                revision = copy_database(self._folder.database, copy)
                name = BackupName(made_at, revision)
                stored_bytes = self._store(copy, name)
            finally:
                copy.unlink(missing_ok=True)
        for old in plan_removal([BackupName(each.made_at, each.revision) for each in self._list()], keep=keep):
            self._blobs.delete(_key(old))
        return Backup(name.render(), made_at, revision, stored_bytes)

    def _store(self, copy: Path, name: BackupName) -> int:
        settings = self._folder.path / _SETTINGS
        head = BackupHead(
            revision=name.revision,
            made_at=name.made_at,
            database_bytes=copy.stat().st_size,
            settings=settings.read_text() if settings.exists() else None,
        )
        writer = self._blobs.create()
        try:
            compressor = ZstdCompressor(options=_OPTIONS)
            text = render_head(head)
            writer.write(text)
            stored_bytes = len(text)
            with copy.open("rb") as file:
                while piece := file.read(_PIECE_BYTES):
                    data = compressor.compress(piece)
                    writer.write(data)
                    stored_bytes += len(data)
            data = compressor.flush()
            writer.write(data)
            writer.commit(_key(name))
        finally:
            writer.abort()
        return stored_bytes + len(data)

    def _list(self) -> list[Backup]:
        found: list[Backup] = []
        for info in self._blobs.list(_PREFIX):
            try:
                name = BackupName.parse(info.key.removeprefix(_PREFIX))
            except InvalidFormat:
                continue  # Not ours.
            found.append(Backup(name.render(), name.made_at, name.revision, info.size_bytes))
        return sorted(found, key=lambda backup: backup.made_at, reverse=True)


def restore(folder: DataFolder, blobs: BlobStore, text: str, *, now: int) -> Restored:
    """Put the database of a backup in the place of the present one, which is kept beside it. Blocks.

    The order: unpack beside, check, then replace. A crash leaves the one database or the other, and a file that the
    next call replaces. The settings come back if the folder has none; the secret is in no backup.

    Args:
        folder: where to; its folder exists.
        blobs: where the backups are, and the packs.
        text: the name of a backup; ``latest``; or a path to a copy of one.
        now: seconds since the epoch, for the name of what is kept.

    Raises:
        NotFound: there is no such backup.
        Conflict: a server uses the folder; or the backup is of a newer version.
        InvalidFormat, Corrupt: what is there is no backup, or damaged; nothing was changed.
        OverQuota, Unavailable: the disk is full, or cannot be written.
    """
    with (
        file_errors(folder.path),
        locked(folder.lock, refusal=f"{folder.path} is in use by a server; stop it first"),
    ):
        new = folder.database.with_name("icehouse.db.restoring")
        new.unlink(missing_ok=True)
        try:
            name, pieces = _open(blobs, text)
            head = _unpack(pieces, new)
            check_copy(new)
            newer_packs, newer_publishes, domains = _look_around(blobs, head.made_at)
            skip_domains(new, domains)
            kept = folder.database.with_name(f"icehouse.db.before-restore-{now}")
            was_there = folder.database.exists()
            replace_database(folder.database, new, kept)
        finally:
            new.unlink(missing_ok=True)
        prepare_database(folder.database)
        settings = folder.path / _SETTINGS
        if head.settings is not None and not settings.exists():
            write_private_file(settings, head.settings.encode())
    return Restored(
        name, head.made_at, kept.name if was_there else None, folder.secret.exists(), newer_packs, newer_publishes
    )


def _open(blobs: BlobStore, text: str) -> tuple[str, Iterator[bytes]]:
    """A backup's name, and its bytes in pieces."""
    file = Path(text)
    if "/" in text or (file.suffix == ".zst" and file.is_file()):
        if not file.is_file():
            raise NotFound(f"{file}: there is no such file")
        return file.name, _read_file(file)
    if text == "latest":
        names = [info.key for info in blobs.list(_PREFIX) if not info.is_unfinished]
        if not names:
            raise NotFound("there is no backup")
        text = max(names).removeprefix(_PREFIX)
    return text, _read_blob(blobs, _key(BackupName.parse(text)))


def _read_file(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            yield piece


def _read_blob(blobs: BlobStore, key: BlobKey) -> Iterator[bytes]:
    size = blobs.size(key)
    for start in range(0, size, _PIECE_BYTES):
        buffer = bytearray(min(_PIECE_BYTES, size - start))
        blobs.read_into(key, start, memoryview(buffer))
        yield bytes(buffer)


def _unpack(pieces: Iterator[bytes], target: Path) -> BackupHead:
    """Write the database of a backup to *target*."""
    begin = next(pieces, b"")
    head_end = PREAMBLE_BYTES + parse_preamble(begin[:PREAMBLE_BYTES])
    while len(begin) < head_end:
        piece = next(pieces, None)
        if piece is None:
            raise InvalidFormat("this is no backup: its head is cut off")
        begin += piece
    head = parse_head(begin[PREAMBLE_BYTES:head_end])
    make_private_file(target)
    written = 0
    with target.open("r+b") as file:
        for data in _decompress(_chained(begin[head_end:], pieces)):
            written += file.write(data)
            if written > head.database_bytes:
                break
    if written != head.database_bytes:
        raise Corrupt(f"the backup is damaged: its database has not the {head.database_bytes} bytes that it announces")
    return head


def _decompress(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The content of one zstd frame, in pieces of bounded size."""
    decompressor = ZstdDecompressor()
    try:
        for piece in pieces:
            yield decompressor.decompress(piece, _PIECE_BYTES)
            while not decompressor.needs_input and not decompressor.eof:
                yield decompressor.decompress(b"", _PIECE_BYTES)
    except (ZstdError, EOFError) as exc:
        raise Corrupt(f"the backup is damaged: {exc}") from exc
    if not decompressor.eof or decompressor.unused_data:
        raise Corrupt("the backup is damaged: it is cut off, or goes on after its end")


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _look_around(blobs: BlobStore, made_at: int) -> tuple[int, int, set[int]]:
    """How many packs and publishes are newer than a backup, and the numbers of all domains that have objects."""
    domains: set[int] = set()
    counts = {"packs": 0, "journal": 0, "logs": 0}
    for place in counts:
        for info in blobs.list(f"{place}/"):
            domain = info.key.split("/")[1]
            if domain.isdecimal():
                domains.add(int(domain))
            counts[place] += info.modified_at >= made_at
    return counts["packs"], counts["journal"], domains


def _key(name: BackupName) -> BlobKey:
    return BlobKey(f"{_PREFIX}{name.render()}")

"""Backups of the database: their names, the head that each begins with, and which ones to keep.

The formats page (`docs/design/formats.md`, "Backups") has the layout.
"""

import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

import msgspec

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt

DEFAULT_KEEP: Final = 7
BACKUP_SECONDS: Final = 24 * 3600
"""From one backup that the server makes by itself to the next."""

MAX_HEAD_BYTES: Final = 1024 * 1024
PREAMBLE_BYTES: Final = 8
"""The first bytes of a backup: enough to know how long its head is."""

_MAGIC: Final = 0x184D2A5D
"""Of a skippable zstd frame, another one than that of packs."""

_PREAMBLE: Final = struct.Struct("<II")
_VERSION: Final = 1
_TIME: Final = "%Y%m%dt%H%M%Sz"
_NAME: Final = re.compile(r"([0-9]{8}t[0-9]{6}z)-([a-z0-9_]{1,32})\.zst")


@dataclass(frozen=True, slots=True, order=True)
class BackupName:
    """When a backup was made, and of which revision the database was. Sorts by time."""

    made_at: int
    revision: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``20261122t235701z-0003.zst``.

        Raises:
            InvalidFormat: it is named otherwise.
        """
        match = _NAME.fullmatch(text)
        try:
            if match is not None:
                made_at = datetime.strptime(match[1], _TIME).replace(tzinfo=UTC)
                return cls(int(made_at.timestamp()), match[2])
        except ValueError:
            pass
        raise InvalidFormat(f"backup {excerpt(text)}: expected a name such as 20261122t235701z-0003.zst")

    def render(self) -> str:
        """The inverse of `parse`."""
        return f"{datetime.fromtimestamp(self.made_at, UTC).strftime(_TIME)}-{self.revision}.zst"


class BackupHead(msgspec.Struct, frozen=True, kw_only=True):
    """What stands before the database in a backup."""

    version: int = _VERSION
    revision: str
    """Of the database's schema."""
    made_at: int
    """Seconds since the epoch."""
    database_bytes: int
    settings: str | None
    """The text of ``icehouse.toml``; null: there was none."""


def render_head(head: BackupHead) -> bytes:
    """The head as one skippable zstd frame, so that ``zstd -d`` gives the database alone."""
    body = msgspec.json.encode(head)
    if len(body) > MAX_HEAD_BYTES:
        raise InvalidFormat(f"a backup's head of {len(body)} bytes; at most {MAX_HEAD_BYTES} are read back")
    return _PREAMBLE.pack(_MAGIC, len(body)) + body


def parse_preamble(data: bytes) -> int:
    """How many bytes the head has after its first `PREAMBLE_BYTES`, which are given.

    Raises:
        InvalidFormat: this is no backup.
    """
    if len(data) != PREAMBLE_BYTES:
        raise InvalidFormat("this is no backup: it is cut off")
    magic, size = _PREAMBLE.unpack(data)
    if magic != _MAGIC or size > MAX_HEAD_BYTES:
        raise InvalidFormat("this is no backup of Icehouse")
    return int(size)


def parse_head(data: bytes) -> BackupHead:
    """The head, without its first `PREAMBLE_BYTES`.

    Raises:
        InvalidFormat: it is damaged, or of a version that this program does not know.
    """
    try:
        head = msgspec.json.decode(data, type=BackupHead)
    except msgspec.DecodeError as exc:
        raise InvalidFormat(f"a backup's head is damaged: {exc}") from exc
    if head.version != _VERSION:
        raise InvalidFormat(f"a backup of version {head.version}; this program knows version {_VERSION}")
    return head


def plan_removal(names: Collection[BackupName], *, keep: int) -> list[BackupName]:
    """Which backups to remove so that the newest *keep* of them are left; the oldest first."""
    if keep < 1:
        raise InvalidFormat(f"keep {keep} backups: expected 1 or more")
    return sorted(names)[: max(0, len(names) - keep)]


def is_due(names: Collection[BackupName], *, now: int) -> bool:
    """Whether the server should make a backup by itself. One from the future, of a wrong clock, does not count."""
    return not any(now - BACKUP_SECONDS < name.made_at <= now for name in names)

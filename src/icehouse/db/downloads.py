"""Rows of the access database: who downloaded the NARs of which paths."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select, tuple_
from sqlalchemy.dialects.sqlite import insert

from icehouse.db.schema import download, downloader

_NOBODY = 0


@dataclass(frozen=True, slots=True)
class Downloader:
    """Who downloads: the holder of a token, by its number, or else who is at an address."""

    token_id: int | None
    address: str
    """Empty where there is a token."""


@dataclass(frozen=True, slots=True)
class DownloadRow:
    """How often somebody downloaded the NAR of a path, and when first and last."""

    path_id: int
    by: Downloader
    downloads: int
    first_at: int
    last_at: int


def add_downloads(connection: Connection, new: Sequence[DownloadRow]) -> None:
    """Add to what is noted; some thousands at once."""
    if not new:
        return
    who = {row.by: (row.by.token_id or _NOBODY, row.by.address) for row in new}
    keys = downloader.c.token_id, downloader.c.address
    values = [{"token_id": token_id, "address": address} for token_id, address in who.values()]
    connection.execute(insert(downloader).on_conflict_do_nothing(index_elements=keys), values)
    numbers: dict[tuple[int, str], int] = {}
    wanted = list(who.values())
    for start in range(0, len(wanted), 500):
        rows = connection.execute(select(downloader).where(tuple_(*keys).in_(wanted[start : start + 500])))
        numbers |= {(row.token_id, row.address): row.id for row in rows}
    addition = insert(download)
    addition = addition.on_conflict_do_update(
        index_elements=[download.c.path_id, download.c.downloader_id],
        set_={
            "downloads": download.c.downloads + addition.excluded.downloads,
            "first_at": func.min(download.c.first_at, addition.excluded.first_at),
            "last_at": func.max(download.c.last_at, addition.excluded.last_at),
        },
    )
    connection.execute(
        addition,
        [
            {
                "path_id": row.path_id,
                "downloader_id": numbers[who[row.by]],
                "downloads": row.downloads,
                "first_at": row.first_at,
                "last_at": row.last_at,
            }
            for row in new
        ],
    )


def load_downloads(connection: Connection, path_ids: Collection[int]) -> list[DownloadRow]:
    """What is noted of those paths, the latest first; at most a thousand paths at once."""
    rows = connection.execute(
        select(download, downloader.c.token_id, downloader.c.address)
        .join(downloader, downloader.c.id == download.c.downloader_id)
        .where(download.c.path_id.in_(path_ids))
        .order_by(download.c.last_at.desc(), downloader.c.id)
    )
    return [
        DownloadRow(
            row.path_id, Downloader(row.token_id or None, row.address), row.downloads, row.first_at, row.last_at
        )
        for row in rows
    ]


def forget_downloads(connection: Connection, path_ids: Collection[int]) -> None:
    """Forget paths that are gone, whose numbers may come again; at most a thousand at once."""
    connection.execute(delete(download).where(download.c.path_id.in_(path_ids)))


def count_downloads(connection: Connection) -> int:
    """How many rows there are."""
    return connection.execute(select(func.count()).select_from(download)).scalar_one()


def find_last_of_oldest(connection: Connection, count: int) -> int | None:
    """When the last of the *count* rows was downloaded that were so longest ago. Sorts all rows."""
    statement = select(download.c.last_at).order_by(download.c.last_at).limit(1).offset(count - 1)
    return connection.execute(statement).scalar()


def purge_downloads(connection: Connection, *, until: int, limit: int) -> int:
    """Forget what was downloaded then or before, and not since; so many rows at most. How many there were."""
    keys = download.c.path_id, download.c.downloader_id
    old = select(*keys).where(download.c.last_at <= until).limit(limit)
    return connection.execute(delete(download).where(tuple_(*keys).in_(old))).rowcount


def purge_downloaders(connection: Connection) -> None:
    """Forget those of whom no download is noted."""
    connection.execute(delete(downloader).where(downloader.c.id.not_in(select(download.c.downloader_id).distinct())))

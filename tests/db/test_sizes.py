"""Sums follow whatever statement writes rows."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Connection

from icehouse.db import migrate
from icehouse.db.caches import CacheRow, delete_cache, insert_domain, purge_domain
from icehouse.db.engine import Database, connect
from icehouse.db.migrate import prepare_database
from icehouse.db.sizes import CacheSizes, load_cache_sizes, load_sizes
from icehouse.errors import Conflict
from tests.db.sums import check_sums
from tests.db.test_caches import add_cache, add_path

CHANGES = (
    "UPDATE path SET hidden_at = 5, hidden_because = 'not used' WHERE hidden_at IS NULL AND id % {n} = 0",
    "UPDATE path SET hidden_at = 5, hidden_because = 'damaged: its NAR' WHERE id % {n} = 1",
    "UPDATE path SET hidden_because = 'damaged: it reaches' WHERE hidden_at IS NOT NULL AND id % {n} = 0",
    "UPDATE path SET hidden_at = NULL, hidden_because = NULL WHERE id % {n} = 0",
    "UPDATE path SET nar_size = nar_size + {n}, name = 'other', signatures = 'k:s'",
    "UPDATE path SET signatures = '', revocation_id = {n}",
    "UPDATE path SET cache_id = (SELECT min(id) FROM cache) WHERE id % {n} = 0",
    (
        "INSERT INTO path SELECT NULL, cache_id, hash_part || iif(id % {n} = 0, '', '{n}'), name, nar_id, nar_hash,"
        ' nar_size, file_hash, file_size, "references", deriver, system, ca, signatures, created_at, hidden_at,'
        " published_by, hidden_because, generation, published_from, revocation_id FROM path WHERE hidden_at IS NOT NULL"
        " LIMIT 3 ON CONFLICT DO UPDATE SET hidden_at = NULL, hidden_because = NULL"
    ),
    "DELETE FROM path WHERE hidden_at IS NOT NULL",
    "DELETE FROM path WHERE id % {n} = 0",
    "UPDATE pack SET size_bytes = size_bytes + {n}, condemned_at = 4",
    "UPDATE chunk SET stored_bytes = 1, quarantined_at = 4",
    "DELETE FROM chunk WHERE number % {n} = 0",
    "DELETE FROM pack WHERE id NOT IN (SELECT pack_id FROM chunk)",
)


def change_something(connection: Connection, draw: random.Random, caches: list[CacheRow]) -> None:
    match draw.randrange(8):
        case 0:
            is_public = draw.random() < 0.5
            domain_id = 1 if is_public else insert_domain(connection, None, now=0)
            caches.append(add_cache(connection, f"c{draw.getrandbits(60)}", domain_id=domain_id))
        case 1 | 2 | 3 if caches:
            add_path(connection, draw.choice(caches), f"{draw.getrandbits(30):x}")
        case 4 if caches and draw.random() < 0.3:
            gone = caches.pop(draw.randrange(len(caches)))
            delete_cache(connection, gone.id)
            if gone.domain_id != 1:
                purge_domain(connection, gone.domain_id)
        case _:
            connection.exec_driver_sql(draw.choice(CHANGES).format(n=draw.randint(2, 4)))


@pytest.mark.parametrize("seed", range(3))
async def test_sums_are_what_a_count_gives_after_any_changes(tmp_path: Path, seed: int) -> None:
    prepare_database(tmp_path / "icehouse.db")
    draw = random.Random(seed)
    caches: list[CacheRow] = []

    def change(connection: Connection) -> None:
        for _ in range(draw.randint(1, 4)):
            change_something(connection, draw, caches)
        if draw.random() < 0.2:
            raise InterruptedError

    with (
        closing(Database.open(tmp_path / "icehouse.db")) as database,
        closing(connect(tmp_path / "icehouse.db", is_read_only=True)) as reader,
    ):
        for _ in range(100):
            before = list(caches)
            try:
                await database.write(change)
            except (InterruptedError, Conflict):  # Or another cache's path had a NAR of the domain.
                caches[:] = before  # Nothing of it remains.
            check_sums(reader)
        sizes = await database.read(load_sizes)
        assert {each.cache_name for each in sizes.caches} == {cache.name for cache in caches}


async def test_sizes_of_some_caches_are_by_name(tmp_path: Path) -> None:
    prepare_database(tmp_path / "icehouse.db")

    def make(connection: Connection) -> list[str]:
        wanted = [add_cache(connection, name).id for name in ("b", "c", "a")]
        return [sizes.cache_name for sizes in load_cache_sizes(connection, [wanted[0], wanted[2]])]

    with closing(Database.open(tmp_path / "icehouse.db")) as database:
        assert await database.write(make) == ["a", "b"]


def test_migration_sums_what_was_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, now = tmp_path / "icehouse.db", Path(migrate.__file__).with_name("migrations")
    shutil.copytree(now, tmp_path / "before")
    for script in (tmp_path / "before/versions/icehouse").glob("*.py"):
        if script.name > "0023":
            script.unlink()
    monkeypatch.setattr(migrate, "_MIGRATIONS", tmp_path / "before")
    prepare_database(path)
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        cache = add_cache(connection, "main")
        add_cache(connection, "empty")
        for number in range(20):
            add_path(connection, cache, f"{number:x}.", hidden_at=5 if number % 3 else None)
        connection.exec_driver_sql("UPDATE path SET hidden_because = 'damaged: so' WHERE hidden_at = 5 AND id > 15")
    engine.dispose()
    monkeypatch.setattr(migrate, "_MIGRATIONS", now)
    prepare_database(path)
    with closing(connect(path, is_read_only=True)) as reader:
        check_sums(reader)


async def test_the_last_push_stays_known_when_its_path_is_gone(tmp_path: Path) -> None:
    prepare_database(tmp_path / "icehouse.db")

    def work(connection: Connection) -> None:
        cache = add_cache(connection, "main")
        assert load_cache_sizes(connection) == (CacheSizes("main", cache_id=cache.id),)
        for letter, at in (("a", 5), ("b", 8), ("c", 6)):
            add_path(connection, cache, letter, created_at=at)
        connection.exec_driver_sql("DELETE FROM path")
        assert load_cache_sizes(connection) == (CacheSizes("main", last_push_at=8, cache_id=cache.id),)
        connection.exec_driver_sql("DELETE FROM cache")
        assert load_cache_sizes(connection) == ()

    with closing(Database.open(tmp_path / "icehouse.db")) as database:
        await database.write(work)

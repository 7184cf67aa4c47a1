"""Rows of uploads, and what happens to them when what they stand for goes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, select

from icehouse.db.caches import PUBLIC_DOMAIN_ID, CacheRow, insert_cache, insert_domain
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.db.nars import put_nar
from icehouse.db.schema import nar, path, upload
from icehouse.db.uploads import UploadedFile, UploadRow, find_upload, put_upload
from icehouse.errors import Conflict
from icehouse.nix import nix32
from icehouse.nix.store_paths import NIX_STORE

FILE = UploadedFile(f"{'0' * 52}.nar.xz", "xz", b"F" * 32, 2**40, 2**32 - 1)
NAR_HASH, STORED_HASH = b"N" * 32, b"S" * 32


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


def make_cache(connection: Connection, name: str, domain_id: int = PUBLIC_DOMAIN_ID) -> CacheRow:
    return insert_cache(
        connection,
        name=name,
        domain_id=domain_id,
        is_public=True,
        store_dir=NIX_STORE,
        priority=41,
        want_mass_query=True,
        now=1,
    )


def make_nar(connection: Connection) -> int:
    return put_nar(
        connection,
        domain_id=PUBLIC_DOMAIN_ID,
        nar_hash=NAR_HASH,
        nar_size=100,
        file_hash=STORED_HASH,
        file_size=50,
        recipe_body=b"",
        now=1,
    )


def make_path(connection: Connection, cache: CacheRow, nar_id: int) -> None:
    values = {"hash_part": "a" * 32, "name": "x", "nar_hash": nix32.encode(NAR_HASH), "nar_size": 100}
    values |= {"file_hash": nix32.encode(STORED_HASH), "file_size": 50, "references": "", "signatures": ""}
    connection.execute(insert(path).values(**values, cache_id=cache.id, nar_id=nar_id, created_at=1, hidden_at=1))


def test_upload_is_found_as_it_was_put_with_what_its_nar_is_now(database: Database) -> None:
    def work(connection: Connection) -> None:
        cache, other = make_cache(connection, "main"), make_cache(connection, "other")
        nar_id = make_nar(connection)
        put_upload(connection, cache, FILE, NAR_HASH, now=2, token_id=None)
        row = UploadRow(FILE, nar_id, NAR_HASH, 100, STORED_HASH, path_id=None)
        assert find_upload(connection, cache.id, FILE.file_name) == row
        assert find_upload(connection, other.id, FILE.file_name) is None
        make_path(connection, other, nar_id)
        assert find_upload(connection, cache.id, FILE.file_name) == row
        make_path(connection, cache, nar_id)
        path_id = connection.execute(select(path.c.id).where(path.c.cache_id == cache.id)).scalar_one()
        assert find_upload(connection, cache.id, FILE.file_name) == replace(row, path_id=path_id)

    database.write_now(work)


def test_upload_put_again_is_one_row_with_the_later_time(database: Database) -> None:
    def work(connection: Connection) -> None:
        cache = make_cache(connection, "main")
        make_nar(connection)
        for now in (2, 3):
            put_upload(connection, cache, FILE, NAR_HASH, now=now, token_id=None)
        assert connection.execute(select(upload.c.created_at)).scalars().all() == [3]

    database.write_now(work)


def test_upload_of_a_nar_that_the_domain_does_not_have_is_a_conflict(database: Database) -> None:
    def work(connection: Connection) -> None:
        make_nar(connection)
        elsewhere = make_cache(connection, "main", insert_domain(connection, None, now=1))
        with pytest.raises(Conflict, match="upload it again"):
            put_upload(connection, elsewhere, FILE, NAR_HASH, now=2, token_id=None)

    database.write_now(work)


def test_upload_goes_with_its_nar(database: Database) -> None:
    def work(connection: Connection) -> None:
        cache = make_cache(connection, "main")
        make_nar(connection)
        put_upload(connection, cache, FILE, NAR_HASH, now=2, token_id=None)
        connection.execute(delete(nar))
        assert find_upload(connection, cache.id, FILE.file_name) is None

    database.write_now(work)

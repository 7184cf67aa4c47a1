"""Rows of chunks, and the names that they are found by."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from icehouse.db.chunks import add_pack, find_numbers
from icehouse.db.engine import Database
from icehouse.db.migrate import prepare_database
from icehouse.db.rebuilding import add_found_pack, find_named_chunks
from icehouse.db.schema import chunk, pack
from icehouse.errors import Conflict
from icehouse.rules.chunks import CHUNK_NAME_BYTES
from icehouse.rules.packs import NO_PLACES, PackEntry
from tests.db.plans import steps_of

PUBLIC = 1
NAME = b"n" * CHUNK_NAME_BYTES
FIRST, SECOND = (PackEntry(NAME + letter * 16, 60, 100, NO_PLACES) for letter in (b"1", b"2"))
OTHER = PackEntry(b"o" * 32, 60, 100, NO_PLACES)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    with closing(Database.open(tmp_path / "icehouse.db")) as database:
        yield database


def test_a_chunk_that_has_the_name_of_another_one_is_missing_and_refused(database: Database) -> None:
    added = database.write_now(lambda db: add_pack(db, PUBLIC, b"a" * 32, 60, [FIRST], now=1))
    assert database.write_now(lambda db: find_numbers(db, PUBLIC, [SECOND.identity, OTHER.identity])) == {}
    assert database.write_now(lambda db: find_numbers(db, PUBLIC, [FIRST.identity])) == added.numbers
    with pytest.raises(Conflict, match=f"chunk {FIRST.identity.hex()} is there"):
        database.write_now(lambda db: add_pack(db, PUBLIC, b"b" * 32, 120, [OTHER, SECOND], now=1))

    def count(connection: Connection) -> tuple[int, int]:
        packs, chunks = (
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (pack, chunk)
        )
        return packs, chunks

    assert database.write_now(count) == (1, 1)


def test_whoever_rebuilds_takes_the_first_chunk_of_a_name(database: Database) -> None:
    database.write_now(lambda db: add_found_pack(db, PUBLIC, b"a" * 32, 60, [(FIRST, 0)], now=1))
    assert (
        database.write_now(lambda db: add_found_pack(db, PUBLIC, b"b" * 32, 120, [(SECOND, 0), (OTHER, 60)], now=1))
        == 1
    )
    found = database.write_now(lambda db: find_named_chunks(db, PUBLIC, [NAME, b"o" * CHUNK_NAME_BYTES, b"-" * 16]))
    assert {name: row.identity for name, row in found.items()} == {NAME: FIRST.identity, b"o" * 16: OTHER.identity}


def test_chunks_are_found_by_the_index_of_names(database: Database) -> None:
    steps = database.write_now(lambda db: steps_of(db, lambda: find_numbers(db, PUBLIC, [FIRST.identity, b"o" * 32])))
    assert steps[0] == "SEARCH chunk USING INDEX chunk_name (domain_id=? AND <expr>=?)"

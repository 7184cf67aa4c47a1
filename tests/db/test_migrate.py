import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from icehouse.db import migrate, schema
from icehouse.db.engine import SCHEMA_REVISION, Database, read_revision
from icehouse.db.migrate import migrations_of, prepare_access_database, prepare_database
from icehouse.errors import Conflict, Corrupt

DATABASES = pytest.mark.parametrize(
    ("prepare", "metadata"),
    [(prepare_database, schema.metadata), (prepare_access_database, schema.access_metadata)],
    ids=["icehouse", "access"],
)


def is_known_table(name: str | None, kind: str, _: object) -> bool:
    """Whether the schema has it as a table, which those of FTS5 are not; their SQL is compared all the same."""
    return kind != "table" or name is None or not name.startswith(("path_name", "path_link"))


def tables_of(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as raw:
        rows = raw.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT IN"
            " ('alembic_version', 'sqlite_sequence')"
        ).fetchall()
    return {str(name): " ".join(str(sql).split()) for name, sql in rows}


@DATABASES
@pytest.mark.filterwarnings("ignore:.*expression-based index")  # its SQL is compared by the next test
def test_migrations_lead_to_the_schema(
    tmp_path: Path, prepare: Callable[[Path], None], metadata: sqlalchemy.MetaData
) -> None:
    prepare(tmp_path / "a.db")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.connect() as connection:
        options = {"compare_type": True, "include_name": is_known_table}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()
    assert differences == []


@DATABASES
def test_migrations_make_the_same_sql_as_the_schema(
    tmp_path: Path, prepare: Callable[[Path], None], metadata: sqlalchemy.MetaData
) -> None:
    prepare(tmp_path / "migrated.db")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    metadata.create_all(engine)
    engine.dispose()
    assert tables_of(tmp_path / "migrated.db") == tables_of(tmp_path / "created.db")


def test_the_code_expects_the_revision_that_migrations_end_at() -> None:
    assert migrations_of("icehouse").get_current_head() == SCHEMA_REVISION


def test_a_new_database_has_the_public_domain_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    prepare_database(tmp_path / "icehouse.db")
    with closing(sqlite3.connect(tmp_path / "icehouse.db")) as raw:
        assert raw.execute("SELECT id, name FROM domain").fetchall() == [(1, "public")]
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / "icehouse.db").stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob("*.before-*")) == []


def test_a_current_database_is_left_alone(tmp_path: Path) -> None:
    prepare_database(tmp_path / "icehouse.db")
    before = (tmp_path / "icehouse.db").read_bytes()
    prepare_database(tmp_path / "icehouse.db")
    assert (tmp_path / "icehouse.db").read_bytes() == before
    assert list(tmp_path.glob("*.before-*")) == []


def test_a_start_that_died_after_making_the_file_is_carried_on(tmp_path: Path) -> None:
    (tmp_path / "icehouse.db").touch()
    prepare_database(tmp_path / "icehouse.db")
    Database.open(tmp_path / "icehouse.db").close()


def test_a_database_from_a_newer_version_is_refused(tmp_path: Path) -> None:
    prepare_database(tmp_path / "icehouse.db")
    with closing(sqlite3.connect(tmp_path / "icehouse.db")) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Conflict, match="newer Icehouse \\(revision 9999"):
        prepare_database(tmp_path / "icehouse.db")


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "icehouse.db")) as raw, raw:
        raw.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(Conflict, match="another program"):
        prepare_database(tmp_path / "icehouse.db")
    assert list(tables_of(tmp_path / "icehouse.db")) == ["bookmarks"]


def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "icehouse.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Corrupt):
        prepare_database(tmp_path / "icehouse.db")


LATER = """
import sqlalchemy as sa
from alembic import op

revision = "later"
down_revision = "{revision}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("cache") as table:
        table.add_column(sa.Column("note", sa.Text()))
    {last}
"""


@pytest.fixture
def later_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Adds a second migration to a copy of the real ones; the argument is its last statement."""
    folder = tmp_path / "migrations"
    shutil.copytree(Path(migrate.__file__).with_name("migrations"), folder)
    monkeypatch.setattr(migrate, "_MIGRATIONS", folder)

    def add(last: str) -> None:
        (folder / "versions" / "icehouse" / "later.py").write_text(LATER.format(last=last, revision=SCHEMA_REVISION))

    return add


def a_cache_with_an_upstream(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(
            "INSERT INTO cache (id, name, domain_id, is_public, store_dir, priority, want_mass_query, created_at) "
            "VALUES (7, 'main', 1, 1, '/nix/store', 41, 1, 0)"
        )
        raw.execute("INSERT INTO upstream VALUES (1, 7, 'https://cache.nixos.org', '')")


def test_before_a_migration_the_database_is_copied(tmp_path: Path, later_migration: Callable[[str], None]) -> None:
    path = tmp_path / "icehouse.db"
    prepare_database(path)
    a_cache_with_an_upstream(path)
    later_migration("")
    prepare_database(path)
    copy = tmp_path / "icehouse.db.before-later"
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as raw:
        assert read_revision(raw) == SCHEMA_REVISION
        assert raw.execute("SELECT name FROM cache").fetchall() == [("main",)]
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with closing(sqlite3.connect(path)) as raw:
        assert read_revision(raw) == "later"
        assert raw.execute("SELECT name, note FROM cache").fetchall() == [("main", None)]
        assert raw.execute("SELECT url FROM upstream").fetchall() == [("https://cache.nixos.org",)]


@pytest.mark.parametrize(
    ("last", "error"),
    [("raise RuntimeError('oh')", RuntimeError), ("op.execute('DELETE FROM cache')", Corrupt)],
    ids=["it fails", "it leaves a reference to nothing"],
)
def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, later_migration: Callable[[str], None], last: str, error: type[Exception]
) -> None:
    path = tmp_path / "icehouse.db"
    prepare_database(path)
    a_cache_with_an_upstream(path)
    before = tables_of(path)
    later_migration(last)
    with pytest.raises(error):
        prepare_database(path)
    assert tables_of(path) == before
    Database.open(path).close()


def test_a_database_before_its_migration_is_not_opened(tmp_path: Path, later_migration: Callable[[str], None]) -> None:
    prepare_database(tmp_path / "icehouse.db")
    later_migration("")
    with pytest.raises(Conflict, match=f"at revision {SCHEMA_REVISION}, expected later"):
        Database.open(tmp_path / "icehouse.db", revision="later")


def test_several_processes_may_prepare_at_once(tmp_path: Path) -> None:
    program = "import sys, pathlib, icehouse.db.migrate as m; m.prepare_database(pathlib.Path(sys.argv[1]))"
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "icehouse.db")]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    Database.open(tmp_path / "icehouse.db").close()


@pytest.fixture
def chunks_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The rows of chunks in ``icehouse.db``, as it was before revision 0028. The highest numbers were given up."""
    folder, path = tmp_path / "migrations", tmp_path / "icehouse.db"
    shutil.copytree(Path(migrate.__file__).with_name("migrations"), folder)
    for later in (folder / "versions" / "icehouse").glob("00*.py"):
        if later.name >= "0028":
            later.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "_MIGRATIONS", folder)
        prepare_database(path)
    shutil.rmtree(folder)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("INSERT INTO pack (id, domain_id, name, size_bytes, created_at) VALUES (1, 1, x'aa', 900, 0)")
        raw.executemany(
            "INSERT INTO chunk VALUES (?, 1, ?, 1, ?, 60, 100, ?, ?)",
            [
                (number, number.to_bytes(32, "little"), number, b"\x00" if number % 3 else None, number % 5 or None)
                for number in range(1, 100)
            ],
        )
        raw.execute("DELETE FROM chunk WHERE number IN (7, 8, 98, 99)")
        return raw.execute("SELECT * FROM chunk ORDER BY number").fetchall()


def check_chunks(path: Path, before: list[tuple[object, ...]]) -> None:
    """They are what they were, counted, and the next one gets a number that none had."""
    with closing(sqlite3.connect(path)) as raw, raw:
        assert raw.execute("SELECT * FROM chunk ORDER BY number").fetchall() == before
        assert raw.execute("SELECT chunks FROM domain_sum WHERE domain_id = 1").fetchone() == (95,)
        raw.execute("INSERT INTO chunk VALUES (NULL, 1, x'ff', 1, 0, 60, 100, NULL, NULL)")
        assert raw.execute("SELECT max(number) FROM chunk").fetchone() == (100,)
        assert raw.execute("SELECT chunks FROM domain_sum WHERE domain_id = 1").fetchone() == (96,)


def test_chunks_keep_their_numbers_when_their_table_is_rebuilt(
    tmp_path: Path, chunks_before_names: list[tuple[object, ...]]
) -> None:
    prepare_database(tmp_path / "icehouse.db")
    check_chunks(tmp_path / "icehouse.db", chunks_before_names)


@pytest.mark.parametrize("last", ["ALTER TABLE", "INSERT INTO", "DROP TABLE", "CREATE UNIQUE INDEX"])
def test_a_kill_while_the_table_of_chunks_is_rebuilt_loses_nothing(
    tmp_path: Path, chunks_before_names: list[tuple[object, ...]], last: str
) -> None:
    path = tmp_path / "icehouse.db"
    tables = tables_of(path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), last], check=False)
    assert done.returncode == -signal.SIGKILL
    assert tables_of(path) == tables
    prepare_database(path)
    check_chunks(path, chunks_before_names)


KILLED = """
import os, pathlib, sys
from alembic import op
from icehouse.db.migrate import prepare_database

execute = op.execute

def execute_and_die(statement):
    execute(statement)
    if statement.startswith(sys.argv[2]):
        os.kill(os.getpid(), 9)

op.execute = execute_and_die
prepare_database(pathlib.Path(sys.argv[1]))
"""
"""Brings the database of its first argument up, and is killed after a statement that begins with the second."""

"""Chunks are found by the first half of their identities: an index of whole ones was a quarter of the database."""

from __future__ import annotations

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_TABLE = """
    CREATE TABLE chunk (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        domain_id INTEGER NOT NULL,
        identity BLOB NOT NULL,
        pack_id INTEGER NOT NULL,
        pack_offset INTEGER NOT NULL,
        stored_bytes INTEGER NOT NULL,
        raw_bytes INTEGER NOT NULL,
        places BLOB,
        quarantined_at INTEGER,
        FOREIGN KEY(domain_id) REFERENCES domain (id),
        FOREIGN KEY(pack_id) REFERENCES pack (id)
    )
"""


def upgrade() -> None:
    """Rebuild the table, which alone can lose its constraint; its other indexes and its triggers are made again.

    Numbers stay, and none is given a second time. Some seconds for a million chunks.
    """
    connection = op.get_bind()
    dropped = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE tbl_name = 'chunk' AND type IN ('index', 'trigger') AND sql IS NOT NULL"
    ).scalars()
    statements = list(dropped)
    last = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'chunk'").scalar()
    op.execute("ALTER TABLE chunk RENAME TO chunk_before")
    op.execute(_TABLE)
    op.execute("INSERT INTO chunk SELECT * FROM chunk_before ORDER BY number")
    op.execute("DROP TABLE chunk_before")
    if last is not None:
        connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'chunk'")
        connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('chunk', ?)", (last,))
    for statement in statements:
        connection.exec_driver_sql(statement)
    op.execute("CREATE UNIQUE INDEX chunk_name ON chunk (domain_id, substr(identity, 1, 16))")

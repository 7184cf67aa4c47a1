"""How often something changed that narinfos say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table with its row, and what counts in it."""
    op.create_table(
        "narinfo_version",
        sa.Column("added", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
    )
    op.execute("INSERT INTO narinfo_version VALUES (0, 0)")
    for name, when, column in (
        ("path_insert", "INSERT ON path", "added"),
        ("path_update", "UPDATE ON path WHEN OLD.hidden_at IS NULL OR NEW.hidden_at IS NULL", "changed"),
        ("path_delete", "DELETE ON path WHEN OLD.hidden_at IS NULL", "changed"),
        ("cache_update", "UPDATE OF name, is_public, store_dir ON cache", "changed"),
        ("cache_delete", "DELETE ON cache", "changed"),
    ):
        op.execute(
            f"CREATE TRIGGER narinfo_version_{name} AFTER {when} "  # noqa: S608  our own words
            f"BEGIN UPDATE narinfo_version SET {column} = {column} + 1; END"
        )

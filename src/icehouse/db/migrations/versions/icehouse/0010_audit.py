"""The audit log, which only grows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and what refuses to change its rows."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("at", sa.Integer(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("cache_pattern", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text()),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Integer()),
        sa.Column("address", sa.Text()),
        sa.Column("request_id", sa.Text()),
        sa.Column("old_values", sa.Text()),
        sa.Column("new_values", sa.Text()),
        sqlite_autoincrement=True,
    )
    for name, when in (
        ("update", "UPDATE ON audit"),
        ("delete", "DELETE ON audit"),
        ("replace", "INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)"),
    ):
        op.execute(
            f"CREATE TRIGGER audit_refuses_{name} BEFORE {when} "
            "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        )

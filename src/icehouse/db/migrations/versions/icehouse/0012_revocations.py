"""Revocations, and the paths that they hold back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and add the column."""
    op.create_table(
        "revocation",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("since", sa.Integer(), nullable=False),
        sa.Column("until", sa.Integer()),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE")),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.Column("undone_at", sa.Integer()),
        sqlite_autoincrement=True,
    )
    op.add_column("path", sa.Column("revocation_id", sa.Integer()))

"""Pins, retention, and what collection needs to know."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and make the tables."""
    for column in (
        sa.Column("keep_unused_seconds", sa.Integer()),
        sa.Column("keep_pushed_seconds", sa.Integer()),
        sa.Column("budget_bytes", sa.Integer()),
        sa.Column("limit_bytes", sa.Integer()),
        sa.Column("trash_seconds", sa.Integer(), nullable=False, server_default="604800"),
        sa.Column("stored_bytes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("generation", sa.Integer(), nullable=False, server_default="0"),
    ):
        op.add_column("cache", column)
    op.add_column("pack", sa.Column("condemned_at", sa.Integer()))
    op.add_column("path", sa.Column("hidden_because", sa.Text()))
    op.add_column("path", sa.Column("generation", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("path_by_generation", "path", ["cache_id", "generation"])
    op.create_table(
        "pin",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("keep_days", sa.Integer()),
        sa.Column("keep_revisions", sa.Integer()),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.UniqueConstraint("cache_id", "name"),
    )
    op.create_table(
        "pin_revision",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("pin_id", sa.Integer(), sa.ForeignKey("pin.id", ondelete="CASCADE"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("path_id", sa.Integer(), sa.ForeignKey("path.id"), nullable=False, index=True),
        sa.Column("artifacts", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.UniqueConstraint("pin_id", "number"),
    )
    op.create_table(
        "collection",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_name", sa.Text()),
        sa.Column("began_at", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.Integer(), nullable=False),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Integer(), nullable=False),
    )

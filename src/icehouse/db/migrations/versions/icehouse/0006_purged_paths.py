"""What became of paths that are gone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "purged_path",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
        sa.Column("hash_part", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("published_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.Column("hidden_at", sa.Integer(), nullable=False),
        sa.Column("hidden_because", sa.Text()),
        sa.Column("purged_at", sa.Integer(), nullable=False),
        sa.UniqueConstraint("cache_id", "hash_part"),
    )

"""Who downloaded what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "downloader",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("token_id", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.UniqueConstraint("token_id", "address"),
    )
    op.create_table(
        "download",
        sa.Column("path_id", sa.Integer(), primary_key=True),
        sa.Column("downloader_id", sa.Integer(), primary_key=True),
        sa.Column("downloads", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
    )

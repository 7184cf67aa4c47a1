"""Sessions of the web page."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "session",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("secret_hash", sa.BLOB(), nullable=False, unique=True),
        sa.Column("token_id", sa.Integer(), sa.ForeignKey("token.id"), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("last_used_at", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Integer(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_session_token_id", "session", ["token_id"])

"""How much is asked of each cache over time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "traffic",
        *(sa.Column(name, sa.Integer(), primary_key=True) for name in ("cache_id", "seconds", "starts_at")),
        *(
            sa.Column(name, sa.Integer(), nullable=False, server_default="0")
            for name in ("hits", "misses", "nars", "sent_bytes")
        ),
        sa.Column("nar_bytes", sa.Integer()),
        sa.Column("stored_bytes", sa.Integer()),
        sqlite_with_rowid=False,
    )

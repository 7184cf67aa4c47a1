"""Which chunks are damaged, at once: whatever makes a path visible asks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index, which is empty as long as nothing is damaged."""
    is_damaged = sa.text("quarantined_at IS NOT NULL")
    op.create_index(
        "chunk_quarantined", "chunk", ["quarantined_at"], sqlite_where=is_damaged, postgresql_where=is_damaged
    )

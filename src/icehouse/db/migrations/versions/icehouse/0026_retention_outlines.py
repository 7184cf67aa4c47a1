"""What any retention of a cache would hide, summed up; and the paths that damage hides."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, which the next collection fills, and the index."""
    op.create_table(
        "retention_outline",
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("made_at", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )
    is_damaged = sa.text("hidden_because >= 'damaged: ' AND hidden_because < 'damaged:!'")
    op.create_index("path_damaged", "path", ["cache_id", "id"], sqlite_where=is_damaged, postgresql_where=is_damaged)

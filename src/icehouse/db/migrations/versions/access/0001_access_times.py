"""The tables of access times."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "path_access",
        sa.Column("path_id", sa.Integer(), primary_key=True),
        sa.Column("last_used_at", sa.Integer(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
    )

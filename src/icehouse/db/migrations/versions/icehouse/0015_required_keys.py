"""Keys of which a cache demands a signature on what is pushed to it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: caches that are there demand none."""
    op.add_column("cache", sa.Column("required_keys", sa.Text(), nullable=False, server_default=""))

"""Where published paths came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("path", sa.Column("published_from", sa.Text()))
    op.add_column("waiting_path", sa.Column("published_from", sa.Text()))

"""Stagings of caches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: no cache that is there is a staging."""
    op.add_column("cache", sa.Column("staging_of", sa.Integer()))

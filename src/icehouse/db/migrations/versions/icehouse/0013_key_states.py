"""States of signing keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: keys that are there sign."""
    op.add_column("signing_key", sa.Column("state", sa.Text(), nullable=False, server_default="active"))

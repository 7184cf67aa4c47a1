"""What the verification that goes on for ever did when it was once through."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    for name in ("last_began_at", "last_read_bytes", "last_findings"):
        op.add_column("verify_pass", sa.Column(name, sa.Integer()))

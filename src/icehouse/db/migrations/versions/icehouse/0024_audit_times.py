"""An index by which the log tells what was changed at a time."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it: some 12 bytes a row."""
    op.create_index("ix_audit_at", "audit", ["at"])

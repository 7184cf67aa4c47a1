"""Exchanges of identities in the audit log, the only rows of it that may be deleted once they are old."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index that finds them, and let the trigger pass those that are 90 days old."""
    op.create_index(
        "audit_exchanges", "audit", ["cache_pattern", "at"], sqlite_where=sa.text("action = 'token.exchange'")
    )
    op.execute("DROP TRIGGER audit_refuses_delete")
    op.execute(
        "CREATE TRIGGER audit_refuses_delete BEFORE DELETE ON audit WHEN NOT (OLD.action = 'token.exchange' "
        "AND OLD.at <= CAST(strftime('%s', 'now') AS INTEGER) - 7776000) "
        "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
    )

"""The trash by time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index: among a million visible paths, those in the trash were found by reading all."""
    is_hidden = sa.text("hidden_at IS NOT NULL")
    op.create_index(
        "path_in_trash",
        "path",
        ["cache_id", "hidden_at", "id", "name"],
        sqlite_where=is_hidden,
        postgresql_where=is_hidden,
    )

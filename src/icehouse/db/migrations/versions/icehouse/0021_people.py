"""People whom a provider knows, and their tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and add the columns: tokens that are there are nobody's."""
    op.create_table(
        "person",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text()),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("last_login_at", sa.Integer(), nullable=False),
        sa.UniqueConstraint("issuer", "subject"),
        sqlite_autoincrement=True,
    )
    op.add_column("token", sa.Column("person_id", sa.Integer()))
    op.add_column("token", sa.Column("is_login", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("token", sa.Column("other_scopes", sa.Text(), nullable=False, server_default="[]"))
    op.create_index("ix_token_person_id", "token", ["person_id"])

"""Trust rules, and tokens for jobs of a CI."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, and add the column."""
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text()),
        sa.Column("ref", sa.Text()),
        sa.Column("workflow", sa.Text()),
        sa.Column("commit", sa.Text()),
        sa.Column("run", sa.Text()),
        sa.Column("run_url", sa.Text()),
        sa.Column("created_at", sa.Integer(), nullable=False),
    )
    op.create_table(
        "trust_rule",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("issuer", sa.Text(), nullable=False, index=True),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("claims", sa.Text(), nullable=False),
        sa.Column("permissions", sa.Text(), nullable=False),
        sa.Column("token_seconds", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Integer(), sa.ForeignKey("token.id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "used_id_token",
        sa.Column("use_key", sa.BLOB(), primary_key=True),
        sa.Column("expires_at", sa.Integer(), nullable=False, index=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("job.id"), nullable=False),
        sa.Column("token_hash", sa.BLOB(), nullable=False),
    )
    op.add_column("token", sa.Column("job_id", sa.Integer()))

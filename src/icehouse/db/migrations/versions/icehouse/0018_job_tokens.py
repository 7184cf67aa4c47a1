"""Indexes by which a token is known to be named nowhere, so that those of jobs can be forgotten."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them. They take some 12 bytes for each path."""
    op.create_index("ix_token_created_by", "token", ["created_by"])
    op.create_index("ix_token_job_id", "token", ["job_id"])
    op.create_index("ix_used_id_token_job_id", "used_id_token", ["job_id"])
    for table in ("path", "purged_path", "upload", "waiting_path", "build_log", "realisation"):
        op.create_index(f"ix_{table}_published_by", table, ["published_by"])
    op.create_index("ix_pin_revision_created_by", "pin_revision", ["created_by"])

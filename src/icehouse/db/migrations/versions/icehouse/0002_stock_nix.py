"""The tables of stock Nix's uploads, build logs, realisations and debug files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _create_uploads()
    _create_waiting_paths()
    _create_logs()
    _create_debug_files()


def _create_uploads() -> None:
    op.create_table(
        "upload",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("compression", sa.Text(), nullable=False),
        sa.Column("file_hash", sa.BLOB(), nullable=False),
        sa.Column("file_size", sa.Integer(), nullable=False),
        sa.Column("crc32", sa.Integer(), nullable=False),
        sa.Column("nar_id", sa.Integer(), sa.ForeignKey("nar.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("published_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.UniqueConstraint("cache_id", "file_name"),
    )


def _create_waiting_paths() -> None:
    op.create_table(
        "waiting_path",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
        sa.Column("hash_part", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("nar_hash", sa.BLOB(), nullable=False),
        sa.Column("nar_size", sa.Integer(), nullable=False),
        sa.Column("references", sa.Text(), nullable=False),
        sa.Column("deriver", sa.Text()),
        sa.Column("system", sa.Text()),
        sa.Column("ca", sa.Text()),
        sa.Column("signatures", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("published_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.UniqueConstraint("cache_id", "hash_part"),
    )
    op.create_table(
        "waiting_reference",
        sa.Column("waiting_id", sa.Integer(), sa.ForeignKey("waiting_path.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("hash_part", sa.Text(), primary_key=True, index=True),
    )


def _create_logs() -> None:
    op.create_table(
        "build_log",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
        sa.Column("derivation", sa.Text(), nullable=False),
        sa.Column("blob_name", sa.BLOB(), nullable=False),
        sa.Column("stored_bytes", sa.Integer(), nullable=False),
        sa.Column("log_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("published_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.UniqueConstraint("cache_id", "derivation"),
    )
    op.create_table(
        "realisation",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("body", sa.BLOB(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("published_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.UniqueConstraint("cache_id", "file_name"),
    )


def _create_debug_files() -> None:
    op.create_table(
        "debug_file",
        sa.Column("build_id", sa.BLOB(), primary_key=True),
        sa.Column("nar_id", sa.Integer(), sa.ForeignKey("nar.id", ondelete="CASCADE"), primary_key=True, index=True),
    )

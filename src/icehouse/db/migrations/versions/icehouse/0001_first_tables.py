"""The tables of the main job, and the domain that all public caches share."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables and domain 1."""
    _create_caches()
    _create_store()
    _create_paths()
    domain = sa.table("domain", sa.column("id"), sa.column("name"), sa.column("created_at"))
    op.execute(domain.insert().values(id=1, name="public", created_at=int(time.time())))


def _create_caches() -> None:
    op.create_table(
        "domain",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), unique=True),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "cache",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False, unique=True),
        sa.Column("domain_id", sa.Integer(), sa.ForeignKey("domain.id"), nullable=False, index=True),
        sa.Column("is_public", sa.Integer(), nullable=False),
        sa.Column("store_dir", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("want_mass_query", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "signing_key",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("sealed_secret_key", sa.BLOB(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
    )
    op.create_table(
        "upstream",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("public_keys", sa.Text(), nullable=False),
        sa.UniqueConstraint("cache_id", "url"),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("token_hash", sa.BLOB(), nullable=False, unique=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("permissions", sa.Text(), nullable=False),
        sa.Column("cache_pattern", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.Column("expires_at", sa.Integer()),
        sa.Column("revoked_at", sa.Integer()),
        sa.Column("last_used_at", sa.Integer()),
        sqlite_autoincrement=True,
    )


def _create_store() -> None:
    op.create_table(
        "pack",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("domain_id", sa.Integer(), sa.ForeignKey("domain.id"), nullable=False),
        sa.Column("name", sa.BLOB(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.UniqueConstraint("domain_id", "name"),
    )
    op.create_table(
        "chunk",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("domain_id", sa.Integer(), sa.ForeignKey("domain.id"), nullable=False),
        sa.Column("identity", sa.BLOB(), nullable=False),
        sa.Column("pack_id", sa.Integer(), sa.ForeignKey("pack.id"), nullable=False, index=True),
        sa.Column("pack_offset", sa.Integer(), nullable=False),
        sa.Column("stored_bytes", sa.Integer(), nullable=False),
        sa.Column("raw_bytes", sa.Integer(), nullable=False),
        sa.Column("places", sa.BLOB()),
        sa.Column("quarantined_at", sa.Integer()),
        sa.UniqueConstraint("domain_id", "identity"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "nar",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("domain_id", sa.Integer(), sa.ForeignKey("domain.id"), nullable=False),
        sa.Column("nar_hash", sa.BLOB(), nullable=False),
        sa.Column("nar_size", sa.Integer(), nullable=False),
        sa.Column("file_hash", sa.BLOB(), nullable=False),
        sa.Column("file_size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.UniqueConstraint("domain_id", "nar_hash"),
    )
    op.create_table(
        "recipe",
        sa.Column("nar_id", sa.Integer(), sa.ForeignKey("nar.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("body", sa.BLOB(), nullable=False),
    )


def _create_paths() -> None:
    op.create_table(
        "path",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id"), nullable=False),
        sa.Column("hash_part", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("nar_id", sa.Integer(), sa.ForeignKey("nar.id"), nullable=False),
        sa.Column("nar_hash", sa.Text(), nullable=False),
        sa.Column("nar_size", sa.Integer(), nullable=False),
        sa.Column("file_hash", sa.Text(), nullable=False),
        sa.Column("file_size", sa.Integer(), nullable=False),
        sa.Column("references", sa.Text(), nullable=False),
        sa.Column("deriver", sa.Text()),
        sa.Column("system", sa.Text()),
        sa.Column("ca", sa.Text()),
        sa.Column("signatures", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("hidden_at", sa.Integer()),
        sa.Column("published_by", sa.Integer(), sa.ForeignKey("token.id")),
        sa.UniqueConstraint("cache_id", "hash_part"),
    )
    op.create_index("path_by_nar", "path", ["nar_id", "cache_id"])
    op.create_table(
        "external",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("cache_id", sa.Integer(), sa.ForeignKey("cache.id", ondelete="CASCADE"), nullable=False),
        sa.Column("hash_part", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("nar_hash", sa.BLOB(), nullable=False),
        sa.Column("nar_size", sa.Integer(), nullable=False),
        sa.Column("references", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("upstream_id", sa.Integer(), sa.ForeignKey("upstream.id"), nullable=False, index=True),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.UniqueConstraint("cache_id", "hash_part"),
    )

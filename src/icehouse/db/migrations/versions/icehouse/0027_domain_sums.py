"""What the packs and chunks of each domain add up to, kept by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_PACK_SUM = """
    UPDATE domain_sum SET packs = packs {sign} 1, pack_bytes = pack_bytes {sign} {row}.size_bytes
    WHERE domain_id = {row}.domain_id;
"""
_CHUNK_SUM = "UPDATE domain_sum SET chunks = chunks {sign} 1 WHERE domain_id = {row}.domain_id;"


def upgrade() -> None:
    """Count once, and from then on with each change. A second for a million chunks."""
    op.create_table(
        "domain_sum",
        sa.Column("domain_id", sa.Integer(), primary_key=True),
        *(
            sa.Column(name, sa.Integer(), nullable=False, server_default="0")
            for name in ("packs", "pack_bytes", "chunks")
        ),
    )
    op.execute(
        "INSERT INTO domain_sum SELECT id, (SELECT count(*) FROM pack WHERE domain_id = domain.id), "
        "(SELECT coalesce(sum(size_bytes), 0) FROM pack WHERE domain_id = domain.id), "
        "(SELECT count(*) FROM chunk WHERE domain_id = domain.id) FROM domain"
    )
    triggers = {
        "domain_insert AFTER INSERT ON domain": "INSERT INTO domain_sum (domain_id) VALUES (NEW.id);",
        "domain_delete AFTER DELETE ON domain": "DELETE FROM domain_sum WHERE domain_id = OLD.id;",
    }
    for table, columns, sums in (("pack", "domain_id, size_bytes", _PACK_SUM), ("chunk", "domain_id", _CHUNK_SUM)):
        put, take = sums.format(sign="+", row="NEW"), sums.format(sign="-", row="OLD")
        triggers |= {
            f"{table}_insert AFTER INSERT ON {table}": put,
            f"{table}_update AFTER UPDATE OF {columns} ON {table}": f"{take} {put}",
            f"{table}_delete AFTER DELETE ON {table}": take,
        }
    for when, statements in triggers.items():
        op.execute(" ".join(f"CREATE TRIGGER domain_sum_{when} BEGIN {statements} END".split()))

"""What the paths of each cache add up to, kept by triggers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_CACHE_SUM = """
    UPDATE cache_sum SET visible_paths = visible_paths {sign} ({row}.hidden_at IS NULL),
    hidden_paths = hidden_paths {sign} ({row}.hidden_at IS NOT NULL),
    damaged_paths = damaged_paths {sign} coalesce(substr({row}.hidden_because, 1, 9) = 'damaged: ', 0),
    nar_bytes = nar_bytes {sign} ({row}.hidden_at IS NULL) * {row}.nar_size {more} WHERE cache_id = {row}.cache_id;
"""
_ADD = _CACHE_SUM.format(sign="+", row="NEW", more="")
_ADD_NEW = _CACHE_SUM.format(
    sign="+", row="NEW", more=", last_push_at = max(coalesce(last_push_at, 0), NEW.created_at)"
)
_TAKE = _CACHE_SUM.format(sign="-", row="OLD", more="")


def upgrade() -> None:
    """Count once, and from then on with each change. A second for a million paths."""
    op.create_table(
        "cache_sum",
        sa.Column("cache_id", sa.Integer(), primary_key=True),
        *(
            sa.Column(name, sa.Integer(), nullable=False, server_default="0")
            for name in ("visible_paths", "hidden_paths", "damaged_paths", "nar_bytes")
        ),
        sa.Column("last_push_at", sa.Integer()),
    )
    op.execute(
        "INSERT INTO cache_sum SELECT cache.id, coalesce(sum(path.id IS NOT NULL AND path.hidden_at IS NULL), 0), "
        "count(path.hidden_at), coalesce(sum(substr(path.hidden_because, 1, 9) = 'damaged: '), 0), "
        "coalesce(sum((path.hidden_at IS NULL) * path.nar_size), 0), max(path.created_at) "
        "FROM cache LEFT JOIN path ON path.cache_id = cache.id GROUP BY cache.id"
    )
    for name, when, statements in (
        ("cache_insert", "INSERT ON cache", "INSERT INTO cache_sum (cache_id) VALUES (NEW.id);"),
        ("cache_delete", "DELETE ON cache", "DELETE FROM cache_sum WHERE cache_id = OLD.id;"),
        ("path_insert", "INSERT ON path", _ADD_NEW),
        ("path_update", "UPDATE OF cache_id, hidden_at, hidden_because, nar_size ON path", f"{_TAKE} {_ADD}"),
        ("path_delete", "DELETE ON path", _TAKE),
    ):
        statement = f"CREATE TRIGGER cache_sum_{name} AFTER {when} BEGIN {statements} END"
        op.execute(" ".join(statement.split()))

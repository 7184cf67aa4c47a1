"""The sums that triggers keep, against a count of the rows."""

from __future__ import annotations

import sqlite3

_COUNTED = {
    "cache_id, visible_paths, hidden_paths, damaged_paths, nar_bytes FROM cache_sum": """
        SELECT cache.id, count(path.id) FILTER (WHERE hidden_at IS NULL), count(hidden_at),
            count(path.id) FILTER (WHERE hidden_because LIKE 'damaged: %'),
            coalesce(sum(nar_size) FILTER (WHERE hidden_at IS NULL), 0)
        FROM cache LEFT JOIN path ON path.cache_id = cache.id GROUP BY cache.id ORDER BY cache.id
    """,
    "domain_id, packs, pack_bytes, chunks FROM domain_sum": """
        SELECT id, (SELECT count(*) FROM pack WHERE domain_id = domain.id),
            (SELECT coalesce(sum(size_bytes), 0) FROM pack WHERE domain_id = domain.id),
            (SELECT count(*) FROM chunk WHERE domain_id = domain.id)
        FROM domain ORDER BY id
    """,
}


def check_sums(reader: sqlite3.Connection) -> None:
    """The sums of all caches and domains are what there is."""
    for columns, counted in _COUNTED.items():
        kept = reader.execute(f"SELECT {columns} ORDER BY 1").fetchall()
        assert kept == reader.execute(counted).fetchall(), columns

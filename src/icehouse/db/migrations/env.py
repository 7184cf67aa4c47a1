"""What Alembic runs to migrate: the connection, its transaction and the tables are given by `icehouse.db.migrate`."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    render_as_batch=True,  # SQLite changes a column by rebuilding its table.
)
context.run_migrations()

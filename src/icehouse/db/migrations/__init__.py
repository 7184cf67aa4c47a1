"""Alembic's migrations: `versions/` has one folder a database; `icehouse.db.migrate` runs them."""

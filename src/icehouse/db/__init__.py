"""Rows: the schema, its migrations, and one module per thing kept."""

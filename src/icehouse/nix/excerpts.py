"""How a value from outside is quoted in the text of an error: readable, on one line, and short."""

from __future__ import annotations


def excerpt(value: str | bytes, *, max_length: int = 80) -> str:
    """*value* as a quoted Python literal without its ``b``, cut after *max_length* characters or bytes."""
    shown = repr(value[:max_length]).removeprefix("b")
    return shown if len(value) <= max_length else f"{shown}... ({len(value)} long)"

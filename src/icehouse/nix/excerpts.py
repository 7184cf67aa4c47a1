"""How a value from outside is shown to people: in the text of an error readable, on one line, and short."""

from __future__ import annotations


def excerpt(value: str | bytes, *, max_length: int = 80) -> str:
    """*value* as a quoted Python literal without its ``b``, cut after *max_length* characters or bytes."""
    shown = repr(value[:max_length]).removeprefix("b")
    return shown if len(value) <= max_length else f"{shown}... ({len(value)} long)"


def show_name(raw: bytes) -> str:
    """A file name for people: what is not UTF-8, or would not be seen or turn the text around, as an escape."""
    return show_text(raw.decode(errors="backslashreplace"), kept="")


def show_text(text: str, *, kept: str = "\n\t") -> str:
    """A text for people: what would not be seen, or turn the text around, as an escape, but for the letters *kept*."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode()
        for letter in text
    )

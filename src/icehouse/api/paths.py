"""Bodies about paths that are there, or are not."""

from typing import Literal

import msgspec


class PathView(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/paths/{hash part}``."""

    store_path: str
    """Base name."""
    nar_hash: str
    nar_size: int
    file_hash: str
    file_size: int
    url: str
    references: list[str]
    deriver: str | None
    system: str | None
    ca: str | None
    signatures: list[str]
    created_at: int
    published_by: str | None
    """Description of the token that published it."""


class WhyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET …/why/{hash part}``."""

    hash_part: str
    state: Literal["visible", "hidden", "external", "never-pushed"]
    explanation: str
    """One or two sentences for people."""
    since: int | None = None
    upstream: str | None = None

"""Links to pages with what was asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final
from urllib.parse import urlencode

from litestar.params import QueryParameter

MAX_NUMBER: Final = 2**53

Before = Annotated[int | None, QueryParameter(ge=1, le=MAX_NUMBER)]
"""Of pages that list by number, the newest first: only what has a lower one."""

Asked = Annotated[str, QueryParameter()]
"""What a field of a form with GET holds; empty: nothing."""


def link(path: str, query: Mapping[str, str]) -> str:
    """*path* with a query of these values."""
    return f"{path}?{urlencode(query)}" if query else path

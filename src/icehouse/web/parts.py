"""What pages work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icehouse.errors import IcehouseError
from icehouse.services.access import Access
from icehouse.services.caches import Caches


@dataclass(frozen=True, slots=True)
class WebParts:
    """The services behind the pages, and what the server says of itself."""

    access: Access
    caches: Caches
    public_url: str
    """The address under which people reach the server, without a slash at the end."""
    version: str
    statuses: Mapping[type[IcehouseError], tuple[int, str]]
    """Status and title of each class of errors: the one table that the API has too."""

"""What pages load: styles, scripts and pictures out of the package, under names that tell their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final, Self

SEGMENT: Final = "static"
"""The first segment of the addresses of assets; no cache may be called so."""

_HASH_LETTERS: Final = 12
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Files of other kinds, such as licences, are not served."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that browsers may keep for ever: other contents have another name."""

    served_name: str
    """``icehouse.0a1b2c3d4e5f.css``"""
    media_type: str
    body: bytes


class Assets:
    """All assets, read once."""

    def __init__(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """*contents* are names of files, such as ``icehouse.css``, and what is in them."""
        self._by_name = {name: _make_asset(name, body) for name, body in contents}
        self._by_served_name = {asset.served_name: asset for asset in self._by_name.values()}

    @classmethod
    def load(cls) -> Self:
        """The assets of this package."""
        folder = files("icehouse.web") / "assets"
        found = [file for file in folder.iterdir() if PurePosixPath(file.name).suffix in _MEDIA_TYPES]
        return cls((file.name, file.read_bytes()) for file in found)

    def url(self, name: str) -> str:
        """Where the file called *name* is served; a `KeyError` if there is none."""
        return f"/{SEGMENT}/{self._by_name[name].served_name}"

    def find(self, served_name: str) -> Asset | None:
        """The asset that is served as *served_name*, or `None`."""
        return self._by_served_name.get(served_name)


def _make_asset(name: str, body: bytes) -> Asset:
    path = PurePosixPath(name)
    digest = hashlib.sha256(body).hexdigest()[:_HASH_LETTERS]
    return Asset(f"{path.stem}.{digest}{path.suffix}", _MEDIA_TYPES[path.suffix], body)

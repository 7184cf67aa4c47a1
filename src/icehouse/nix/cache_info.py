"""nix-cache-info: what a binary cache says about itself.

Source: Nix, src/libstore/binary-cache-store.cc.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.store_paths import StoreDir

MAX_CACHE_INFO_BYTES: Final = 64 * 1024
_PRIORITY: Final = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What clients do with a cache. A lower *priority* is asked earlier, and an absent one means 0."""

    store_dir: StoreDir | None = None
    want_mass_query: bool = False
    priority: int | None = None


def parse_cache_info(text: bytes | str) -> CacheInfo:
    """Read a nix-cache-info as leniently as Nix: other fields and lines without a colon say nothing.

    Raises:
        InvalidFormat: too long, a store directory that is none, or a priority that is no number.
    """
    if len(text) > MAX_CACHE_INFO_BYTES:
        raise InvalidFormat(f"nix-cache-info has {len(text)} bytes: expected at most {MAX_CACHE_INFO_BYTES}")
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    store_dir: StoreDir | None = None
    want_mass_query = False
    priority: int | None = None
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        value = value.strip()
        match name:
            case "StoreDir":
                store_dir = StoreDir.parse(value)
            case "WantMassQuery":
                want_mass_query = value == "1"
            case "Priority":
                if _PRIORITY.fullmatch(value) is None:
                    raise InvalidFormat(f"nix-cache-info Priority {excerpt(value)} is not a decimal number")
                priority = int(value)
            case _:
                pass
    return CacheInfo(store_dir, want_mass_query, priority)


def render_cache_info(info: CacheInfo) -> str:
    """The text of *info*; what is ``None`` is left out."""
    lines: list[str] = []
    if info.store_dir is not None:
        lines.append(f"StoreDir: {info.store_dir}\n")
    lines.append(f"WantMassQuery: {int(info.want_mass_query)}\n")
    if info.priority is not None:
        lines.append(f"Priority: {info.priority}\n")
    return "".join(lines)

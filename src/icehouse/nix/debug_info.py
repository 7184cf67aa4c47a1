"""Debug files in NARs: finding them by build id, and the small files of a cache that tell where they are.

Source: Nix, src/libstore/binary-cache-store.cc, ``index-debug-info``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final, assert_never

from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from icehouse.nix.byte_search import find_bytes
from icehouse.nix.nar_framing import framed
from icehouse.nix.nar_read import (
    DirectoryEnd,
    DirectoryStart,
    NarEvent,
    RegularData,
    RegularEnd,
    RegularStart,
    Symlink,
)

BUILD_ID_BYTES: Final = 20
MAX_BUILD_IDS: Final = 20_000
"""Of one NAR. What it has beyond, nobody finds by build id."""

_MARK: Final = framed(b".build-id")
"""The folder's name as a NAR has it. The name alone stands in nearly every program, in `.note.gnu.build-id`."""

_EDGE_BYTES: Final = len(_MARK) - 1
_MEMBER: Final = re.compile(rb"lib/debug/\.build-id/([0-9a-f]{2})/([0-9a-f]{38})\.debug")
_MEMBER_DEPTH: Final = 5
_BUILD_ID: Final = re.compile(f"[0-9a-f]{{{2 * BUILD_ID_BYTES}}}")


class DebugInfoSign:
    """Looks at the bytes of a NAR as they pass, and tells whether there can be debug files in it."""

    def __init__(self) -> None:
        self.is_seen = False
        """Whether the name of the folder of debug files occurred as names of a NAR are written."""
        self._end = b""

    def look(self, data: bytes | bytearray) -> None:
        """Look at the next bytes."""
        if self.is_seen:
            return
        self.is_seen = find_bytes(data, _MARK, 0) >= 0 or _MARK in self._end + data[:_EDGE_BYTES]
        self._end = (self._end + data[-_EDGE_BYTES:])[-_EDGE_BYTES:]


def find_build_ids(events: Iterable[NarEvent]) -> list[bytes]:
    """The build ids of the debug files in a NAR, of which those that are no regular files do not count."""
    found: list[bytes] = []
    names: list[bytes] = []  # of the open folders below the root
    for event in events:
        match event:
            case DirectoryStart(name):
                if name is not None:
                    names.append(name)
            case DirectoryEnd():
                if names:
                    names.pop()
            case RegularStart(name):
                if name is not None and len(names) == _MEMBER_DEPTH - 1 and len(found) < MAX_BUILD_IDS:
                    member = _MEMBER.fullmatch(b"/".join((*names, name)))
                    if member is not None:
                        found.append(bytes.fromhex((member[1] + member[2]).decode()))
            case RegularData() | RegularEnd() | Symlink():
                pass
            case _:
                assert_never(event)
    return found


def parse_build_id(text: str) -> bytes:
    """Read 40 hexadecimal digits.

    Raises:
        InvalidFormat: they are something else.
    """
    if _BUILD_ID.fullmatch(text) is None:
        raise InvalidFormat(f"build id {text[:80]!r}: expected {2 * BUILD_ID_BYTES} digits of 0-9 a-f")
    return bytes.fromhex(text)


def debug_file_names(build_id: bytes) -> tuple[bytes, ...]:
    """Where the debug file of a build id is in its NAR: the names on the way, from the root on."""
    digits = build_id.hex().encode()
    return (b"lib", b"debug", b".build-id", digits[:2], digits[2:] + b".debug")


def render_debug_info(nar_hash: bytes, build_id: bytes) -> bytes:
    """The file ``debuginfo/<build id>.debug``, which names the NAR relative to its own folder."""
    member = b"/".join(debug_file_names(build_id)).decode()
    document = {"archive": f"../nar/{nix32.encode(nar_hash)}.nar.zst", "member": member}
    return json.dumps(document, separators=(",", ":")).encode()

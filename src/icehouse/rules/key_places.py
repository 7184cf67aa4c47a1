"""Where the secret half of a signing key is kept, if not in the database: a file, or whatever a command asks."""

from dataclasses import dataclass
from typing import Final

import msgspec

from icehouse.errors import InvalidFormat

MAX_PLACE_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file as `nix key generate-secret` writes it, on the server's machine."""

    path: str
    """Absolute."""


@dataclass(frozen=True, slots=True)
class KeyCommand:
    """A command that is given fingerprints and gives signatures, run by no shell."""

    words: tuple[str, ...]
    """The program's absolute path, and its arguments."""


KeyPlace = KeyFile | KeyCommand


def render_place(place: KeyPlace) -> bytes:
    """The JSON of a path, or of a list of words.

    Raises:
        InvalidFormat: it is empty, relative or long.
    """
    kept = place.path if isinstance(place, KeyFile) else list(place.words)
    first = place.path if isinstance(place, KeyFile) else next(iter(place.words), "")
    if not first.startswith("/"):
        raise InvalidFormat(f"{first!r} is no absolute path")
    text = msgspec.json.encode(kept)
    if len(text) > MAX_PLACE_BYTES:
        raise InvalidFormat(f"a file or command of {len(text)} bytes, expected at most {MAX_PLACE_BYTES}")
    return text


def parse_place(text: bytes) -> KeyPlace:
    """The inverse of `render_place`."""
    kept = msgspec.json.decode(text, type=str | list[str])
    return KeyFile(kept) if isinstance(kept, str) else KeyCommand(tuple(kept))

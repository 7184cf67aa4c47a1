"""What people type to find a path: a store path, its hash part, or words of its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from icehouse.nix.store_paths import HASH_PART_LENGTH, HashPart

MAX_QUERY_LENGTH: Final = 1_000
"""Room for a whole store path in any store directory that people use."""
MAX_WORDS: Final = 8

_HASH: Final = re.compile(rf"(?:^|/)([{nix32.ALPHABET}]{{{HASH_PART_LENGTH}}})(?:-[^/]*)?(?:/.*)?$")
_BEGINNING: Final = re.compile(rf"[{nix32.ALPHABET}]{{4,{HASH_PART_LENGTH - 1}}}")
_WORD: Final = re.compile(r"[0-9a-z+._?=\-]+")


@dataclass(frozen=True, slots=True)
class PathQuery:
    """What is looked for: one path, or those whose names have all the words. Neither: every path."""

    hash_part: HashPart | None = None
    words: tuple[str, ...] = ()
    """In small letters. One of one or two letters begins with a dash, and one of one letter ends with one: they are
    looked for at the beginning of a word, and as a word."""
    is_hopeless: bool = False
    """A word has a letter that no name has."""
    hash_beginning: str | None = None
    """What may be the beginning of a hash part, if no name has the words."""


def parse_query(text: str) -> PathQuery:
    """Read what somebody typed.

    Raises:
        InvalidFormat: it is too long, or has too many words.
    """
    if len(text) > MAX_QUERY_LENGTH:
        raise InvalidFormat(f"a search of {len(text)} characters: expected at most {MAX_QUERY_LENGTH}")
    stripped = text.strip()
    found = _HASH.search(stripped)
    if found is not None:
        return PathQuery(hash_part=HashPart(found[1]))
    words = tuple(dict.fromkeys(stripped.lower().split()))
    if len(words) > MAX_WORDS:
        raise InvalidFormat(f"a search for {len(words)} words: expected at most {MAX_WORDS}")
    is_hopeless = not all(_WORD.fullmatch(word) for word in words)
    beginning = stripped if _BEGINNING.fullmatch(stripped) else None
    return PathQuery(words=tuple(map(_pad, words)), is_hopeless=is_hopeless, hash_beginning=beginning)


def has_words(name: str, words: tuple[str, ...]) -> bool:
    """Whether a name has all the words of a query."""
    padded = f"-{name.lower()}-"
    return all(word in padded for word in words)


def _pad(word: str) -> str:
    match len(word):
        case 1:
            return f"-{word}-"
        case 2:
            return f"-{word}"
        case _:
            return word

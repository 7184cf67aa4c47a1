"""A cache as Nix is to be told of it: its address and its keys."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.signing import PublicKey

_PLAIN_URL: Final = re.compile(r"https?://[A-Za-z0-9._~%:/\[\]-]{1,500}")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9._@+-]{1,200}:[A-Za-z0-9+/=]{44}")


@dataclass(frozen=True, slots=True)
class UsedCache:
    """A cache that Nix pulls from."""

    url: str
    """The substituter's address."""
    public_keys: tuple[str, ...]
    is_public: bool

    @property
    def host(self) -> str:
        """The host alone: curl finds passwords by it, whatever the port."""
        return urlsplit(self.url).hostname or ""


def parse_used_cache(url: str, public_keys: Sequence[str], *, is_public: bool) -> UsedCache:
    """A cache as its server describes it.

    Raises:
        InvalidFormat: the address or a key holds what would mean something else in a configuration file.
    """
    if _PLAIN_URL.fullmatch(url) is None:
        raise InvalidFormat(
            f"the server names {excerpt(url)} as the cache's address, which is none that Nix can be given"
        )
    for key in public_keys:
        if _PLAIN_KEY.fullmatch(key) is None:
            raise InvalidFormat(f"the server names {excerpt(key)} as a key of the cache: expected <key name>:<base64>")
    return UsedCache(url, tuple(PublicKey.parse(key).render() for key in public_keys), is_public)

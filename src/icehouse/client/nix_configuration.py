"""What Nix must know to pull from caches: lines in a file of our own, which nix.conf includes by one line.

So other people's lines are never touched, and taking a cache away leaves nix.conf as it was, byte for byte. These
functions decide; they read and write no file.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from icehouse.errors import Conflict, InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.used_caches import UsedCache

OWN_FILE_NAME: Final = "icehouse.conf"
"""Beside the nix.conf that includes it."""

INCLUDE_LINE: Final = f"!include {OWN_FILE_NAME}"
"""In nix.conf. The exclamation mark lets the file be absent. Source: Nix, src/libutil/configuration.cc."""

HOOK_SETTING: Final = "post-build-hook"

_KEY_SETTINGS: Final = frozenset({"trusted-public-keys", "extra-trusted-public-keys"})
_SETTING: Final = re.compile(r"\s*([A-Za-z0-9-]+)\s+=\s*(.*)")
_HEADER: Final = (
    "# Written by `icehouse use`; `icehouse remove` takes caches away. Lines of your own belong into nix.conf."
)
_MADE: Final = "# made: "
_CACHE: Final = re.compile(r"# cache: (public|private) (\S+)")


@dataclass(frozen=True, slots=True)
class OwnFile:
    """The file that nix.conf includes."""

    caches: tuple[UsedCache, ...] = ()
    netrc_file: Path | None = None
    """Where Nix is to find passwords; `None`: this file does not say."""
    made: tuple[Path, ...] = ()
    """Files that were not there before, and go with the last cache if nothing else is in them."""
    hook: Path | None = None
    """The script that Nix runs after each build; `None`: this file does not say."""

    @classmethod
    def parse(cls, file: Path, text: str) -> Self:
        """Read what `render` wrote into *file*.

        Raises:
            InvalidFormat: somebody changed it.
        """
        caches: list[UsedCache] = []
        made: list[Path] = []
        netrc_file: Path | None = None
        hook: Path | None = None
        for number, line in enumerate(text.splitlines(), 1):
            name, _, value = line.partition(" = ")
            if (match := _CACHE.fullmatch(line)) is not None:
                caches.append(UsedCache(match[2], (), match[1] == "public"))
            elif line.startswith(_MADE):
                made.append(Path(line.removeprefix(_MADE)))
            elif name == "extra-trusted-public-keys" and caches:
                caches[-1] = replace(caches[-1], public_keys=tuple(value.split()))
            elif name == "netrc-file":
                netrc_file = Path(value)
            elif name == HOOK_SETTING:
                hook = Path(value)
            elif line and line != _HEADER and not (caches and line == _substituter_line(caches[-1])):
                raise InvalidFormat(
                    f"{file} line {number}: {excerpt(line)} was not written by icehouse; lines of your own belong into "
                    "nix.conf"
                )
        return cls(tuple(caches), netrc_file, tuple(made), hook)

    def render(self) -> str:
        """The text of the file."""
        lines = [_HEADER, *(f"{_MADE}{file}" for file in self.made)]
        if self.netrc_file is not None:
            lines += ["", f"netrc-file = {self.netrc_file}"]
        if self.hook is not None:
            lines += ["", f"{HOOK_SETTING} = {self.hook}"]
        for cache in self.caches:
            keys = f"extra-trusted-public-keys = {' '.join(cache.public_keys)}"
            kind = "public" if cache.is_public else "private"
            lines += ["", f"# cache: {kind} {cache.url}", _substituter_line(cache), keys]
        return "\n".join(lines) + "\n"

    def with_cache(self, cache: UsedCache) -> Self:
        """With *cache* at the end, or in the place of what is known of it already."""
        if any(known.url == cache.url for known in self.caches):
            caches = (cache if known.url == cache.url else known for known in self.caches)
            return replace(self, caches=tuple(caches))
        return replace(self, caches=(*self.caches, cache))

    def without(self, cache: UsedCache) -> Self:
        """Without a cache; and without the netrc file, if no private one is left."""
        caches = tuple(known for known in self.caches if known.url != cache.url)
        netrc_file = None if all(known.is_public for known in caches) else self.netrc_file
        return replace(self, caches=caches, netrc_file=netrc_file)

    def with_hook(self, hook: Path | None) -> Self:
        """With another post-build hook, or none."""
        return replace(self, hook=hook)

    def with_made(self, *files: Path) -> Self:
        """With files that were not there before."""
        return replace(self, made=(*self.made, *(file for file in files if file not in self.made)))


def add_include(text: str) -> str:
    """The nix.conf *text* with the line that includes our file, at its end, if it is not there yet."""
    if _has_include(text):
        return text
    # The text's own end stays as it is, so that `remove_include` can give it back.
    return f"{text}\n{INCLUDE_LINE}" if text and not text.endswith("\n") else f"{text}{INCLUDE_LINE}\n"


def remove_include(text: str) -> str:
    """The nix.conf *text* as it was before `add_include`."""
    if text.endswith(f"\n{INCLUDE_LINE}"):
        text = text.removesuffix(f"\n{INCLUDE_LINE}")
    return "".join(line for line in text.splitlines(keepends=True) if line.strip() != INCLUDE_LINE)


def check_no_namesake(file: Path, text: str, public_keys: Sequence[str]) -> None:
    """Return if no other key of the same name is trusted already in *file*, which holds *text*.

    Raises:
        Conflict: one is. Nix heeds the first one of a name only.
    """
    names = {_key_name(key): key for key in public_keys}
    for number, line in enumerate(text.splitlines(), 1):
        for key in _values(line, _KEY_SETTINGS):
            if names.get(_key_name(key), key) != key:
                raise Conflict(
                    f"{file} line {number}: another key of the name {_key_name(key)} is trusted there, and Nix heeds "
                    f"the first of a name only; if the cache was made again, remove {key}, and run this again"
                )


def find_other_hook(text: str, ours: Path) -> str | None:
    """The post-build hook that a nix.conf *text* sets, if it is not *ours*."""
    found = [value.strip() for name, value in _settings(text) if name == HOOK_SETTING]
    return found[-1] if found and found[-1] not in {"", str(ours)} else None


def find_netrc_file(text: str) -> Path | None:
    """The netrc file that a nix.conf *text* names; the last one, as Nix takes it."""
    found = [value for name, value in _settings(text) if name == "netrc-file"]
    return Path(found[-1].strip()) if found else None


def lines_that_name(text: str, url: str) -> list[int]:
    """The numbers of the lines of a nix.conf *text* that name the substituter, with or without a slash at its end."""
    settings = {"substituters", "extra-substituters", "binary-caches", "extra-binary-caches"}
    lines = enumerate(text.splitlines(), 1)
    return [number for number, line in lines if {url, f"{url}/"} & _values(line, settings)]


def find_used(caches: Iterable[UsedCache], text: str, default_server: str | None) -> UsedCache:
    """The cache that a user means by *text*: its URL, or its name alone.

    Args:
        caches: those that are in use.
        text: what was typed.
        default_server: the address of the server that bare names belong to, where several caches have the name.

    Raises:
        Conflict: nothing such is in use, or several are.
    """
    known = list(caches)
    wanted = text.rstrip("/")
    found = [cache for cache in known if wanted in {cache.url, cache.url.rpartition("/")[2]}]
    if len(found) > 1:
        found = [cache for cache in found if cache.url == f"{default_server}/{wanted}"] or found
    match found:
        case [one]:
            return one
        case []:
            told = ", ".join(cache.url for cache in known) or "none"
            raise Conflict(f"cache {text!r} is not in use here; in use: {told}")
        case _:
            raise Conflict(f"cache {text!r} can be {' or '.join(cache.url for cache in found)}; give the whole URL")


def _has_include(text: str) -> bool:
    return any(line.strip() == INCLUDE_LINE for line in text.splitlines())


def _substituter_line(cache: UsedCache) -> str:
    return f"extra-substituters = {cache.url}"


def _key_name(key: str) -> str:
    return key.partition(":")[0]


def _settings(text: str) -> list[tuple[str, str]]:
    matches = (_SETTING.fullmatch(line.partition("#")[0]) for line in text.splitlines())
    return [(match[1], match[2]) for match in matches if match is not None]


def _values(text: str, names: Collection[str]) -> set[str]:
    return {value for name, values in _settings(text) if name in names for value in values.split()}

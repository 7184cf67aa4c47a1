"""What the user's Nix must know to pull from a cache: a substituter, its keys, and for a private cache a password.

Lines are only ever added to ``nix.conf``. In a netrc file, only the line that this program wrote is replaced. These
functions decide; they read and write no file.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from icehouse.errors import Conflict

NETRC_LOGIN: Final = "icehouse"

_NETRC_WORDS: Final = 6

_KEY_SETTINGS: Final = frozenset({"trusted-public-keys", "extra-trusted-public-keys"})
_SETTING: Final = re.compile(r"\s*([A-Za-z0-9-]+)\s+=\s*(.*)")
_MACHINE: Final = re.compile(r"(?:^|\s)(?:machine\s+(\S+)|(default))(?=\s|$)")


def add_cache(file: Path, text: str, url: str, public_keys: Sequence[str], netrc_file: Path | None) -> str:
    """The ``nix.conf`` *text* with what is not in it yet, at its end.

    Args:
        file: its name, for messages.
        text: what the file holds.
        url: the substituter's address.
        public_keys: the keys that it signs with.
        netrc_file: where Nix is to find passwords; None: nothing is said of it.

    Raises:
        Conflict: another key of the same name is trusted already. Nix heeds the first one of a name only.
    """
    _check_no_namesake(file, text, public_keys)
    lines: list[str] = []
    if not url_is_known(text, url):
        lines.append(f"extra-substituters = {url}")
    trusted = _values(text, _KEY_SETTINGS)
    unknown = [key for key in public_keys if key not in trusted]
    if unknown:
        lines.append(f"extra-trusted-public-keys = {' '.join(unknown)}")
    if netrc_file is not None and find_netrc_file(text) is None:
        lines.append(f"netrc-file = {netrc_file}")
    if not lines:
        return text
    separator = "" if not text or text.endswith("\n") else "\n"
    return text + separator + "\n".join(lines) + "\n"


def url_is_known(text: str, url: str) -> bool:
    """Whether *text* names the substituter already, with or without a slash at its end."""
    known = _values(text, {"substituters", "extra-substituters", "binary-caches", "extra-binary-caches"})
    return url in known or f"{url}/" in known


def find_netrc_file(text: str) -> Path | None:
    """The netrc file that *text* names; the last one, as Nix takes it."""
    found = [value for name, value in _settings(text) if name == "netrc-file"]
    return Path(found[-1].strip()) if found else None


def find_netrc_token(text: str, host: str) -> str | None:
    """The token for *host* that this program wrote into the netrc *text*."""
    for words in map(str.split, text.splitlines()):
        if words[:5] == ["machine", host, "login", NETRC_LOGIN, "password"] and len(words) == _NETRC_WORDS:
            return words[5]
    return None


def merge_netrc(text: str, host: str, token: str) -> str:
    """The netrc *text* with the token for *host*. What others wrote stays.

    Raises:
        Conflict: there is a password for this host from somebody else, or one for all hosts that comes before.
    """
    own = f"machine {host} login {NETRC_LOGIN} password {token}"
    lines = text.splitlines()
    ours = [index for index, line in enumerate(lines) if line.split()[:4] == ["machine", host, "login", NETRC_LOGIN]]
    foreign = "\n".join(line for index, line in enumerate(lines) if index not in ours)
    if any(machine == host for machine, _ in _MACHINE.findall(foreign)):
        raise Conflict(
            f"the netrc file has a password for {host} already, and Nix knows one a host only: "
            f"remove that entry, or put the token into it"
        )
    kept = [line for index, line in enumerate(lines) if index not in ours]
    # Entries are searched from the top, and `default` matches every host: ours comes first.
    return "\n".join([own, *kept]) + "\n"


def _check_no_namesake(file: Path, text: str, public_keys: Sequence[str]) -> None:
    names = {key.partition(":")[0]: key for key in public_keys}
    for number, line in enumerate(text.splitlines(), 1):
        for setting, values in _settings(line):
            for key in values.split() if setting in _KEY_SETTINGS else ():
                name = key.partition(":")[0]
                if names.get(name, key) != key:
                    raise Conflict(
                        f"{file} line {number}: {setting} has another key of the name {name}, and Nix heeds the first "
                        f"of a name only; if the cache was made again, remove {key} there, and run this again"
                    )


def _settings(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        match = _SETTING.fullmatch(line.partition("#")[0])
        if match is not None:
            found.append((match[1], match[2]))
    return found


def _values(text: str, names: Collection[str]) -> set[str]:
    return {value for name, values in _settings(text) if name in names for value in values.split()}

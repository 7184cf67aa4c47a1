"""Passwords in a netrc file, as Nix finds them: by the host alone, the first that fits.

Only the lines that this program wrote are ever changed. These functions decide; they read and write no file.
"""

import re
from collections.abc import Iterable
from typing import Final

from icehouse.errors import Conflict

NETRC_LOGIN: Final = "icehouse"

_MACHINE: Final = re.compile(r"(?:^|\s)(?:machine\s+(\S+)|(default))(?=\s|$)")


def find_netrc_token(text: str, host: str) -> str | None:
    """The token for *host* that this program wrote into the netrc *text*."""
    return next((_password(line) for line in text.splitlines() if _is_ours(line, host)), None)


def merge_netrc(text: str, host: str, token: str) -> str:
    """The netrc *text* with the token for *host*. What others wrote stays.

    Raises:
        Conflict: there is a password for this host from somebody else.
    """
    foreign = remove_from_netrc(text, host)
    if any(machine == host for machine, _ in _MACHINE.findall(foreign)):
        raise Conflict(
            f"the netrc file has a password for {host} already, and Nix knows one a host only: "
            f"remove that entry, or put the token into it"
        )
    # Entries are searched from the top, and `default` matches every host: ours comes first.
    return f"machine {host} login {NETRC_LOGIN} password {token}\n{foreign}"


def remove_from_netrc(text: str, host: str) -> str:
    """The netrc *text* without what `merge_netrc` put there for *host*."""
    return "".join(_not_ours(text.splitlines(keepends=True), host))


def _not_ours(lines: Iterable[str], host: str) -> Iterable[str]:
    return (line for line in lines if not _is_ours(line, host))


def _is_ours(line: str, host: str) -> bool:
    words = line.split()
    return words[:5] == ["machine", host, "login", NETRC_LOGIN, "password"] and _password(line) is not None


def _password(line: str) -> str | None:
    match line.split():
        case [_, _, _, _, _, password]:
            return password
        case _:
            return None

"""What the user's own Nix makes of its configuration, and whether it can talk to a cache."""

import json
import os
import subprocess
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from icehouse.errors import InvalidFormat, Unavailable, Unsupported
from icehouse.nix.used_caches import UsedCache

_SECONDS: Final = 60
_MAX_MESSAGE: Final = 2000


@dataclass(frozen=True, slots=True)
class NixSettings:
    """Those settings of Nix that say where it pulls from."""

    substituters: frozenset[str]
    trusted_public_keys: frozenset[str]
    trusted_substituters: frozenset[str]
    trusted_users: tuple[str, ...]
    netrc_file: Path | None = None


def read_settings(environment: Mapping[str, str], *, is_system_only: bool = False) -> NixSettings:
    """Ask ``nix`` for its settings; with *is_system_only* as they are without the user's own files.

    Raises:
        Unsupported: there is no Nix.
        Unavailable: it failed, as where a line of a nix.conf is malformed.
        InvalidFormat: it prints what no known Nix prints.
    """
    variables = {**environment, "NIX_USER_CONF_FILES": "", "NIX_CONFIG": ""} if is_system_only else environment
    text = _run(["show-config", "--json"], variables)
    try:
        found = cast("dict[str, dict[str, Any]]", json.loads(text))
        return NixSettings(
            substituters=frozenset(found["substituters"]["value"]),
            trusted_public_keys=frozenset(found["trusted-public-keys"]["value"]),
            trusted_substituters=frozenset(found["trusted-substituters"]["value"]),
            # Of the daemon's settings; a Nix that knows nothing of one has no such setting.
            trusted_users=tuple(found.get("trusted-users", {}).get("value", ())),
            netrc_file=Path(found["netrc-file"]["value"]),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidFormat("`nix show-config --json` printed no settings that this version of icehouse knows") from exc


def ask_cache(url: str, environment: Mapping[str, str]) -> None:
    """Let Nix open the cache at *url* with its own configuration, as if it had never heard of it.

    Raises:
        Unsupported: there is no Nix.
        Unavailable: Nix cannot open the cache; the message is Nix's.
    """
    with tempfile.TemporaryDirectory(prefix="icehouse-") as folder:
        options = ["--option", "connect-timeout", "10", "--option", "download-attempts", "2"]
        _run(["store", "ping", "--store", url, *options], {**environment, "XDG_CACHE_HOME": folder})


def is_trusted(trusted_users: Sequence[str], user: str, groups: Collection[str]) -> bool:
    """Whether a daemon with these ``trusted-users`` heeds what *user*, who is in *groups*, sets."""
    return any(entry in {"*", user} or (entry[:1] == "@" and entry[1:] in groups) for entry in trusted_users)


def explain_distrust(system: NixSettings, caches: Sequence[UsedCache], nix_conf: Path) -> str | None:
    """What to tell a user whom the daemon does not trust; `None`: for these caches it does not matter.

    An untrusted user may choose among the daemon's own and its trusted substituters, and add no keys. The daemon
    compares what is written, letter by letter.

    Args:
        system: the settings without the user's files, which are the daemon's.
        caches: what the user wants to use.
        nix_conf: the daemon's.
    """
    known = system.substituters | system.trusted_substituters
    missing = [cache for cache in caches if not {cache.url, f"{cache.url}/"} & known]
    unknown_keys = [key for cache in caches for key in cache.public_keys if key not in system.trusted_public_keys]
    if not missing and not unknown_keys:
        return None
    lines = [f"extra-trusted-substituters = {' '.join(cache.url for cache in missing)}"] if missing else []
    lines += [f"extra-trusted-public-keys = {' '.join(unknown_keys)}"] if unknown_keys else []
    adding = "\n".join(f"    {line}" for line in lines)
    return (
        "This Nix has a daemon, and you are not one of its trusted-users: it ignores these caches. They work once an "
        f"administrator adds to {nix_conf}, and restarts the daemon:\n{adding}\n"
        "or runs `icehouse use … --mode root-nixconf`, which serves everybody on this machine."
    )


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    command = ["nix", "--extra-experimental-features", "nix-command", *arguments]
    try:
        done = subprocess.run(
            command, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_SECONDS
        )
    except FileNotFoundError as exc:
        raise Unsupported("the program `nix` is not in PATH, so nothing could be asked of it") from exc
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"`nix {arguments[0]}` did not end within {_SECONDS} seconds") from exc
    except OSError as exc:
        raise Unavailable(f"`nix` cannot be run: {os.strerror(exc.errno or 0)}") from exc
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()[-_MAX_MESSAGE:]
        raise Unavailable(f"`nix {' '.join(arguments[:2])}` failed: {text}")
    return done.stdout.decode(errors="replace")

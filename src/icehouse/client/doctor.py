"""Looking for what keeps a user from pushing and pulling, each finding with its remedy."""

import shutil
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from icehouse import __version__
from icehouse.api.tokens import TokenView
from icehouse.client.compatibility import compare_versions
from icehouse.client.daemon_messages import DaemonRequest, ask_daemon
from icehouse.client.daemon_places import DaemonPlaces
from icehouse.client.logins import CacheAddress, Login, Logins
from icehouse.client.narinfo_cache import find_misses, find_narinfo_caches
from icehouse.client.netrc import find_netrc_token
from icehouse.client.nix_configuration import OwnFile, find_netrc_file
from icehouse.client.nix_places import NixPlace
from icehouse.client.nix_settings import NixSettings, ask_cache, read_settings
from icehouse.client.private_files import read_text
from icehouse.client.server import connect
from icehouse.errors import Conflict, IcehouseError, NotFound, Unauthenticated, Unavailable, Unsupported
from icehouse.nix.store_paths import HashPart
from icehouse.nix.used_caches import UsedCache

_SOON_SECONDS: Final = 7 * 86_400
_CLOCK_SECONDS: Final = 120
_LOCAL_HOSTS: Final = ("127.", "localhost", "[::1]")


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    level: Level
    about: str
    """What was looked at, in a few words."""
    text: str
    remedy: str | None = None


@dataclass(slots=True)
class Findings:
    """What was found so far, and the worst error behind it."""

    findings: list[Finding] = field(default_factory=list[Finding])
    errors: list[IcehouseError] = field(default_factory=list[IcehouseError])

    def ok(self, about: str, text: str) -> None:
        """Note that something is as it should be."""
        self.findings.append(Finding(level=Level.OK, about=about, text=text))

    def note(self, about: str, text: str, remedy: str | None = None) -> None:
        """Note something that may surprise."""
        self.findings.append(Finding(level=Level.NOTE, about=about, text=text, remedy=remedy))

    def problem(self, about: str, error: IcehouseError, remedy: str) -> None:
        """Note something that will not work."""
        self.errors.append(error)
        self.findings.append(Finding(level=Level.PROBLEM, about=about, text=str(error), remedy=remedy))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where to look."""

    environment: Mapping[str, str]
    logins_file: Path
    places: tuple[NixPlace, ...]
    """The user's configuration of Nix, and the system's."""
    daemon: DaemonPlaces


def check_installation(found: Findings, surroundings: Surroundings) -> None:
    """The programs."""
    found.ok("icehouse", f"version {__version__}, Python {sys.version.split()[0]}")
    nix = shutil.which("nix", path=surroundings.environment.get("PATH"))
    if nix is None:
        found.problem("nix", Unsupported("`nix` is not in PATH"), "Install Nix, or add it to PATH.")
    else:
        found.ok("nix", nix)


async def check_login(found: Findings, surroundings: Surroundings, login: Login | None) -> None:
    """The server that the user is logged in to, the token, and the clock."""
    file = surroundings.logins_file
    if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
        found.problem(
            "login", Conflict(f"{file} can be read by other users"), f"chmod 600 {file}, and revoke its tokens."
        )
    if login is None:
        found.note("login", "no server is logged in to", "icehouse login URL, if you want to push.")
        return
    if login.url.startswith("http://") and not urlsplit(login.url).netloc.startswith(_LOCAL_HOSTS):
        found.note("TLS", f"{login.url} is not encrypted: anybody on the way can read the token", "Use https.")
    try:
        async with connect(login) as server:
            parameters = await server.parameters()
            found.ok("server", f"{login.url}, Icehouse {parameters.version}")
            _check_version(found, parameters.version)
            _check_clock(found, server.clock_difference)
            if login.token is None:
                found.note("token", "none: public caches can be read, and nothing can be pushed")
            else:
                _check_token(found, await server.show_own_token())
    except Unauthenticated as exc:
        found.problem("token", exc, f"icehouse login {login.url} --token-file FILE, with a token that is valid.")
    except IcehouseError as exc:
        found.problem("server", exc, "Is the address right, the server running, and the network there?")


def _check_version(found: Findings, server_version: str) -> None:
    fault = compare_versions(__version__, server_version)
    if fault is not None:
        found.note("version", fault, "Bring the older one up to date.")


def _check_clock(found: Findings, difference: float | None) -> None:
    if difference is None:
        return
    if abs(difference) > _CLOCK_SECONDS:
        found.problem(
            "clock",
            Conflict(f"this machine's clock differs from the server's by {difference:.0f} seconds"),
            "Set it, for instance by a time service: tokens seem expired, and certificates invalid.",
        )
    else:
        found.ok("clock", "as the server's")


def _check_token(found: Findings, view: TokenView) -> None:
    text = f"{view.description!r} may {', '.join(view.permissions)} on {view.cache_pattern}"
    left = None if view.expires_at is None else view.expires_at - int(time.time())
    if left is not None and left < _SOON_SECONDS:
        found.note("token", f"{text}, and expires in {left // 3600} hours", "Ask for a new one in time.")
    else:
        found.ok("token", text)


async def check_configuration(found: Findings, surroundings: Surroundings, logins: Logins) -> None:
    """What `icehouse use` wrote, and what Nix makes of it."""
    try:
        settings = read_settings(surroundings.environment)
    except IcehouseError as exc:
        found.problem("nix.conf", exc, "Mend what Nix complains of.")
        return
    used = 0
    for place in surroundings.places:
        try:
            text = read_text(place.own_file)
            own = OwnFile() if text is None else OwnFile.parse(place.own_file, text)
            nix_conf = read_text(place.nix_conf) or ""
        except IcehouseError as exc:
            found.problem("nix.conf", exc, "Mend or delete the file, and run `icehouse use` again.")
            continue
        used += len(own.caches)
        for cache in own.caches:
            await _check_cache(found, surroundings, settings, cache, logins)
        netrc_file = own.netrc_file or find_netrc_file(nix_conf) or place.netrc
        _check_netrc(found, netrc_file, [cache for cache in own.caches if not cache.is_public])
    if not used:
        found.note("nix.conf", "no cache is in use here", "icehouse use CACHE")


async def check_daemon(found: Findings, surroundings: Surroundings) -> None:
    """The daemon that pushes what is built, if there is one, or if a hook of ours counts on it."""
    socket = surroundings.daemon.socket
    try:
        answer = await ask_daemon(socket, DaemonRequest(verb="status"))
    except Unavailable as exc:
        if (hook := _find_hook(surroundings)) is not None:
            remedy = (
                "icehouse daemon run CACHE. What was built waits for it; that of another user is not seen from here."
            )
            found.note("daemon", f"Nix runs {hook} after each build, and {exc}", remedy)
        return
    except IcehouseError as exc:
        found.problem("daemon", exc, "icehouse daemon stop, and start it anew.")
        return
    if answer.trouble is not None:
        found.problem("daemon", Unavailable(answer.trouble), "Let its user read and write that folder.")
    for status in answer.caches:
        if status.trouble is not None:
            text = f"{status.waiting} waiting for {status.cache}: {status.trouble}"
            found.problem("daemon", Unavailable(text), "It tries again by itself once that is mended.")
        else:
            found.ok("daemon", f"{status.waiting} waiting for {status.cache}, {status.pushed} pushed")
        if status.refused:
            text = f"{status.cache} refused {status.refused} paths so far"
            found.note("daemon", "; ".join([text, *status.refusals[:1]]), "icehouse daemon status tells more.")


def _find_hook(surroundings: Surroundings) -> Path | None:
    for place in surroundings.places:
        try:
            text = read_text(place.own_file)
            own = OwnFile() if text is None else OwnFile.parse(place.own_file, text)
        except IcehouseError:
            continue  # told with the configuration
        if own.hook is not None:
            return own.hook
    return None


async def _check_cache(
    found: Findings, surroundings: Surroundings, settings: NixSettings, cache: UsedCache, logins: Logins
) -> None:
    lacking = [key for key in cache.public_keys if key not in settings.trusted_public_keys]
    if cache.url not in settings.substituters or lacking:
        found.problem(
            cache.url,
            Conflict(f"Nix does not have {lacking[0] if lacking else cache.url} among its settings"),
            f"icehouse use {cache.url}; if that changes nothing, another file or $NIX_CONFIG sets the whole list.",
        )
        return
    try:
        ask_cache(cache.url, surroundings.environment)
        server, _, name = cache.url.rpartition("/")
        async with connect(Login(server, logins.tokens.get(server))) as connection:
            view = await connection.show_cache(name)
    except IcehouseError as exc:
        found.problem(cache.url, exc, f"Is the server there? If so: icehouse use {cache.url}")
        return
    new = [key for key in view.public_keys if key not in settings.trusted_public_keys]
    if new and len(new) == len(view.public_keys):
        remedy = f"icehouse use {cache.url}, if you know why it has another one."
        found.problem(cache.url, Conflict(f"it signs with {new[0]}, which Nix does not trust"), remedy)
    elif new:
        found.note(
            cache.url, f"it has a new key, {new[0]}", f"icehouse use {cache.url}, before the old one is retired."
        )
    else:
        found.ok(cache.url, "Nix can pull from it")
    misses = find_misses(find_narinfo_caches(surroundings.environment), cache.url, now=int(time.time()))
    if misses:
        found.note(
            cache.url,
            f"Nix remembers for up to an hour that {len(misses)} paths were not there, and does not ask again",
            "If they were pushed meanwhile: nix … --refresh, or --option narinfo-cache-negative-ttl 0",
        )


def _check_netrc(found: Findings, file: Path, private: Sequence[UsedCache]) -> None:
    try:
        text = read_text(file)
    except IcehouseError as exc:
        if private:
            found.problem("netrc", exc, f"Let Nix read {file}.")
        return
    if text is not None and "icehouse" in text and stat.S_IMODE(file.stat().st_mode) & 0o077:
        found.problem(
            "netrc", Conflict(f"{file} can be read by other users"), f"chmod 600 {file}, and revoke its token."
        )
    for cache in private:
        if find_netrc_token(text or "", urlsplit(cache.url).hostname or "") is None:
            found.problem("netrc", NotFound(f"{file} has no token for {cache.url}"), f"icehouse use {cache.url}")


async def check_path(
    found: Findings, surroundings: Surroundings, hash_part: HashPart, caches: Sequence[CacheAddress]
) -> None:
    """One path in each of the caches."""
    for address in caches:
        url = f"{address.login.url}/{address.name}"
        misses = find_misses(find_narinfo_caches(surroundings.environment), url, now=int(time.time()))
        try:
            async with connect(address.login) as server:
                answer = await server.why(address.name, hash_part)
        except IcehouseError as exc:
            found.problem(url, exc, f"icehouse doctor tells more of {address.login.url}.")
            continue
        if answer.state == "visible":
            found.ok(url, answer.explanation)
        else:
            found.problem(
                url, NotFound(f"{answer.state}: {answer.explanation}"), "icehouse push, from where it was built."
            )
        if hash_part in misses:
            found.note(
                url,
                f"Nix believes for another {misses[hash_part] // 60 + 1} minutes that it is not there",
                "nix … --refresh, or --option narinfo-cache-negative-ttl 0",
            )
